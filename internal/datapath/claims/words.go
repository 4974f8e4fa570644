package claims

// Datapaths, as in NodeNetwork.status.datapath and the configuration: each is a kind of pod.
// docs/datapaths.md compares them.
const (
	Route  = "route"
	EBPF   = "ebpf"
	Netkit = "netkit"
	IPvlan = "ipvlan"
	// Exclusive is the datapath of pods with an exclusive ENI. It cannot be configured by name.
	Exclusive = "exclusive"

	// Auto means the fastest datapath that the node's kernel supports.
	Auto = "auto"
)

// Networks, as in the configuration and in plan files.
const (
	// NetworkTerway gives pods addresses of the Pod vSwitches.
	NetworkTerway = "terway"
	// NetworkFlannel gives pods addresses of a pod CIDR outside the VPC, with a block and a VPC
	// route entry for each node.
	NetworkFlannel = "flannel"
)

// Modes of a node, as in NodeNetwork.spec.mode, the configuration and plan files.
const (
	// ModeShared: pods share the secondary ENIs of their node.
	ModeShared = "shared"
	// ModeExclusive: each pod has an exclusive ENI.
	ModeExclusive = "exclusive"
)
