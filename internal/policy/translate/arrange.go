package translate

import (
	"cmp"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy"
)

// The tiers that always exist, as in Calico, whether or not there are Tier objects of these
// names. Users can add tiers between them.
const (
	TierAdmin    = "kube-admin"    // ClusterNetworkPolicies with tier Admin
	TierDefault  = "default"       // NetworkPolicies, and Calico policies without a tier
	TierBaseline = "kube-baseline" // ClusterNetworkPolicies with tier Baseline
)

// KubernetesOrder is the order of NetworkPolicies in TierDefault, as in Calico: policies with a
// lower order come before them, those with a higher order after.
const KubernetesOrder = 1000

// TierProbes is the tier that Options.AllowLoadBalancerProbes adds before all others.
const TierProbes = "load-balancer-probes"

// SettingProbes is the key of the cluster's configuration that is Options.AllowLoadBalancerProbes.
const SettingProbes = "policy_allow_load_balancer_probes"

// LoadBalancerProbes is where the health checks of Alibaba Cloud's load balancers are from.
var LoadBalancerProbes = netip.MustParsePrefix("100.64.0.0/10")

// Options are settings of a cluster that are not objects.
type Options struct {
	// AllowLoadBalancerProbes: every pod may be reached from LoadBalancerProbes, whatever policies
	// say. Without it only rules allow that.
	AllowLoadBalancerProbes bool
}

// A Placed is a policy with its tier and order.
type Placed struct {
	Policy policy.Policy
	Tier   string
	// Order within the tier, the lowest first; +Inf: last.
	Order float64
}

// fieldTier is the field of the tier in a policy of this kind.
const fieldTier = "spec.tier"

// A PlacedTier is a tier without its policies, and its place.
type PlacedTier struct {
	policy.Tier
	// Order among the tiers, the lowest first; +Inf: last.
	Order float64
}

// Builtin returns the objects of the tiers that always exist.
func Builtin() []*v3.Tier {
	one := func(name string, order float64, action v3.DefaultAction) *v3.Tier {
		return &v3.Tier{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v3.TierSpec{Order: &order, DefaultAction: &action}}
	}
	return []*v3.Tier{
		one(TierAdmin, 1_000, v3.DefaultPass),
		one(TierDefault, 1_000_000, v3.DefaultDeny),
		one(TierBaseline, 10_000_000, v3.DefaultPass),
	}
}

// read converts a Tier.
func (r *report) read(t *v3.Tier) *PlacedTier {
	out := &PlacedTier{policy.Tier{Name: t.Name, Default: policy.Deny}, math.Inf(1)}
	if t.Spec.Order != nil {
		out.Order = *t.Spec.Order
	}
	if a := t.Spec.DefaultAction; a != nil {
		switch *a {
		case v3.DefaultDeny:
		case v3.DefaultPass:
			out.Default = policy.Pass
		default:
			r.refuse("spec.defaultAction", *a, "Deny or Pass")
		}
	}
	return out
}

// BuiltinTiers are the tiers that are always there, as no object can change them.
func BuiltinTiers() (list []*PlacedTier) {
	for _, t := range Builtin() {
		list = append(list, (&report{}).read(t))
	}
	return list
}

// Tier translates a Tier. nil if it is refused, or if it is one of those that are always there.
func Tier(object *v3.Tier) (*PlacedTier, []Note) {
	r := &report{ref: policy.Ref{Kind: KindTier, Name: object.Name}}
	t := r.read(object)
	for _, ours := range BuiltinTiers() {
		if ours.Name != t.Name {
			continue
		}
		if t.Order != ours.Order {
			r.note(Partly, "spec.order", t.Order, "this tier's order is always "+formatOrder(ours.Order))
		}
		if t.Default != ours.Default {
			r.note(Partly, "spec.defaultAction", t.Default, "this tier's default action is always "+ours.Default.String())
		}
		return nil, r.notes
	}
	if t.Name == TierProbes {
		r.refuse("metadata.name", t.Name, "another name: this one is used for "+SettingProbes)
	}
	if r.refused() {
		return nil, r.notes
	}
	return t, r.notes
}

// NoTier is the Note of a policy whose tier is not there: it is not applied.
func NoTier(p *Placed) Note {
	r := report{ref: p.Policy.Ref}
	r.refuse(fieldTier, p.Tier, "the name of a Tier that is there; until it is, the policy is not applied")
	return r.notes[0]
}

// CompareTiers orders tiers: by order, then by name.
func CompareTiers(a, b *PlacedTier) int {
	return cmp.Or(cmp.Compare(a.Order, b.Order), strings.Compare(a.Name, b.Name))
}

// ComparePolicies orders the policies of a tier: by order, then by name without the tier's ("default.x" is
// "x"), namespace and kind. No two objects are equal.
func ComparePolicies(a, b *Placed) int {
	x, y := a.Policy.Ref, b.Policy.Ref
	return cmp.Or(
		cmp.Compare(a.Order, b.Order),
		strings.Compare(bare(x.Name, a.Tier), bare(y.Name, b.Tier)),
		strings.Compare(x.Namespace, y.Namespace),
		strings.Compare(x.Kind, y.Kind),
		strings.Compare(x.Name, y.Name),
	)
}

// Arrange puts policies into tiers and sorts them (CompareTiers, ComparePolicies). Tiers without
// policies are left out. The Notes are about tiers that differ from their objects, and about
// policies whose tier does not exist.
func Arrange(policies []Placed, tiers []*v3.Tier, o Options) (policy.Set, []Note) {
	var notes []Note
	all := map[string]*PlacedTier{}
	for _, t := range BuiltinTiers() {
		all[t.Name] = t
	}
	for _, object := range tiers {
		t, more := Tier(object)
		if t != nil {
			all[t.Name] = t
		}
		notes = append(notes, more...)
	}
	ingress := false
	in := map[*PlacedTier][]*Placed{}
	for i := range policies {
		p := &policies[i]
		t := all[p.Tier]
		if t == nil {
			notes = append(notes, NoTier(p))
			continue
		}
		in[t] = append(in[t], p)
		ingress = ingress || p.Policy.Directions[policy.Ingress]
	}
	var set policy.Set
	if ingress && o.AllowLoadBalancerProbes {
		set.Tiers = append(set.Tiers, Probes())
	}
	for _, t := range slices.SortedFunc(maps.Keys(in), CompareTiers) {
		list := in[t]
		slices.SortFunc(list, ComparePolicies)
		tier := t.Tier
		for _, p := range list {
			tier.Policies = append(tier.Policies, p.Policy)
		}
		set.Tiers = append(set.Tiers, tier)
	}
	return set, notes
}

// bare returns a policy's name without the prefix of its tier, which Calico up to 3.31
// requires.
func bare(name, tier string) string { return strings.TrimPrefix(name, tier+".") }

// Probes returns the tier that allows the load balancers' health checks. It comes before all
// others, if Options.AllowLoadBalancerProbes is set and a policy selects pods for ingress.
func Probes() policy.Tier {
	p := policy.Policy{
		Ref:        policy.Ref{Kind: KindSetting, Name: SettingProbes},
		Directions: [2]bool{policy.Ingress: true},
	}
	p.Rules[policy.Ingress] = []policy.Rule{{
		Action: policy.Allow,
		Peers:  []policy.Match{{In: []policy.AddrSet{{Nets: []netip.Prefix{LoadBalancerProbes}}}}},
	}}
	return policy.Tier{Name: TierProbes, Default: policy.Pass, Policies: []policy.Policy{p}}
}
