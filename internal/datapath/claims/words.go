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

// Networks, as the configuration and plan files call them.
const (
	// NetworkTerway gives pods addresses of the Pod vSwitches.
	NetworkTerway = "terway"
	// NetworkFlannel gives pods addresses of a pod CIDR outside the VPC, a block for each
	// node and a VPC route entry for each block.
	NetworkFlannel = "flannel"
)

// Modes of a node, as NodeNetwork.spec.mode, the configuration and plan files call them.
const (
	// ModeShared: pods share the secondary ENIs of their node.
	ModeShared = "shared"
	// ModeExclusive: each pod has an ENI of its own.
	ModeExclusive = "exclusive"
)
