package routing

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/netlinkx"
)

// Rules and the ENIs' tables. Their number depends only on the ENIs.

// eniRoutes returns the routes of one ENI's table: its gateway, and after it a route that stops
// packets which would otherwise continue to the main table and leave by an ENI that does not have
// the source address.
func eniRoutes(eni datapath.ENI, s ENI) []netlink.Route {
	var routes []netlink.Route
	for _, f := range netlinkx.Families {
		gw := netlinkx.OfFamily(eni.Gateways, f)
		if !gw.IsValid() {
			continue
		}
		table := claims.TableLocal + s.Slot
		routes = append(routes,
			netlink.Route{Family: f, Table: table, Protocol: claims.Protocol, Type: unix.RTN_UNICAST, Dst: netlinkx.DefaultNet(f),
				LinkIndex: s.Index, Gw: gw.AsSlice(), Flags: int(netlink.FLAG_ONLINK)},
			netlink.Route{Family: f, Table: table, Protocol: claims.Protocol, Type: unix.RTN_UNREACHABLE, Dst: netlinkx.DefaultNet(f),
				Priority: claims.MetricUnreachable})
	}
	return routes
}

// sameRoute compares what we set; the kernel adds more.
func sameRoute(have, want netlink.Route) bool {
	if have.Table != want.Table || have.Type != want.Type || have.Family != want.Family || !netlinkx.IsDefault(have) {
		return false
	}
	if want.Type == unix.RTN_UNREACHABLE {
		return have.Priority == want.Priority
	}
	return have.LinkIndex == want.LinkIndex && have.Gw.Equal(want.Gw)
}

// RouteText formats a route.
func RouteText(r netlink.Route) string {
	if r.Type == unix.RTN_UNREACHABLE {
		return fmt.Sprintf("%s unreachable default in table %d", netlinkx.FamilyName(r.Family), r.Table)
	}
	dst := "default"
	if a := netlinkx.HostDst(r); a.IsValid() {
		dst = a.String()
	}
	if r.Gw != nil {
		dst += " via " + r.Gw.String()
	}
	return fmt.Sprintf("route %s in table %d", dst, r.Table)
}

// reconcile adds what is missing and removes what is left, and goes on after an error. It returns what
// it did.
func reconcile[T any](text func(T) string, missing []T, add func(T) error, left []T, remove func(T) error) (repairs []string, err error) {
	var errs []error
	for _, x := range missing {
		if err := add(x); err != nil {
			errs = append(errs, fmt.Errorf("add %s: %w", text(x), err))
			continue
		}
		repairs = append(repairs, "added "+text(x))
	}
	for _, x := range left {
		if err := remove(x); err != nil && !netlinkx.Gone(err) {
			errs = append(errs, fmt.Errorf("remove %s: %w", text(x), err))
			continue
		}
		repairs = append(repairs, "removed "+text(x))
	}
	return repairs, errors.Join(errs...)
}

// changeRoutes is reconcile for routes.
func changeRoutes(h *netlink.Handle, missing, left []netlink.Route) ([]string, error) {
	return reconcile(RouteText, missing, func(r netlink.Route) error { return h.RouteReplace(&r) }, left, func(r netlink.Route) error { return h.RouteDel(&r) })
}

// ensureTables adds missing routes of the ENIs' tables and, with prune, removes ours of no ENI.
// have are all our routes as listed before.
func ensureTables(h *netlink.Handle, node datapath.Node, enis map[string]ENI, have []netlink.Route, prune bool) ([]string, error) {
	var want, missing, left []netlink.Route
	for _, eni := range node.ENIs {
		if s, ok := enis[Key(eni.MAC)]; ok {
			want = append(want, eniRoutes(eni, s)...)
		}
	}
	for _, w := range want {
		if !slices.ContainsFunc(have, func(r netlink.Route) bool { return sameRoute(r, w) }) {
			missing = append(missing, w)
		}
	}
	for _, r := range have {
		if prune && r.Table != claims.TableLocal && !slices.ContainsFunc(want, func(w netlink.Route) bool {
			// A replaced route (same table and metric) is gone already.
			return sameRoute(r, w) || r.Table == w.Table && r.Family == w.Family && r.Type == w.Type && netlinkx.IsDefault(r)
		}) {
			left = append(left, r)
		}
	}
	return changeRoutes(h, missing, left)
}

// ruleKey identifies one of our rules.
type ruleKey struct {
	family, priority int
	table            int
	mark, mask       uint32
	iif              string
}

