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
	parked map[string]time.Time // until when
}

func newVSwitches(api cloud.API, now func() time.Time, park time.Duration) *vswitches {
	return &vswitches{api: api, now: now, park: park, known: map[string]cloud.VSwitch{}, asked: map[string]time.Time{}, parked: map[string]time.Time{}}
}

// get returns the vSwitches in the order of ids, asking the cloud for those that
// are not fresh.
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
		list, err := v.api.DescribeVSwitches(ctx, stale)
		if err != nil {
			return nil, fmt.Errorf("describe vSwitches %v: %w", stale, err)
		}
		v.mu.Lock()
		for _, s := range list {
			v.known[s.ID], v.asked[s.ID] = s, now
		}
		v.mu.Unlock()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []ipam.VSwitch
	for _, id := range ids {
		s, ok := v.known[id]
		if !ok {
			return nil, fmt.Errorf("vSwitch %s of the configuration does not exist", id)
		}
		out = append(out, ipam.VSwitch{ID: id, Available: s.Available, Parked: now.Before(v.parked[id])})
	}
	return out, nil
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
		s = list[0]
		v.mu.Lock()
		v.known[id] = s
		v.mu.Unlock()
	}
	return []string{s.CIDR.String()}, []string{gateway(s.CIDR).String()}, nil
}

// take counts n addresses off.
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
