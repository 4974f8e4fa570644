package fabric

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Values of enum schedule and enum access.
const (
	scheduleTurns = iota
	scheduleLeast
	scheduleSource
	scheduleTuple
)

const (
	accessAll = iota
	accessListed
	accessUnlisted
)

var schedules = [...]uint8{
	WeightedRoundRobin: scheduleTurns, RoundRobin: scheduleTurns, LeastConnections: scheduleLeast,
	SourceHash: scheduleSource, TupleHash: scheduleTuple,
}

// vip marks a balancer's address in the map addrs: VIP of bpf/vpcsim_fabric.h.
const vip = 1 << 31

// vpcID returns the id of a VPC; the outside namespace's is OUTSIDE of bpf/vpcsim_fabric.h.
func vpcID(name string) uint64 {
	if name == OutsideID {
		return 2
	}
	return hashID("vpc", name)
}

// publicVPCs returns the VPCs of balancers with a public address.
func publicVPCs(t *Topology) map[string]bool {
	out := map[string]bool{}
	for i := range t.Balancers {
		for _, a := range t.Balancers[i].Addresses {
			if a.Public {
				out[t.Balancers[i].VPC] = true
			}
		}
	}
	return out
}

func (img *image) compileBalancers(t *Topology, ifindex map[string]uint32, groups map[string]*SecurityGroup, known map[uint64][]programSlot) error {
	for i := range t.Balancers {
		b := &t.Balancers[i]
		index, ok := ifindex[BalancersOf(b.VPC)]
		if !ok {
			return fmt.Errorf("balancer %s: its namespace has no port device", b.ID)
		}
		ids := slices.Compact(slices.Sorted(slices.Values(b.SecurityGroups)))
		policy, counts, err := img.addPolicy(ids, groups)
		if err != nil {
			return fmt.Errorf("balancer %s: %w", b.ID, err)
		}
		for j := range b.Listeners {
			compiled := img.compileListener(&b.Listeners[j], known)
			if len(ids) > 0 {
				compiled.Guarded, compiled.Policy, compiled.Rules = 1, policy, counts[Ingress]
			}
			for _, a := range b.Addresses {
				for _, vpc := range a.scopes(b.VPC) {
					img.listeners[programListenerKey{
						Vpc: vpc, Vip: words(a.Address)[3], Port: wire(b.Listeners[j].Port), Proto: b.Listeners[j].Protocol,
					}] = compiled
				}
			}
		}
		for _, a := range b.Addresses {
			for _, vpc := range a.scopes(b.VPC) {
				key := programAddrKey{Vpc: vpc}
				key.Addr.W = words(a.Address)
				img.addrs[key] = index | vip
			}
		}
	}
	return nil
}

// scopes are the ids of the VPCs in which the address is reached.
func (a BalancerAddress) scopes(vpc string) []uint64 {
	if a.Public {
		return []uint64{vpcID(vpc), vpcID(OutsideID)}
	}
	return []uint64{vpcID(vpc)}
}

func (img *image) compileListener(l *Listener, known map[uint64][]programSlot) programListener {
	id := hashID("listener", l.ID)
	timeout := l.Timeout
	switch {
	case timeout == 0 && l.Protocol == protocolUDP:
		timeout = udpTimeout
	case timeout == 0:
		timeout = tcpTimeout
	}
	out := programListener{
		Id: id, Scheduler: schedules[l.Scheduler],
		Timeout: seconds(timeout), Persistence: seconds(l.Persistence),
	}
	if l.Access != nil {
		out.Access = accessUnlisted
		if l.Access.Allow {
			out.Access = accessListed
		}
		for _, r := range l.Access.Ranges {
			img.routes[routeKey(id, r)] = programRoute{}
		}
	}
	if l.Proxy {
		out.Proxy = 1
		return out
	}
	img.turns[id] = 0
	out.Table = tableID(l)
	slots, ok := known[out.Table]
	if !ok {
		for _, b := range SlotTable(l.Scheduler, l.Backends) {
			slots = append(slots, programSlot{
				Backend: backendID(l, b.Address), Addr: words(b.Address.Addr())[3], Port: wire(b.Address.Port()), Weight: uint16(b.Weight),
			})
		}
	}
	img.tables[out.Table], out.Slots = slots, uint32(len(slots))
	for _, b := range l.Backends {
		key := backendID(l, b.Address)
		compiled := img.backends[key] // by another name of the same server
		compiled.Listener, compiled.Drain = id, seconds(l.Drain)
		if b.takes() {
			compiled.Flags |= backendTakes
		}
		if b.Healthy {
			compiled.Flags |= backendKeeps
		}
		img.backends[key] = compiled
	}
	return out
}

// tableID names a listener's slot table by what it is computed from, so a table with a name never
// changes.
func tableID(l *Listener) uint64 {
	digest := sha256.New()
	fmt.Fprintf(digest, "%q %d", l.ID, l.Scheduler)
	for _, b := range taking(l.Backends) {
		fmt.Fprintf(digest, " %s=%d", b.Address, b.Weight)
	}
	return binary.LittleEndian.Uint64(digest.Sum(nil))
}

const (
	backendTakes = 1 << iota // BACKEND_TAKES of bpf/vpcsim_fabric.h
	backendKeeps             // BACKEND_KEEPS
)

func backendID(l *Listener, a netip.AddrPort) uint64 {
	return hashID("backend", l.ID+" "+a.String())
}

// wire returns a port in network byte order.
func wire(port uint16) uint16 {
	return binary.NativeEndian.Uint16([]byte{byte(port >> 8), byte(port)})
}

func seconds(d time.Duration) uint32 { return uint32((d + time.Second - 1) / time.Second) }

// drained sets when the connections of backends end, and returns the entries of the map
// backends: those of want, and those of have that were removed while connections may be left.
// listeners has the ids of all listeners; now is the clock of the program, in nanoseconds.
//
// The connections to a removed backend whose listener drains end after the listener's time,
// those to one whose listener is gone at once; the entry stays until no connection can be left,
// idle as it may be.
func drained(have, want map[uint64]programBackend, listeners map[uint64]bool, now uint64) map[uint64]programBackend {
	out := make(map[uint64]programBackend, len(want))
	for id, b := range want {
		if b.Flags&backendKeeps == 0 && b.Drain > 0 {
			b.Expires = cmp.Or(have[id].Expires, after(now, b.Drain))
		}
		out[id] = b
	}
	for id, b := range have {
		if _, ok := want[id]; ok {
			continue
		}
		switch {
		case b.Expires != 0:
		case !listeners[b.Listener]:
			b.Expires = max(now, 1)
		case b.Drain > 0:
			b.Expires = after(now, b.Drain)
		default:
			continue
		}
		if b.Flags = 0; now < b.Expires+uint64(longestTimeout) {
			out[id] = b
		}
	}
	return out
}

// longestTimeout is the longest time for which a connection without packets is remembered: the
// limit of Listener.Timeout.
const longestTimeout = time.Hour

func after(now uint64, secs uint32) uint64 { return now + uint64(secs)*uint64(time.Second) }
