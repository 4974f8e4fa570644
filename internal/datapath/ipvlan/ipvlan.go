package ipvlan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"

	bpf "github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
)

// Kind is the kind of pods with ipvlan devices.
//
// Its map of slaves gives a pod's address access: a pod without an entry cannot send, and packets
// to it take the slow path. So a pod's entries are deleted first.
type Kind struct {
	// The loader's lock guards the fields below too.
	fastpath.Loader
	// active: the node has such pods, or its new pods are of this kind.
	active atomic.Bool
	// enis are those that were prepared, by index.
	enis map[int]bool
	// holders are the pods that this process has wired or checked, by device on the node.
	holders map[string]*node.Pod
	// judging are the objects by whose maps the programs enforce policies; nil if they enforce none.
	judging  *fastpath.Objects
	policies Policies
}

// Policies knows whether policies are on (ebpf.Kind).
type Policies interface {
	// Join makes a kind enforce policies while they are on.
	Join(fastpath.Judging)
	// Sender returns the entry of the sources that a pod's device on the node may use.
	Sender(*node.Pod) object.Object
}

// New returns the kind; connections is as in package ebpf. Without policies, nil, it never enforces any. Call Supported before.
func New(connections int, policies Policies) *Kind {
	k := &Kind{
		Loader: fastpath.Loader{
			Plain: node.Plain{KindName: claims.IPvlan}, Filters: filters, ENIHooks: eniHooks, Connections: connections, Upgrade: upgrade,
		},
		enis: map[int]bool{}, holders: map[string]*node.Pod{}, policies: policies,
	}
	k.Open = func(running []bpf.ProgramID, sizes fastpath.Sizes) (*fastpath.Objects, error) {
		if k.judging != nil {
			return loadJudging(running, sizes, k.judging)
		}
		return load(running, sizes)
	}
	if policies != nil {
		policies.Join(k)
	}
	return k
}

// Judge implements fastpath.Judging.
func (k *Kind) Judge(by *fastpath.Objects) error {
	k.Lock()
	defer k.Unlock()
	k.judging = by
	clear(k.enis)
	return k.Unload()
}

// Choose implements node.Kind. Existing pods keep the kind when new ones are of another.
func (k *Kind) Choose(kind string) {
	if kind == claims.IPvlan {
		k.active.Store(true)
	}
}

// Describe implements node.Kind. Both devices are on top of the ENI and have its MAC; frames of the
// pod to others than its next hop are dropped in the pod.
func (k *Kind) Describe(p *node.Pod) error {
	err := p.ShareENI()
	if err == nil {
		p.LinkMAC, p.PodMAC = p.ENI.MAC, p.ENI.MAC
	}
	p.ARP, p.Carrier = true, true
	p.RemoveFromOthers = func(a netip.Addr) error { return k.removeFromOthers(p, a) }
	return err
}

func (k *Kind) Devices(p *node.Pod) object.Object { return devices{k, p} }

func (k *Kind) Objects(p *node.Pod) node.Added {
	k.Lock()
	defer k.Unlock()
	programs := func(at ...fastpath.At) fastpath.Programs { return fastpath.Programs{Loader: &k.Loader, At: at} }
	// The node's device first: it marks what may come in at the pod's.
	host, inner := fastpath.At{Device: p.Host, Hooks: hostHooks}, fastpath.At{Device: p.Inner, Hooks: innerHooks}
	first := []object.Object{programs(host, inner)}
	if k.judging != nil {
		guarded := programs(inner)
		guarded.Guards = p.Host.Name
		first = []object.Object{k.policies.Sender(p), programs(host), guarded, fastpath.First{Programs: guarded, TC: innerHooks}}
	}
	return node.Added{
		First: first,
		Before: []object.Object{fastpath.Entries[slavesSlave]{
			Loader: &k.Loader, Pod: p, Table: table,
			Of: func(h *netlink.Handle, device *netlink.LinkAttrs, prepare bool) (map[netip.Addr]slavesSlave, string, error) {
				k.holders[p.Host.Name] = p // so that removeFromOthers knows it after a restart too
				receiver, problem, err := k.receiver(h, p.ENI)
				if prepare && err == nil && p.ENI.Index != 0 && (problem != "" || !k.enis[p.ENI.Index]) {
					if _, err = k.prepare(h, p.ENI); err == nil {
						receiver, problem, err = k.receiver(h, p.ENI)
					}
				}
				return entries(p, device.Index, receiver), problem, err
			},
		}},
	}
}

// Points implements node.Kind: all packets of the pod pass its own device. Its device on the node
// sees only what the host stack sends to it; the fast path delivers by the ENI.
func (k *Kind) Points(p *node.Pod) []node.Point {
	return []node.Point{
		{Device: p.Host, Bypassed: true},
		{Device: p.Inner, FromPod: true, Removable: true},
		{Device: p.Inner, Ingress: true, Removable: true},
	}
}

