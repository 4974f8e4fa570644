package ebpf

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/bpfobj"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/netlinkx"
)

// Kind is the kind of pods with a veth and a fast path.
//
// The map of pods gives a pod's address the fast path, and the map of senders makes its device
// refuse other sources; a filter without entries does nothing. So a pod's entries are deleted
// first, and a pod without entries takes the slow path.
type Kind struct {
	fastpath.Loader
	// names are the kinds whose pods the ENIs' programs serve.
	names map[string]bool
	// chosen: new pods of the node are of these kinds, so its ENIs have programs before the first
	// pod.
	chosen atomic.Bool
	// direct: the node has pods of these kinds, or has had some since the kind was made, or its new pods are. Without it the programs
	// that enforce policies have no fast path.
	direct atomic.Bool
	// enis are those known to have their programs. The lock guards them.
	enis map[int]bool
	// policed: the programs enforce policies. ready are those that do, while policies are off: loaded
	// and attached nowhere; nil before Policy.Prepare. decided: policies have been turned on or off, so
	// that programs of an earlier process say nothing any more. The lock guards all three.
	policed, decided bool
	ready            *fastpath.Objects
	// others are kinds with programs of their own.
	others []fastpath.Judging
}

// Join makes a kind enforce policies while they are on. It must be called before the node starts, and the kind be behind this one in
// the node's list.
func (k *Kind) Join(other fastpath.Judging) { k.others = append(k.others, other) }

// New returns the kind; connections is the number of IPv4 connections in the table
// (fastpath.SizesFor).
func New(connections int) *Kind {
	k := &Kind{names: map[string]bool{claims.EBPF: true}, enis: map[int]bool{}}
	k.Loader = fastpath.Loader{
		Plain: node.Plain{KindName: claims.EBPF}, Filters: filters, ENIHooks: eniHooks, Connections: connections, Open: k.open, Upgrade: upgrade,
		Outgrown: k.outgrown, Opened: k.opened,
	}
	return k
}

// open loads the programs. If those of an earlier process enforce policies, and this one has not turned
// them off, these do too: they must not go because an agent is restarted.
func (k *Kind) open(running []ebpf.ProgramID, sizes fastpath.Sizes) (*fastpath.Objects, error) {
	policed, err := k.look(running)
	if err != nil {
		return nil, err
	}
	if !policed {
		return load(running, sizes, k.names[claims.Netkit])
	}
	o, err := k.loadJudging(running, sizes)
	if err != nil {
		return nil, err
	}
	k.policed, k.decided = true, true
	return o, nil
}

// opened makes the ENIs' programs be looked at again, and the other kinds follow. The caller holds the lock.
func (k *Kind) opened(o *fastpath.Objects) error {
	clear(k.enis)
	if !k.policed {
		return nil
	}
	return k.judge(o)
}

// look reads from the maps of running programs what an earlier process did: whether it enforced policies, and this one is
// to go on, and whether there are pods with a fast path. The caller holds the lock.
func (k *Kind) look(running []ebpf.ProgramID) (policed bool, err error) {
	maps, err := bpfobj.Maps(running)
	if err != nil {
		return false, err
	}
	policed = k.policed || !k.decided && maps[mapJudged] != nil
	for name, m := range maps {
		if name == fastpath.MapPods || name == formerPods {
			if key, errNext := m.NextKeyBytes(nil); errNext != nil {
				err = errors.Join(err, fmt.Errorf("read map %s: %w", name, errNext))
			} else if key != nil {
				k.direct.Store(true)
			}
		}
		err = errors.Join(err, m.Close())
	}
	return policed, err
}

// loadJudging loads the programs that enforce policies, with the maps of those that are loaded. The caller holds the lock.
func (k *Kind) loadJudging(running []ebpf.ProgramID, sizes fastpath.Sizes) (*fastpath.Objects, error) {
	var others []*fastpath.Objects
	if k.Loader.Objects != nil {
		others = append(others, k.Loader.Objects)
	}
	return loadJudging(running, sizes, k.direct.Load(), k.names[claims.Netkit], others...)
}

