package nodenetwork

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	"terway.dev/terway/internal/answers"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/ipam"
)

const (
	// freshFor is how long the free addresses of vSwitches are used before they are read again. In
	// between, the controller subtracts what it takes.
	freshFor = 30 * time.Second
	// askAgain is how soon a VPC is queried again for a vSwitch that did not exist.
	askAgain = 5 * time.Second
)

// vswitches caches the vSwitches of the VPCs: their ranges, their free addresses, and which are
// full. A VPC's vSwitches are one list of few pages, however many are configured.
type vswitches struct {
	now  func() time.Time
	park time.Duration
	vpcs *answers.Cache[string, listed]

	mu     sync.Mutex
	known  map[string]cloud.VSwitch
	parked map[string]time.Time // until when
	// promises are how many more addresses each node's ENIs can take, by vSwitch; promised is the
	// sum.
	promises map[string]map[string]int
	promised map[string]int
	// short are the nodes on which pods wait for an address of a full vSwitch.
	short map[string]map[string]bool
	// look requests a reconcile of a node.
	look func(node string)
}

// listed are the vSwitches of a VPC at the time of the answer.
type listed struct {
	ids map[string]bool
	at  time.Time
}

func newVSwitches(o *Options, look func(node string)) *vswitches {
	v := &vswitches{now: o.Now, park: o.Park, known: map[string]cloud.VSwitch{}, parked: map[string]time.Time{},
		promises: map[string]map[string]int{}, promised: map[string]int{}, short: map[string]map[string]bool{}, look: look}
	v.vpcs = answers.New(answers.Options[string, listed]{
		Ask: func(ctx context.Context, vpcs []string) (map[string]listed, error) {
			list, err := o.Cloud.ListVSwitches(ctx, vpcs[0])
			if err != nil {
				return nil, fmt.Errorf("list the vSwitches of VPC %s: %w", vpcs[0], err)
			}
			return map[string]listed{vpcs[0]: v.learn(list)}, nil
		},
		Life: freshFor, Retry: askRetry, Timeout: askTimeout, Now: o.Now, Go: o.Go,
	})
	return v
}

func (v *vswitches) learn(list []cloud.VSwitch) listed {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := listed{ids: map[string]bool{}, at: v.now()}
	for _, s := range list {
		v.known[s.ID], l.ids[s.ID] = s, true
	}
	return l
}

// get returns vSwitches of a VPC in the order of ids, as far as they are known; it does not wait. A
// vSwitch that does not exist has no address.
func (v *vswitches) get(vpc string, ids []string) []ipam.VSwitch {
	l, ok := v.vpcs.Peek(vpc)
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []ipam.VSwitch
	for _, id := range ids {
		x := ipam.VSwitch{ID: id, Parked: v.now().Before(v.parked[id]), Unknown: !ok, Promised: v.promised[id]}
		if l.ids[id] {
			x.Available = v.known[id].Available
		}
		out = append(out, x)
	}
	return out
}

// asking reports whether a VPC's vSwitches are being read, because the figures are old or unknown.
// It returns an error if nothing is known and the last query failed.
func (v *vswitches) asking(vpc string) (bool, error) {
	now, err := v.vpcs.Asking(vpc)
	if _, known := v.vpcs.Known(vpc); known || now {
		return now, nil
	}
	return false, err
}

// review reads every vSwitch again: one that did not exist may exist now. Full ones stay parked,
// whatever is configured.
func (v *vswitches) review() { v.vpcs.ExpireAll() }

