package state

import (
	"fmt"
	"slices"
)

// product is one product of the cloud: what it adds to what every State does.
// Its actions are an interface that API embeds, its resources structs that data and
// few embed.
type product struct {
	// complete makes the maps that are missing: those of an empty cloud, and those
	// that the program that saved the state did not know.
	complete func(*data)
	// check refuses saved resources that do not fit together: what follows relies on
	// it. It may rely on the products before this one.
	check func(*data) error
	// operations are those on its resources.
	operations map[kind]completion
	// tagged finds its resources that bear tags, by the tag actions' ResourceType in
	// small letters: those with the given ids that exist, or all when none is given.
	tagged map[string]func(d *data, ids []string) []taggable
	// view adds its resources, sorted by id, to a View.
	view func(*State, *View)
}

// completion is the end of an operation.
type completion struct {
	// exists reports whether the resource is there.
	exists func(d *data, id string) bool
	// finish does the last step. A resource that is gone meanwhile had its operations
	// cancelled, so each look-up finds what it looks for.
	finish func(*State, operation)
}

// products are those that the cloud has. A product comes after those that it builds on.
var products = []product{vpcProduct, ecsProduct}

// completionOf finds the end of an operation; nil for a kind that no product has.
func completionOf(k kind) *completion {
	for _, p := range products {
		if c, ok := p.operations[k]; ok {
			return &c
		}
	}
	return nil
}

// complete makes the maps that are missing.
func (d *data) complete() {
	ensure(&d.Tokens)
	for _, p := range products {
		p.complete(d)
	}
}

func ensure[K comparable, V any](m *map[K]V) {
	if *m == nil {
		*m = map[K]V{}
	}
}

// check refuses a saved state whose parts do not fit together.
func (d *data) check() error {
	for _, p := range products {
		if err := p.check(d); err != nil {
			return err
		}
	}
	for _, o := range d.Operations {
		c := completionOf(o.Kind)
		if c == nil {
			return broken("operation", string(o.Kind), "on "+o.ID+" is of a kind that this program does not know")
		}
		if !c.exists(d, o.ID) {
			return broken("operation", string(o.Kind), "is about "+o.ID+", which does not exist")
		}
	}
	return nil
}

func broken(what, id, why string) error {
	return fmt.Errorf("the saved state is broken: %s %s %s; start with an empty state directory", what, id, why)
}

// has is a completion's exists for resources that are kept by id.
func has[T any](resources func(*data) map[string]*T) func(*data, string) bool {
	return func(d *data, id string) bool { return resources(d)[id] != nil }
}

// tagged makes a product's finder of resources that are kept by id.
func tagged[T any](resources func(*data) map[string]*T, tags func(*T) *[]Tag) func(*data, []string) []taggable {
	return func(d *data, ids []string) []taggable {
		byID := resources(d)
		if len(ids) == 0 {
			ids = sortedKeys(byID)
		} else {
			ids = distinct(ids)
		}
		all := make([]taggable, 0, len(ids))
		for _, id := range ids {
			if r, ok := byID[id]; ok {
				all = append(all, taggable{id, tags(r)})
			}
		}
		return all
	}
}

// View is a copy of all that a data plane needs, each list by id.
func (s *State) View() *View {
	view := &View{Revision: s.data.Revision, RegionId: s.options.RegionId, OwnerId: s.options.OwnerId}
	for _, p := range products {
		p.view(s, view)
	}
	return view
}

// appendShown appends copies of resources to a view, by id.
func appendShown[T, U any](list []U, resources map[string]*T, show func(*T) U) []U {
	list = slices.Grow(list, len(resources))
	for _, id := range sortedKeys(resources) {
		list = append(list, show(resources[id]))
	}
	return list
}