func (k ruleKey) String() string {
	s := fmt.Sprintf("%s rule %d", netlinkx.FamilyName(k.family), k.priority)
	if k.mask != 0 {
		s += fmt.Sprintf(" fwmark %#x/%#x", k.mark, k.mask)
	}
	if k.iif != "" {
		s += " iif " + k.iif
	}
	if k.table == 0 {
		return s + " unreachable"
	}
	return s + fmt.Sprintf(" lookup %d", k.table)
}

func keyOf(r netlink.Rule, family int) ruleKey {
	k := ruleKey{family: family, priority: r.Priority, mark: r.Mark, iif: r.IifName}
	if r.Table > 0 {
		k.table = r.Table
	}
	if r.Mask != nil {
		k.mask = *r.Mask
	}
	return k
}

func (k ruleKey) rule() *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Protocol, r.IifName = k.family, k.priority, claims.Protocol, k.iif
	if k.mask != 0 {
		mask := k.mask
		r.Mark, r.Mask = k.mark, &mask
	}
	if k.table == 0 {
		r.Type = unix.RTN_UNREACHABLE
	} else {
		r.Table = k.table
	}
	return r
}

// wantedRules returns the rules of a node, in the order in which they may be added: a rule comes
// after the routes to which it leads.
func wantedRules(families []int, enis map[string]ENI) []ruleKey {
	var want []ruleKey
	for _, f := range families {
		want = append(want,
			ruleKey{family: f, priority: claims.RulePriorityLocal, table: claims.TableLocal},
			ruleKey{family: f, priority: claims.RulePriorityENI, mark: claims.MarkOf(claims.SlotStranded), mask: claims.MarkMask})
		for _, mac := range slices.Sorted(maps.Keys(enis)) {
			s := enis[mac]
			want = append(want,
				ruleKey{family: f, priority: claims.RulePriorityENI, mark: claims.MarkOf(s.Slot), mask: claims.MarkMask, table: claims.TableLocal + s.Slot},
				ruleKey{family: f, priority: claims.RulePriorityStray, iif: s.Device})
			for _, name := range s.Receivers {
				want = append(want, ruleKey{family: f, priority: claims.RulePriorityStray, iif: name})
			}
		}
	}
	return want
}

func ownRules(ctx context.Context, h *netlink.Handle) (map[ruleKey]bool, error) {
	own := map[ruleKey]bool{}
	for _, f := range netlinkx.Families {
		rules, err := netlinkx.List(ctx, netlinkx.FamilyName(f)+" rules", func() ([]netlink.Rule, error) { return h.RuleList(f) })
		if netlinkx.NoFamily(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			if r.Protocol != claims.Protocol {
				continue
			}
			switch r.Priority {
			case claims.RulePriorityLocal, claims.RulePriorityStray, claims.RulePriorityENI:
				own[keyOf(r, f)] = true
			}
		}
	}
	return own, nil
}

func ensureRules(ctx context.Context, h *netlink.Handle, families []int, enis map[string]ENI, prune bool) ([]string, error) {
	have, err := ownRules(ctx, h)
	if err != nil {
		return nil, err
	}
	var missing, left []ruleKey
	for _, k := range wantedRules(families, enis) {
		if !have[k] {
			missing = append(missing, k)
		}
		delete(have, k)
	}
	if prune {
		left = slices.SortedFunc(maps.Keys(have), func(a, b ruleKey) int { return strings.Compare(a.String(), b.String()) })
	}
	return changeRules(h, missing, left)
}

// changeRules is reconcile for rules.
func changeRules(h *netlink.Handle, missing, left []ruleKey) ([]string, error) {
	add := func(k ruleKey) error {
		if err := h.RuleAdd(k.rule()); !errors.Is(err, unix.EEXIST) {
			return err
		}
		return nil
	}
	return reconcile(ruleKey.String, missing, add, left, func(k ruleKey) error { return h.RuleDel(k.rule()) })
}

// Supported returns what the kernel lacks for the rules, or nil. It makes a rule in a namespace
// that was made for the test.
func Supported(h *netlink.Handle) error {
	want := ruleKey{family: netlink.FAMILY_V4, priority: claims.RulePriorityLocal, table: claims.TableLocal}
	if err := h.RuleAdd(want.rule()); err != nil {
		return datapath.Lacks("policy routing (CONFIG_IP_MULTIPLE_TABLES)", err, unix.EOPNOTSUPP, unix.EAFNOSUPPORT)
	}
	rules, err := h.RuleList(netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list the rules of the test: %w", err)
	}
	// An older kernel ignores an attribute that it does not know.
	if !slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.Priority == want.priority && r.Protocol == claims.Protocol }) {
		return &datapath.UnsupportedError{Feature: "the origin of routing rules (FRA_PROTOCOL, Linux 4.17)", Err: errors.New("a rule comes back without it")}
	}
	return nil
}
