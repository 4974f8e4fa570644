package ebpf

import (
	"fmt"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/tcprog"
)

// Names of programs and maps in bpf/shortcut.c. A map's name carries the version of its
// shape: one of another shape is not taken over.
const (
	fromPod = "tw_from_pod"
	fromENI = "tw_from_eni"
	toENI   = "tw_to_eni"

	mapEnds    = "tw_ends_1"
	mapSenders = "tw_senders_1"
)

// Programs that datapaths beside this one put on their pods' devices.
const (
	FromNetkit = "tw_from_netkit"
	ToPod      = "tw_to_pod"
)

// maxPods bounds the addresses of local pods: more than any instance type carries.
const maxPods = 16384

const filters = tcprog.Filters(claims.PrefShortcut)

var (
	podHooks = []tcprog.Hook{{Parent: tcprog.Ingress, Program: fromPod}, {Parent: tcprog.Egress, Program: ToPod}}
	eniHooks = []tcprog.Hook{{Parent: tcprog.Ingress, Program: fromENI}, {Parent: tcprog.Egress, Program: toENI}}
)

func load(h *netlink.Handle, sizes tcprog.Sizes) (*tcprog.Objects, error) {
	spec, err := loadShortcut()
	if err != nil {
		return nil, fmt.Errorf("read the programs: %w", err)
	}
	spec.Maps[tcprog.MapPods].MaxEntries = maxPods
	spec.Maps[mapEnds].MaxEntries = maxPods
	spec.Maps[mapSenders].MaxEntries = maxPods
	sizes.Set(spec)
	if err := tcprog.SetConstants(spec); err != nil {
		return nil, err
	}
	return filters.Load(h, spec)
}

// table are the entries of pods. The caller holds mu.
func (s *shortcuts) table() tcprog.Pods[shortcutPod] { return table(s.objects) }

func table(o *tcprog.Objects) tcprog.Pods[shortcutPod] {
	return tcprog.Pods[shortcutPod]{Objects: o, Map: o.Maps[mapEnds], Name: mapEnds, Device: func(p shortcutPod) int { return int(p.Ifindex) }}
}

// veth are the Hooks of a pod with a veth.
type veth struct{}

// Attach implements Hooks.
func (veth) Attach(h *netlink.Handle, o *tcprog.Objects, index int) error {
	return filters.Attach(h, o, index, podHooks)
}

// Wrong implements Hooks.
func (veth) Wrong(h *netlink.Handle, o *tcprog.Objects, index int) (string, error) {
	return filters.Wrong(h, o, index, podHooks)
}
