package ebpf

import (
	"encoding/binary"
	"fmt"
	"net"

	"github.com/cilium/ebpf"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/fastpath"
	"terway.dev/terway/internal/datapath/tcfilter"
)

// Names of programs and maps in bpf/fastpath.c. A map's name contains the version of its shape:
// only a map of the same shape is used again.
const (
	fromPod = fastpathProgTwFromPod
	fromENI = fastpathProgTwFromEni
	toENI   = fastpathProgTwToEni

	// Only bpf/policed.c and bpf/slowpath.c have these.
	fromOther = policedProgTwFromOther
	toOther   = policedProgTwToOther
	atOwn     = policedProgTwOwn

	mapEnds    = fastpathMapTwEnds1
	mapSenders = fastpathMapTwSenders1

	mapJudged = policedMapTwJudged1
)

// Programs that package netkit attaches to its pods' devices. While policies are enforced, ToPod is
// before the pair (BeforeNetkit), and IntoNetkit in its place.
const (
	FromNetkit = fastpathProgTwFromNetkit
	ToPod      = fastpathProgTwToPod
	IntoNetkit = policedProgTwIntoNetkit
)

// BeforeNetkit attaches ToPod to the node's end of a pair; only programs that enforce policies know the
// class (CLASS_NETKIT of bpf/fastpath.c).
var BeforeNetkit = fastpath.TC{Filters: filters, Hooks: []tcfilter.Hook{{Parent: tcfilter.Egress, Program: ToPod, Class: 1}}}

const filters = tcfilter.Filters(claims.PrefEBPF)

var (
	podHooks   = fastpath.TC{Filters: filters, Hooks: []tcfilter.Hook{{Parent: tcfilter.Ingress, Program: fromPod}, {Parent: tcfilter.Egress, Program: ToPod}}}
	otherHooks = []tcfilter.Hook{{Parent: tcfilter.Ingress, Program: fromOther}, {Parent: tcfilter.Egress, Program: toOther}}
	eniHooks   = []tcfilter.Hook{{Parent: tcfilter.Ingress, Program: fromENI}, {Parent: tcfilter.Egress, Program: toENI}}
)

// classSends is the bit of the class of a filter with atOwn that is for what the ENI sends (CLASS_SENDS of
// bpf/own.h).
const classSends = 0x8000

// ownHooks are those of the ENI with a MAC that a pod has for itself, in the pod. The class has a number of the ENI: two on a node with
// the same number would only be able to forge each other's connections.
func ownHooks(mac net.HardwareAddr) fastpath.TC {
	var number uint16
	if len(mac) >= 2 {
		number = binary.BigEndian.Uint16(mac[len(mac)-2:]) &^ classSends
	}
	return fastpath.TC{Filters: filters, Hooks: []tcfilter.Hook{
		{Parent: tcfilter.Ingress, Program: atOwn, Class: number}, {Parent: tcfilter.Egress, Program: atOwn, Class: number | classSends},
	}}
}

// load loads the programs of a node whose kernel has netkit devices or not.
func load(running []ebpf.ProgramID, sizes fastpath.Sizes, netkit bool) (*fastpath.Objects, error) {
	spec, err := loadFastpath()
	if err != nil {
		return nil, fmt.Errorf("read the programs: %w", err)
	}
	return open(spec, running, sizes, netkit)
}

// loadJudging loads the programs that enforce policies: with a fast path, or for pods without one. They share the maps of others.
func loadJudging(running []ebpf.ProgramID, sizes fastpath.Sizes, direct, netkit bool, others ...*fastpath.Objects) (*fastpath.Objects, error) {
	read := loadSlowpath
	if direct {
		read = loadPoliced
	}
	spec, err := read()
	if err != nil {
		return nil, fmt.Errorf("read the programs that enforce policies: %w", err)
	}
	spec.Maps[mapJudged].MaxEntries = sizes.Known4 + sizes.Known6
	return open(spec, running, sizes, netkit, others...)
}

func open(spec *ebpf.CollectionSpec, running []ebpf.ProgramID, sizes fastpath.Sizes, netkit bool, others ...*fastpath.Objects) (*fastpath.Objects, error) {
	for _, name := range []string{mapEnds, mapSenders} {
		if m := spec.Maps[name]; m != nil {
			m.MaxEntries = fastpath.MaxPods
		}
	}
	if !netkit {
		delete(spec.Programs, FromNetkit)
		delete(spec.Programs, IntoNetkit)
	}
	return fastpath.Load(running, spec, sizes, others...)
}

// table returns the entries of pods.
func table(o *fastpath.Objects) fastpath.Pods[fastpathPod] {
	return fastpath.Pods[fastpathPod]{Objects: o, Map: o.Maps[mapEnds], Name: mapEnds, Device: func(p fastpathPod) int { return int(p.Ifindex) }}
}
