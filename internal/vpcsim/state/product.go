package state

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// product is a product of the cloud: what it adds to the common parts of a State. Its actions
// are an interface that API embeds, its resources structs that data and few embed.
type product struct {
	// complete makes missing maps: for an empty cloud, or a state of an older program.
	complete func(*data)
	// check refuses inconsistent saved resources: the other code relies on it. It may rely on
	// the checks of the products before this one.
	check func(*data) error
	// operations are the operations on its resources.
	operations map[kind]completion
	// records are its maps in many.
	records []record
	// holds calls hold with each address that its resources have: with the vSwitch of a private
	// one, and with "" for a public one. nil for the addresses of ENIs.
	holds func(d *data, hold func(vSwitchID string, a netip.Addr, holder string))
	// checked returns one of its listeners of load balancers; ok is false if there is none. nil
	// for a product without listeners.
	checked func(d *data, listenerID string) (l checked, ok bool)
	// uses returns one of its resources, beside ENIs and vSwitches, that keeps a security group or
	// a VPC from being deleted; "" if none does. nil for a product without such resources.
	uses func(d *data, id string) string
	// tagged returns its resources with tags, by the ResourceType of the tag actions in lower
	// case: those with the given ids that exist, or all if no ids are given.
	tagged map[string]func(d *data, ids []string) []taggable
	// view adds its resources, sorted by id, to a View.
	view func(*State, *View)
}

// completion completes an operation.
type completion struct {
	// exists reports whether the resource exists.
	exists func(d *data, id string) bool
	// finish does the last step. When a resource is removed, its operations are cancelled, so
	// the resource always exists.
	finish func(*State, operation)
}

// products are the products of the cloud. A product comes after those that it depends on.
var products = []product{vpcProduct, ecsProduct, slbProduct, nlbProduct}

// user returns a resource that keeps a security group or a VPC from being deleted, beside ENIs and
// vSwitches; "" if none does.
func (s *State) user(id string) string {
	for _, p := range products {
		if p.uses == nil {
			continue
		}
		if user := p.uses(&s.data, id); user != "" {
			return user
		}
	}
	return ""
}

// completionOf returns the completion of a kind; nil if no product has the kind.
func completionOf(k kind) *completion {
	for _, p := range products {
		if c, ok := p.operations[k]; ok {
			return &c
		}
	}
	return nil
}

// complete makes missing maps.
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

// check refuses an inconsistent saved state.
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

// has returns completion.exists for resources that are stored by id.
func has[T any](resources func(*data) map[string]*T) func(*data, string) bool {
	return func(d *data, id string) bool { return resources(d)[id] != nil }
}

// tagged returns product.tagged for resources that are stored by id.
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

// View returns a copy of all that a data plane needs, each list sorted by id.
func (s *State) View() *View {
	view := &View{Revision: s.data.Revision, RegionId: s.options.RegionId, OwnerId: s.options.OwnerId, TypeBandwidth: s.data.TypeBandwidth}
	for _, p := range products {
		p.view(s, view)
	}
	slices.SortFunc(view.Balancers, func(a, b Balancer) int { return strings.Compare(a.LoadBalancerId, b.LoadBalancerId) })
	return view
}

// appendShown appends copies of resources to a view, sorted by id.
func appendShown[T, U any](list []U, resources map[string]*T, show func(*T) U) []U {
	list = slices.Grow(list, len(resources))
	for _, id := range sortedKeys(resources) {
		list = append(list, show(resources[id]))
	}
	return list
}