// useless returns those of the ids that can serve no node of the zone, with the reason.
func (v *vswitches) useless(vpc string, ids []string, zone string) []string {
	l, ok := v.vpcs.Known(vpc)
	if !ok {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []string
	for _, id := range ids {
		switch s := v.known[id]; {
		case !l.ids[id]:
			out = append(out, id+" does not exist in VPC "+vpc)
		case s.Zone != zone:
			out = append(out, id+" is in zone "+s.Zone)
		}
	}
	return out
}

// configured returns those of the vSwitches, by zone, that are known. Figures that are old are read again
// beside this call.
func (v *vswitches) configured(zones map[string][]string) (out []cloud.VSwitch) {
	vpcs := map[string]bool{}
	v.mu.Lock()
	for _, ids := range zones {
		for _, id := range ids {
			if s, ok := v.known[id]; ok {
				vpcs[s.VPCID] = true
			}
		}
	}
	v.mu.Unlock()
	listed := map[string]bool{}
	for vpc := range vpcs {
		if l, ok := v.vpcs.Peek(vpc); ok {
			maps.Copy(listed, l.ids)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, ids := range zones {
		for _, id := range ids {
			if listed[id] {
				out = append(out, v.known[id])
				delete(listed, id) // a series has its labels once
			}
		}
	}
	return out
}

// ranges returns a vSwitch's ranges and gateways, IPv4 first.
func (v *vswitches) ranges(ctx context.Context, vpc, id string) (cidrs, gateways []string, err error) {
	s, ok := v.vSwitch(id)
	if !ok {
		if l, asked := v.vpcs.Known(vpc); asked && v.now().Sub(l.at) >= askAgain {
			v.vpcs.Expire(vpc)
		}
		if _, err := v.vpcs.Renew(ctx, vpc); err != nil {
			return nil, nil, err
		}
		if s, ok = v.vSwitch(id); !ok {
			return nil, nil, &cloud.Error{Action: "DescribeVSwitches", Class: cloud.NotFound, Message: "VPC " + vpc + " has no vSwitch " + id}
		}
	}
	return []string{s.CIDR.String()}, []string{gateway(s.CIDR).String()}, nil
}

func (v *vswitches) vSwitch(id string) (cloud.VSwitch, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s, ok := v.known[id]
	return s, ok
}

// take subtracts n free addresses.
func (v *vswitches) take(id string, n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count(id, -n)
}

// giveBack counts n addresses that the cloud has taken back. A vSwitch that was full has these
// now: as many of the nodes that wait for one look again.
func (v *vswitches) giveBack(id string, n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count(id, n)
	delete(v.parked, id)
	for node := range v.short[id] {
		if n--; n < 0 {
			return
		}
		delete(v.short[id], node)
		v.look(node)
	}
}

func (v *vswitches) count(id string, n int) {
	if s, ok := v.known[id]; ok {
		s.Available = max(0, s.Available+n)
		v.known[id] = s
	}
}

// wait records in which full vSwitches a node needs addresses for waiting pods, replacing the last
// record.
func (v *vswitches) wait(node string, ids []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, nodes := range v.short {
		if delete(nodes, node); len(nodes) == 0 {
			delete(v.short, id)
		}
	}
	for _, id := range ids {
		if v.short[id] == nil {
			v.short[id] = map[string]bool{}
		}
		v.short[id][node] = true
	}
}

// promise records how many more addresses a node's ENIs can take, by vSwitch, replacing the last
// record. It is called before an ENI is created: many nodes may choose a vSwitch before the first
// of them has its addresses.
func (v *vswitches) promise(node string, of map[string]int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, n := range v.promises[node] {
		if v.promised[id] -= n; v.promised[id] == 0 {
			delete(v.promised, id)
		}
	}
	if len(of) == 0 {
		delete(v.promises, node)
		return
	}
	v.promises[node] = of
	for id, n := range of {
		v.promised[id] += n
	}
}

// full parks a vSwitch that is full according to the cloud.
func (v *vswitches) full(id string) {
	v.mu.Lock()
	v.parked[id] = v.now().Add(v.park)
	vpc := v.known[id].VPCID
	v.mu.Unlock()
	v.vpcs.Expire(vpc) // read again before it is used
}

// reserved is how many addresses of a vSwitch serve nobody: the first and the last three (VPC
// documentation).
const reserved = 4

// gateway returns the vSwitch's gateway, the third address from the end.
func gateway(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n += 1<<(32-p.Bits()) - 3
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}
