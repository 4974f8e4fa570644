package claims

// Datapaths, as NodeNetwork.status.datapath and the configuration call them: each is a way
// to wire a pod. docs/datapaths.md compares them.
const (
	Route  = "route"
	EBPF   = "ebpf"
	Netkit = "netkit"
	IPvlan = "ipvlan"
	// Exclusive is the one of pods with an ENI of their own. It is not chosen by name.
	Exclusive = "exclusive"

	// Auto stands for the fastest that the node's kernel has.
	Auto = "auto"
)

// Modes of a node, as NodeNetwork.spec.mode, the configuration and plan files call them.
const (
	// ModeShared: pods share the secondary ENIs of their node.
	ModeShared = "shared"
	// ModeExclusive: each pod has an ENI of its own.
	ModeExclusive = "exclusive"
)