func (k *Kind) Receiver(eni routing.ENI) string {
	if !k.active.Load() {
		return ""
	}
	return claims.ReceiverName(eni.MAC)
}

// receiver returns the index of an ENI's receiver, 0 if the ENI is gone, or what is wrong with the
// receiver.
func (k *Kind) receiver(h *netlink.Handle, e routing.ENI) (index int, problem string, err error) {
	if e.Index == 0 {
		return 0, "", nil
	}
	name := claims.ReceiverName(e.MAC)
	link, err := object.Find(h, name)
	switch {
	case err != nil:
		return 0, "", err
	case link == nil:
		return 0, "device " + name + " on the node is missing", nil
	case link.Attrs().Flags&net.FlagUp == 0:
		return 0, "device " + name + " is down", nil
	}
	return link.Attrs().Index, "", nil
}

// prepare makes an ENI's receiver and attaches the ENI's programs. The caller holds the lock.
func (k *Kind) prepare(h *netlink.Handle, e routing.ENI) (repairs []string, err error) {
	note := func(more []string, err error) error {
		repairs = append(repairs, more...)
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = claims.ReceiverName(e.MAC), e.Index
	link, made, err := ensure(h, h, attrs, e, func(netlink.Link) error { return nil })
	if made {
		repairs = append(repairs, "made device "+attrs.Name+" on "+e.Device)
	}
	if err == nil {
		err = note(k.Node.EnsureReceiver(h, link))
	}
	if err == nil {
		err = note(k.PrepareENI(h, e))
	}
	if err == nil {
		err = note(k.guardReceiver(h, link))
	}
	if err != nil {
		return repairs, fmt.Errorf("ENI device %s: %w", e.Device, err)
	}
	k.enis[e.Index] = true
	return repairs, nil
}

// guardReceiver attaches the receiver's program, or removes it. The caller holds the lock.
func (k *Kind) guardReceiver(h *netlink.Handle, receiver netlink.Link) (repairs []string, err error) {
	index, o := receiver.Attrs().Index, k.Loader.Objects.Objects
	problem, err := receiverHooks.Problem(h, o, index)
	if err == nil && problem != "" {
		repairs = append(repairs, fmt.Sprintf("device %s: %s: repaired", receiver.Attrs().Name, problem))
		b, errBatch := k.Node.Batch()
		if err = errBatch; err == nil {
			err = receiverHooks.Attach(b, o, index)
		}
	}
	if err == nil && k.judging != nil {
		if err = o.Maps[fastpath.MapOwn].Put(fastpath.Own{Device: uint32(index)}, uint32(1)); err != nil {
			err = fmt.Errorf("add device %s to map %s: %w", receiver.Attrs().Name, fastpath.MapOwn, err)
		}
	}
	return repairs, err
}

func (k *Kind) Sync(h *netlink.Handle, links []netlink.Link, enis []routing.ENI) ([]string, error) {
	k.Lock()
	defer k.Unlock()
	// A receiver shows that the node has had such pods.
	must := k.active.Load() || slices.ContainsFunc(links, linkkind.IsReceiver)
	if there, err := k.Refresh(h, must); err != nil || !there {
		return nil, err
	}
	repairs, pods, err := table(k.Loader.Objects).Prune(h, links)
	errs := []error{err}
	clear(k.enis)
	wanted := map[string]bool{}
	if pods > 0 {
		k.active.Store(true)
	}
	for _, e := range enis {
		if !k.active.Load() {
			break
		}
		wanted[e.Device], wanted[claims.ReceiverName(e.MAC)] = true, true
		r, err := k.prepare(h, e)
		repairs, errs = append(repairs, r...), append(errs, err)
	}
	for device := range k.holders {
		if link, err := object.Find(h, device); err == nil && link == nil {
			delete(k.holders, device)
		}
	}
	r, err := sweep(h, links, wanted, false)
	return append(repairs, r...), errors.Join(append(errs, err)...)
}

// sweep removes programs and receivers from devices whose name is not wanted, at the end of the
// kind the qdiscs too.
func sweep(h *netlink.Handle, links []netlink.Link, wanted map[string]bool, end bool) (repairs []string, err error) {
	var errs []error
	for _, l := range links {
		if name := l.Attrs().Name; linkkind.IsReceiver(l) && !wanted[name] {
			errs = append(errs, remove(h, l))
			repairs = append(repairs, "removed device "+name)
		}
	}
	more, err := filters.Sweep(h, links, func(l netlink.Link) bool {
		return wanted[l.Attrs().Name] || linkkind.IsPodDevice(l) || linkkind.IsReceiver(l)
	}, end)
	return append(repairs, more...), errors.Join(append(errs, err)...)
}

func (k *Kind) Teardown(h *netlink.Handle, links []netlink.Link) error {
	k.active.Store(false)
	k.Lock()
	defer k.Unlock()
	_, err := sweep(h, links, nil, true)
	clear(k.enis)
	return errors.Join(err, k.Unload())
}