// outgrown reports whether the node has pods with a fast path, and these programs enforce policies and have none.
func (k *Kind) outgrown(o *fastpath.Objects) bool { return k.direct.Load() && !o.Direct() }

// judge tells the other kinds by which maps policies are enforced, nil if they are not. The caller holds the lock.
func (k *Kind) judge(by *fastpath.Objects) error {
	var errs []error
	for _, o := range k.others {
		errs = append(errs, o.Judge(by))
	}
	return errors.Join(errs...)
}

// Serve makes pods of another kind use the maps and the ENIs' programs, so that connections between
// the kinds take the fast path. A new agent finds the maps by that kind's programs too. It must be
// called before the node starts.
func (k *Kind) Serve(kind string, programs fastpath.Running) {
	k.names[kind] = true
	k.Others = append(k.Others, programs)
}

// With returns the objects of a pod whose programs are attached by these hooks.
func (k *Kind) With(p *node.Pod, hooks fastpath.Hooks) node.Added {
	if k.names[p.Kind] { // else it is unknown, and has nothing but what is to be deleted
		k.direct.Store(true)
	}
	return node.Added{
		// Without entries of addresses the programs use the slow path alone, so they may come first.
		First: k.attached(p, fastpath.At{Device: p.Host, Hooks: hooks}),
		Before: []object.Object{fastpath.Entries[fastpathPod]{
			Loader: &k.Loader, Pod: p, Table: table,
			Of: func(h *netlink.Handle, device *netlink.LinkAttrs, prepare bool) (map[netip.Addr]fastpathPod, string, error) {
				var err error
				if eni := p.ENI; prepare && eni.Index != 0 && !k.enis[eni.Index] {
					_, err = k.prepare(h, eni)
				}
				return entries(p, device), "", err
			},
		}},
	}
}

// attached returns a pod's programs and before them the sources of its device: programs that enforce
// policies let nothing pass from a device without an entry.
func (k *Kind) attached(p *node.Pod, at ...fastpath.At) []object.Object {
	list := []object.Object{k.Sender(p)}
	for _, a := range at {
		programs := fastpath.Programs{Loader: &k.Loader, At: []fastpath.At{a}}
		if a.Device.InPod {
			programs.Guards = p.Host.Name
		}
		list = append(list, programs)
		if tc, is := a.Hooks.(fastpath.TC); is && a.Device.InPod {
			list = append(list, fastpath.First{Programs: programs, TC: tc})
		}
	}
	return list
}

// Sender returns the entry of the sources that a pod's device on the node may use.
func (k *Kind) Sender(p *node.Pod) object.Object { return sender{k, p} }

// Policy returns the feature that enforces policies on the node.
func (k *Kind) Policy() *Policy { return &Policy{kind: k} }

func (k *Kind) Choose(kind string) {
	k.chosen.Store(k.names[kind])
	if k.names[kind] {
		k.direct.Store(true)
	}
}

func (k *Kind) Objects(p *node.Pod) node.Added { return k.With(p, podHooks) }

// Points implements node.Kind: packets on the fast path to the pod bypass the node's end of its veth,
// unless the pod's bandwidth is limited.
func (k *Kind) Points(p *node.Pod) []node.Point {
	list := k.Plain.Points(p)
	for i, at := range list {
		list[i].Bypassed = at.Device == p.Host && !at.FromPod
		list[i].Queued = list[i].Bypassed
	}
	return list
}

