package state

import (
	"slices"
	"strings"
)

// Tag is a key and value on a resource.
type Tag struct {
	Key   string
	Value string
}

// TagResource is one tag on one resource, as ListTagResources lists them.
type TagResource struct {
	ResourceType string
	ResourceId   string
	TagKey       string
	TagValue     string
}

// TagResourcesRequest has the parameters of TagResources (ECS and VPC). The ResourceTypes of
// ECS are instance, eni, securitygroup; those of VPC are VPC, VSWITCH, ROUTETABLE; the case is
// ignored.
type TagResourcesRequest struct {
	DryRun       bool
	ResourceType string
	ResourceId   []string
	Tag          []Tag
}

// UntagResourcesRequest has the parameters of UntagResources.
type UntagResourcesRequest struct {
	DryRun       bool
	ResourceType string
	ResourceId   []string
	TagKey       []string
	All          bool
}

// ListTagResourcesRequest has the parameters of ListTagResources.
type ListTagResourcesRequest struct {
	ResourceType string
	ResourceId   []string
	Tag          []Tag
}

// maxTagsPerCall is the maximum number of tags in one call.
const maxTagsPerCall = 20

// checkTags returns an error if a resource with the tags old may not get the tags more.
func (s *State) checkTags(old, more []Tag) error {
	keys := map[string]bool{}
	for _, t := range old {
		keys[t.Key] = true
	}
	seen := map[string]bool{}
	for _, t := range more {
		switch {
		case t.Key == "" || len(t.Key) > 128 || badTagText(t.Key):
			return badRequest("InvalidTagKey.Malformed", "The specified Tag.n.Key is not valid: %q, expected 1 to 128 characters, not beginning with \"aliyun\" or \"acs:\" and without \"http://\" or \"https://\".", t.Key)
		case len(t.Value) > 128 || strings.Contains(t.Value, "http://") || strings.Contains(t.Value, "https://"):
			return badRequest("InvalidTagValue.Malformed", "The specified Tag.n.Value is not valid: %q, expected at most 128 characters without \"http://\" or \"https://\".", t.Value)
		case seen[t.Key]:
			return badRequest("Duplicate.TagKey", "The Tag.N.Key contain duplicate key %q.", t.Key)
		}
		seen[t.Key], keys[t.Key] = true, true
	}
	if len(more) > maxTagsPerCall {
		return badRequest("NumberExceed.Tags", "The Tags parameter's number is exceed , Valid : 20")
	}
	if len(keys) > s.options.Limits.TagsPerResource {
		return badRequest("OperationDenied.QuotaExceed", "The quota of tags on resource is beyond permitted range: %d.", s.options.Limits.TagsPerResource)
	}
	return nil
}

func badTagText(s string) bool {
	lower := strings.ToLower(s)
	return strings.HasPrefix(lower, "aliyun") || strings.HasPrefix(lower, "acs:") ||
		strings.Contains(lower, "http://") || strings.Contains(lower, "https://")
}

// taggable is a resource as the tag actions see it.
type taggable struct {
	id   string
	tags *[]Tag
}

// taggables returns the resources of a type by id: those with the given ids that exist, or all
// if no ids are given.
func (s *State) taggables(resourceType string, ids []string) ([]taggable, error) {
	if resourceType == "" {
		return nil, notFound("MissingParameter.ResourceType", "The parameter - ResourceType should not be null")
	}
	for _, p := range products {
		if find := p.tagged[strings.ToLower(resourceType)]; find != nil {
			return find(&s.data, ids), nil
		}
	}
	return nil, notFound("InvalidResourceType.NotFound", "The ResourceType provided does not exist in our records: %q.", resourceType)
}

// retag changes a resource's tags.
func (s *State) retag(r taggable, change func()) {
	if eni, ok := s.data.NetworkInterfaces[r.id]; ok {
		s.alter(eni, change)
		return
	}
	s.touch(r.id)
	change()
}

// named returns the resources with the given ids.
func named(all []taggable, ids []string) ([]taggable, error) {
	if len(ids) == 0 {
		return nil, notFound("MissingParameter.ResourceIds", "The parameter - ResourceIds should not be null")
	}
	if len(ids) > 50 {
		return nil, badRequest("NumberExceed.ResourceIds", "The ResourceIds parameter's number is exceed , Valid : 50")
	}
	var picked []taggable
	for _, id := range ids {
		i := slices.IndexFunc(all, func(t taggable) bool { return t.id == id })
		if i < 0 {
			return nil, notFound("InvalidResourceId.NotFound", "The specified ResourceIds are not found in our records: %q.", id)
		}
		picked = append(picked, all[i])
	}
	return picked, nil
}

// TagResources sets tags on resources, all or none.
func (s *State) TagResources(req TagResourcesRequest) error {
	all, err := s.taggables(req.ResourceType, req.ResourceId)
	if err != nil {
		return err
	}
	picked, err := named(all, req.ResourceId)
	if err != nil {
		return err
	}
	if len(req.Tag) == 0 {
		return notFound("MissingParameter.Tags", "The parameter - Tags should not be null")
	}
	for _, r := range picked {
		if err := s.checkTags(*r.tags, req.Tag); err != nil {
			return err
		}
	}
	if req.DryRun {
		return dryRun()
	}
	for _, r := range picked {
		s.retag(r, func() {
			for _, tag := range req.Tag {
				i := slices.IndexFunc(*r.tags, func(t Tag) bool { return t.Key == tag.Key })
				if i >= 0 {
					(*r.tags)[i] = tag
				} else {
					*r.tags = append(*r.tags, tag)
				}
			}
		})
	}
	s.changed()
	return nil
}

// UntagResources removes tags from resources.
func (s *State) UntagResources(req UntagResourcesRequest) error {
	all, err := s.taggables(req.ResourceType, req.ResourceId)
	if err != nil {
		return err
	}
	picked, err := named(all, req.ResourceId)
	if err != nil {
		return err
	}
	if len(req.TagKey) == 0 && !req.All {
		return notFound("MissingParameter.TagKeys", "Either TagKey.N or All must be given.")
	}
	if req.DryRun {
		return dryRun()
	}
	for _, r := range picked {
		s.retag(r, func() {
			*r.tags = slices.DeleteFunc(*r.tags, func(t Tag) bool {
				return slices.Contains(req.TagKey, t.Key) || len(req.TagKey) == 0
			})
			if len(*r.tags) == 0 {
				*r.tags = nil
			}
		})
	}
	s.changed()
	return nil
}

// ListTagResources lists the tags of the resources of a type that have the given
// ids and all of the given tags.
func (s *State) ListTagResources(req ListTagResourcesRequest) ([]TagResource, error) {
	all, err := s.taggables(req.ResourceType, req.ResourceId)
	if err != nil {
		return nil, err
	}
	found := []TagResource{}
	for _, r := range all {
		if !hasTags(req.Tag, *r.tags) {
			continue
		}
		for _, t := range *r.tags {
			found = append(found, TagResource{ResourceType: req.ResourceType, ResourceId: r.id, TagKey: t.Key, TagValue: t.Value})
		}
	}
	return found, nil
}
