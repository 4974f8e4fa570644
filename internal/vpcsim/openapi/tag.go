package openapi

import (
	"strings"

	"terway.dev/terway/internal/vpcsim/state"
)

// tagActions returns the tag operations; wrap is list's. The state knows the resource types of
// ECS and VPC by their names, and those of the other products with a prefix, because ECS and
// SLB both have an "instance". Of all products only NLB's actions have DryRun.
func tagActions(prefix, wrap string) actions {
	prefixed := func(resourceType string) string {
		if resourceType == "" {
			return ""
		}
		return prefix + resourceType
	}
	return actions{
		"TagResources": change(func(api state.API, r state.TagResourcesRequest) error {
			r.ResourceType, r.DryRun = prefixed(r.ResourceType), r.DryRun && prefix == nlbPrefix
			return api.TagResources(r)
		}),
		"UntagResources": change(func(api state.API, r state.UntagResourcesRequest) error {
			r.ResourceType, r.DryRun = prefixed(r.ResourceType), r.DryRun && prefix == nlbPrefix
			return api.UntagResources(r)
		}),
		"ListTagResources": {run: func(c *call) (obj, error) {
			a := list(func(api state.API, r state.ListTagResourcesRequest) ([]state.TagResource, error) {
				r.ResourceType = prefixed(r.ResourceType)
				return api.ListTagResources(r)
			}, tagPaging,
				func(t state.TagResource) string { return t.ResourceId + "\x00" + t.TagKey },
				"TagResources", wrap, func(t state.TagResource) obj {
					return obj{
						"ResourceType": strings.TrimPrefix(t.ResourceType, prefix), "ResourceId": t.ResourceId,
						"TagKey": t.TagKey, "TagValue": t.TagValue,
					}
				})
			o, err := a.run(c)
			if err != nil {
				return nil, err
			}
			return o.only("TagResources", "NextToken"), nil
		}},
	}
}

// ecsTags and vpcTags differ in the names that they repeat.
func ecsTags(tags []state.Tag) obj {
	return in("Tag", func(t state.Tag) obj {
		return obj{"Key": t.Key, "Value": t.Value, "TagKey": t.Key, "TagValue": t.Value}
	}, tags)
}

func vpcTags(tags []state.Tag) obj {
	return in("Tag", func(t state.Tag) obj { return obj{"Key": t.Key, "Value": t.Value} }, tags)
}