func (k *Kind) Sync(h *netlink.Handle, links []netlink.Link, enis []routing.ENI) ([]string, error) {
	k.Lock()
	defer k.Unlock()
	if there, err := k.Refresh(h, k.chosen.Load() || k.policed); err != nil || !there {
		return nil, err
	}
	var repairs []string
	var err error
	pods := 0
	if k.Loader.Objects.Direct() {
		repairs, pods, err = table(k.Loader.Objects).Prune(h, links)
	}
	errs := []error{err, k.pruneSenders(h, links)}
	wanted := k.chosen.Load() || k.policed || pods > 0 || err != nil
	clear(k.enis)
	isENI := map[int]bool{}
	for _, e := range enis {
		if isENI[e.Index] = wanted; wanted {
			r, err := k.prepare(h, e)
			repairs, errs = append(repairs, r...), append(errs, err)
		}
	}
	guarded := map[int]bool{}
	if k.policed {
		r, err := k.guard(h, links, isENI, guarded)
		repairs, errs = append(repairs, r...), append(errs, err, k.pruneGuarded(isENI, guarded))
	}
	r, err := filters.Sweep(h, links, func(l netlink.Link) bool {
		return linkkind.IsPodDevice(l) || isENI[l.Attrs().Index] || guarded[l.Attrs().Index]
	}, false)
	return append(repairs, r...), errors.Join(append(errs, err)...)
}

// prepare attaches an ENI's programs. The caller holds the lock.
func (k *Kind) prepare(h *netlink.Handle, e routing.ENI) ([]string, error) {
	repairs, err := k.PrepareENI(h, e)
	if err != nil {
		return repairs, fmt.Errorf("ENI device %s: %w", e.Device, err)
	}
	if k.policed {
		if err := k.trust(e.Index); err != nil {
			return repairs, err
		}
	}
	k.enis[e.Index] = true
	return repairs, nil
}

// Teardown implements node.Kind: it removes the programs from ENIs and devices that are not pods'.
func (k *Kind) Teardown(h *netlink.Handle, links []netlink.Link) error {
	k.Lock()
	defer k.Unlock()
	clear(k.enis)
	k.direct.Store(false)
	_, err := filters.Sweep(h, links, linkkind.IsPodDevice, true)
	return errors.Join(err, k.turnOff(), k.Unload())
}

// Close implements node.Kind; what is attached goes on working.
func (k *Kind) Close() error {
	k.Lock()
	defer k.Unlock()
	return errors.Join(k.turnOff(), k.Unload())
}

// turnOff turns policies off: the next Sync attaches the other programs. The caller holds the lock.
func (k *Kind) turnOff() error {
	var errs []error
	if k.ready != nil {
		errs = append(errs, k.ready.Close())
		k.ready = nil
	}
	if k.policed {
		k.policed = false
		clear(k.enis)
		errs = append(errs, k.judge(nil), k.Unload())
	}
	k.decided = true
	return errors.Join(errs...)
}

// entries returns a pod's entries in the map of pods, by address.
func entries(p *node.Pod, device *netlink.LinkAttrs) map[netip.Addr]fastpathPod {
	list := map[netip.Addr]fastpathPod{}
	for _, a := range p.Addresses {
		e := fastpathPod{Addr: addrKey(a), Ifindex: uint32(device.Index), Mtu: uint32(cmp.Or(p.MTU, device.MTU))}
		if p.Limits != nil && p.Limits.Ingress != 0 {
			e.Flags = fastpathPodFlagPOD_LIMITED
		}
		copy(e.Macs[:6], p.PodMAC)
		copy(e.Macs[6:], p.HostMAC)
		// Without a gateway of the address's family the address cannot use the ENI.
		if gateway := netlinkx.OfFamily(p.ENI.Gateways, netlinkx.Family(a)); gateway.IsValid() {
			e.Eni, e.EniMtu, e.Gateway = uint32(p.ENI.Index), uint32(p.ENI.MTU), addrKey(gateway)
		}
		list[a] = e
	}
	return list
}

func addrKey(a netip.Addr) fastpathAddr { return fastpathAddr{W: fastpath.Words(a)} }
