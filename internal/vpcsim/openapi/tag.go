package openapi

import "terway.dev/terway/internal/vpcsim/state"

// tagActions returns the tag operations; ECS and VPC differ only in the resource types.
func tagActions() actions {
	return actions{
		"TagResources":   change(state.API.TagResources),
		"UntagResources": change(state.API.UntagResources),
		"ListTagResources": {run: func(c *call) (obj, error) {
			a := list(state.API.ListTagResources, tagPaging,
				func(t state.TagResource) string { return t.ResourceId + "\x00" + t.TagKey },
				"TagResources", "TagResource", func(t state.TagResource) obj {
					return obj{"ResourceType": t.ResourceType, "ResourceId": t.ResourceId, "TagKey": t.TagKey, "TagValue": t.TagValue}
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
