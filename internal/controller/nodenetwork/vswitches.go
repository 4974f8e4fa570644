package nodenetwork

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/ipam"
)

// freshFor is how long an answer about a vSwitch's free addresses is used.
// Between answers what the controller takes is counted off.
const freshFor = 30 * time.Second

// vswitches remembers the vSwitches: their ranges for good, their free addresses
// for a while, and which were full.
type vswitches struct {
	api  cloud.API
	now  func() time.Time
	park time.Duration

	mu     sync.Mutex
	known  map[string]cloud.VSwitch
	asked  map[string]time.Time
	absent map[string]bool
	parked map[string]time.Time // until when
}

func newVSwitches(api cloud.API, now func() time.Time, park time.Duration) *vswitches {
	return &vswitches{api: api, now: now, park: park, known: map[string]cloud.VSwitch{},
		asked: map[string]time.Time{}, absent: map[string]bool{}, parked: map[string]time.Time{}}
}

// get returns the vSwitches in the order of ids, asking the cloud for those that
// are not fresh. One that does not exist has no address; the others still serve.
func (v *vswitches) get(ctx context.Context, ids []string) ([]ipam.VSwitch, error) {
	now := v.now()
	v.mu.Lock()
	var stale []string
	for _, id := range ids {
		if at, ok := v.asked[id]; !ok || now.Sub(at) >= freshFor {
			stale = append(stale, id)
		}
	}
	v.mu.Unlock()
	if len(stale) > 0 {
		if err := v.refresh(ctx, stale, now); err != nil {
			return nil, err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []ipam.VSwitch
	for _, id := range ids {
		x := ipam.VSwitch{ID: id, Parked: now.Before(v.parked[id])}
		if !v.absent[id] {
			x.Available = v.known[id].Available
		}
		out = append(out, x)
	}
	return out, nil
}

func (v *vswitches) refresh(ctx context.Context, ids []string, now time.Time) error {
	list, err := v.api.DescribeVSwitches(ctx, ids)
	if cloud.ClassOf(err) == cloud.NotFound && len(ids) > 1 {
		for _, id := range ids { // which one is it?
			if err := v.refresh(ctx, []string{id}, now); err != nil {
				return err
			}
		}
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case cloud.ClassOf(err) == cloud.NotFound && err != nil:
		v.absent[ids[0]], v.asked[ids[0]] = true, now
	case err != nil:
		return fmt.Errorf("describe vSwitches %v: %w", ids, err)
	}
	for _, s := range list {
		v.known[s.ID], v.asked[s.ID] = s, now
		delete(v.absent, s.ID)
	}
	return nil
}

// review has the cloud asked anew about every vSwitch: one that did not exist may
// be there. Those that it said are full stay parked, whatever is configured.
func (v *vswitches) review() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.asked)
}

// useless names those of the ids that can serve no node of the zone, and why.
func (v *vswitches) useless(ids []string, zone string) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []string
	for _, id := range ids {
		switch s, ok := v.known[id]; {
		case v.absent[id]:
			out = append(out, id+" does not exist")
		case ok && s.Zone != zone:
			out = append(out, id+" is in zone "+s.Zone)
		}
	}
	return out
}

// ranges returns a vSwitch's ranges and gateways, IPv4 first.
func (v *vswitches) ranges(ctx context.Context, id string) (cidrs, gateways []string, err error) {
	v.mu.Lock()
	s, ok := v.known[id]
	v.mu.Unlock()
	if !ok {
		list, err := v.api.DescribeVSwitches(ctx, []string{id})
		if err != nil {
			return nil, nil, fmt.Errorf("describe vSwitch %s: %w", id, err)
		}
		if len(list) == 0 {
			return nil, nil, &cloud.Error{Action: "DescribeVSwitches", Class: cloud.NotFound, Message: "no vSwitch " + id}
		}
		s = list[0]
		v.mu.Lock()
		v.known[id] = s
		v.mu.Unlock()
	}
	return []string{s.CIDR.String()}, []string{gateway(s.CIDR).String()}, nil
}

// take counts n addresses off; with n below zero they come back.
func (v *vswitches) take(id string, n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s, ok := v.known[id]; ok {
		s.Available = max(0, s.Available-n)
		v.known[id] = s
	}
}

// full parks a vSwitch that the cloud said is full.
func (v *vswitches) full(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.parked[id] = v.now().Add(v.park)
	delete(v.asked, id) // ask again before it is used
}

// gateway is the vSwitch's gateway: the third address from its end (VPC
// documentation: the first and the last three addresses are reserved).
func gateway(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n += 1<<(32-p.Bits()) - 3
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}
