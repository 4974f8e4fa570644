package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodeNetwork says which parts of the VPC a node may use and which it uses. It has the
// node's name. The controller is the only writer of spec and of
// status.controllerConditions, the node's agent the only writer of the rest of
// status. Each writes its own fields by name, so the two never conflict.
//
// The life of an address:
//
//	controller assigns it in the cloud, writes it to spec        (free)
//	agent gives it to a pod, reports it in status.used            (used)
//	agent takes it back; it cools for spec.pool.coolingSeconds    (cooling)
//	controller marks it releasing                                 (releasing)
//	agent stops offering it and confirms it in status.released    (released)
//	controller unassigns it in the cloud and drops it from spec   (gone)
//	agent drops it from status.released
//
// An address that is held waits at each of these steps until it is not.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=nn
// +kubebuilder:printcolumn:name="Instance",type=string,JSONPath=`.spec.instanceID`
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.instanceType`
// +kubebuilder:printcolumn:name="Datapath",type=string,JSONPath=`.status.datapath`
// +kubebuilder:printcolumn:name="Pods",type=integer,JSONPath=`.status.usedCount`
// +kubebuilder:printcolumn:name="Max-Pods",type=integer,JSONPath=`.spec.limits.maxPods`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeNetwork struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   NodeNetworkSpec   `json:"spec,omitempty"`
	Status NodeNetworkStatus `json:"status,omitempty"`
}

// NodeNetworkList is a list of NodeNetworks.
//
// +kubebuilder:object:root=true
type NodeNetworkList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeNetwork `json:"items"`
}

// NodeNetworkSpec is the controller's part.
type NodeNetworkSpec struct {
	// InstanceID is the node's ECS instance, for example "i-bp1…".
	// +kubebuilder:validation:Pattern=`^i-[a-zA-Z0-9_-]+$`
	// +kubebuilder:validation:MaxLength=64
	InstanceID string `json:"instanceID,omitempty"`
	// InstanceType is the ECS instance type, for example "ecs.g6.2xlarge".
	InstanceType string `json:"instanceType,omitempty"`
	// Zone is the zone of the instance, for example "cn-hangzhou-i".
	Zone string `json:"zone,omitempty"`
	// VPCID is the VPC of the instance.
	VPCID string `json:"vpcID,omitempty"`
	// ClusterID is the cluster whose tag the node's ENIs carry.
	// +kubebuilder:validation:MaxLength=64
	ClusterID string `json:"clusterID,omitempty"`
	// VPCCIDRs are all address ranges of the VPC; traffic to them is never masqueraded.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:Format=cidr
	// +listType=atomic
	VPCCIDRs []string `json:"vpcCIDRs,omitempty"`
	// ServiceCIDRs are the cluster's Service address ranges.
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:Format=cidr
	// +listType=atomic
	ServiceCIDRs []string `json:"serviceCIDRs,omitempty"`
	// Datapath is how pods are wired: "auto" or a datapath's name.
	Datapath string `json:"datapath,omitempty"`
	// Mode is how pods get their addresses: "shared" (many pods on an ENI) or
	// "exclusive" (each pod has an exclusive ENI); empty means shared.
	// +kubebuilder:validation:Enum="";shared;exclusive
	Mode string `json:"mode,omitempty"`
	// ExclusiveENIs is how many of the node's ENIs are exclusive, each for a single pod.
	// The others are shared. In mode exclusive it is all but the primary.
	// +kubebuilder:validation:Minimum=0
	ExclusiveENIs int `json:"exclusiveENIs,omitempty"`
	// OwnENIs is ExclusiveENIs under its previous name; see FormerNames.
	// +kubebuilder:validation:Minimum=0
	OwnENIs int `json:"ownENIs,omitempty"`
	// OfferedENIs is how many of the extended resource aliyun/eni the node offers:
	// ExclusiveENIs, less those whose slots are still used by shared ENIs or ENIs of others, and less
	// those of pods that the scheduler does not count (status.uncountedENIs), but not less than
	// counted pods hold already. Without it the node offers ExclusiveENIs.
	// +kubebuilder:validation:Minimum=0
	OfferedENIs *int `json:"offeredENIs,omitempty"`
	// HostStackCIDRs are reached through the node's network stack by every pod.
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:Format=cidr
	// +listType=atomic
	HostStackCIDRs []string `json:"hostStackCIDRs,omitempty"`
	// MasqueradeOutside makes the node masquerade pod traffic that leaves the VPC.
	MasqueradeOutside bool `json:"masqueradeOutside,omitempty"`
	// ENIMbit is the rate in Mbit/s that each shared ENI may send, so that packets wait on the node, where
	// their pods' network priority counts; 0: it counts nowhere.
	// +kubebuilder:validation:Minimum=0
	ENIMbit int `json:"eniMbit,omitempty"`

	Limits Limits `json:"limits,omitempty"`
	Pool   Pool   `json:"pool,omitempty"`

	// ENIs are the secondary network interfaces whose addresses serve pods.
	// +kubebuilder:validation:MaxItems=128
	// +listType=map
	// +listMapKey=token
	ENIs []ENI `json:"enis,omitempty"`

	// PodLimits are limits of pods' bandwidth: of the node's pods that have annotations for it, and of
	// those that the agent reports with a limit and that have none any more. What an agent does not
	// find here it leaves as it is.
	// +kubebuilder:validation:MaxItems=4096
	// +listType=map
	// +listMapKey=uid
	PodLimits []PodLimits `json:"podLimits,omitempty"`

	// TakenAway are addresses and ENIs that the controller took away a short while ago. The
	// cloud's lists may still have them, and they are not adopted from a list.
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	TakenAway []TakenAway `json:"takenAway,omitempty"`

	// Conditions are written by a controller of the previous version. The current one moves them to
	// status.controllerConditions; see NodeNetwork.ControllerConditions.
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// PodLimits are the limits of one pod's bandwidth, in bits per second; 0 is no limit.
type PodLimits struct {
	// UID of the pod.
	// +kubebuilder:validation:MaxLength=128
	UID string `json:"uid"`
	// Ingress is for what the pod receives, Egress for what it sends.
	// +kubebuilder:validation:Minimum=0
	Ingress int64 `json:"ingress,omitempty"`
	// +kubebuilder:validation:Minimum=0
	Egress int64 `json:"egress,omitempty"`
}

// Limits are what the instance type allows.
type Limits struct {
	// ENIs is how many network interfaces the instance may have, the primary included.
	// +kubebuilder:validation:Minimum=0
	ENIs int `json:"enis,omitempty"`
	// AddressesPerENI is how many IPv4 addresses one interface may have, its primary included.
	// +kubebuilder:validation:Minimum=0
	AddressesPerENI int `json:"addressesPerENI,omitempty"`
	// MaxPods is how many pods with their own address the node can hold:
	// AddressesPerENI on each shared ENI, one on each exclusive ENI.
	// +kubebuilder:validation:Minimum=0
	MaxPods int `json:"maxPods,omitempty"`
	// Source is the source of the figures: "DescribeInstanceTypes" or "catalogue".
	// +kubebuilder:validation:Enum=DescribeInstanceTypes;catalogue
	Source string `json:"source,omitempty"`
}

// Pool is how many free addresses the node keeps.
//
// +kubebuilder:validation:XValidation:rule="self.min <= self.max",message="pool.min must not be above pool.max"
type Pool struct {
	// Min free addresses are always kept assigned, if the type and the vSwitch allow.
	// +kubebuilder:validation:Minimum=0
	Min int `json:"min"`
	// Max free addresses are kept; more are given back.
	// +kubebuilder:validation:Minimum=0
	Max int `json:"max"`
	// CoolingSeconds is how long a freed address cools before another pod gets it.
	// +kubebuilder:validation:Minimum=0
	CoolingSeconds int `json:"coolingSeconds"`
	// WarmENIs is how many free exclusive ENIs are kept attached.
	// +kubebuilder:validation:Minimum=0
	WarmENIs int `json:"warmENIs,omitempty"`
}

// ENIPhase is the phase of an ENI's life.
//
// +kubebuilder:validation:Enum=Creating;Attaching;Ready;Detaching
type ENIPhase string

const (
	// ENICreating means that the intent is recorded; the cloud may or may not have the ENI yet.
	ENICreating ENIPhase = "Creating"
	// ENIAttaching means that the ENI exists and is being attached.
	ENIAttaching ENIPhase = "Attaching"
	// ENIReady means that the ENI is attached; its addresses may be used.
	ENIReady ENIPhase = "Ready"
	// ENIDetaching means that the ENI is being removed; none of its addresses is used any more.
	ENIDetaching ENIPhase = "Detaching"
)

// ENI is one elastic network interface of the node.
type ENI struct {
	// Token is the ClientToken of the call that created the ENI. It is recorded
	// before the call, so that a restart repeats it and gets the same ENI.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Token string `json:"token"`
	// ID is the cloud's id ("eni-…"); empty until the create call was answered.
	ID string `json:"id,omitempty"`
	// MAC is the address by which the node finds the device.
	// +kubebuilder:validation:Format=mac
	MAC       string   `json:"mac,omitempty"`
	Phase     ENIPhase `json:"phase"`
	VSwitchID string   `json:"vSwitchID,omitempty"`
	// Exclusive: the ENI serves one pod, into which the node moves it.
	Exclusive bool `json:"exclusive,omitempty"`
	// Own is Exclusive under its previous name; see FormerNames.
	Own bool `json:"own,omitempty"`
	// RequestedAddresses is how many addresses, the primary included, the create
	// call requests.
	// +kubebuilder:validation:Minimum=0
	RequestedAddresses int `json:"requestedAddresses,omitempty"`
	// CIDRs are the vSwitch's address ranges (IPv4 first).
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Format=cidr
	// +listType=atomic
	CIDRs []string `json:"cidrs,omitempty"`
	// Gateways are the vSwitch's gateways, one for each entry of CIDRs.
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:items:XValidation:rule="isIP(self)",message="must be an IP address"
	// +listType=atomic
	Gateways []string `json:"gateways,omitempty"`
	// PrimaryAddress is the ENI's own address; it serves a pod like the others.
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="must be an IP address"
	PrimaryAddress string `json:"primaryAddress,omitempty"`
	// Addresses are all addresses of the ENI that may serve pods, the primary included.
	// +kubebuilder:validation:MaxItems=256
	// +listType=map
	// +listMapKey=address
	Addresses []Address `json:"addresses,omitempty"`
}

// Address is one address of an ENI.
type Address struct {
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="must be an IP address"
	Address string `json:"address"`
	// Releasing asks the node to stop using the address; see NodeNetwork.
	Releasing bool `json:"releasing,omitempty"`
	// Unassigning means that the node has confirmed and the controller unassigns the
	// address from the ENI: this cannot be undone.
	Unassigning bool `json:"unassigning,omitempty"`
	// Held means that the address is a backend of a load balancer, also while its pod has it. When the pod
	// is gone, the node gives it to no other pod, and it stays on its ENI, until the load balancer does
	// not have it any more.
	Held bool `json:"held,omitempty"`
}

// TakenAway is what one call took away.
type TakenAway struct {
	// ENI is the id of the ENI.
	ENI string `json:"eni"`
	// Addresses were unassigned from it; none means that the whole ENI was deleted.
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:items:XValidation:rule="isIP(self)",message="must be an IP address"
	// +listType=atomic
	Addresses []string `json:"addresses,omitempty"`
	// At is when the cloud had carried out the call.
	At metav1.Time `json:"at"`
}

// NodeNetworkStatus is the agent's part, except ControllerConditions.
type NodeNetworkStatus struct {
	// ObservedGeneration is the generation of the spec that the agent has applied.
	// The controller uses Released only when this is the spec's current generation:
	// an older confirmation may have been reverted since.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Datapath is the datapath in use, with the reason in condition DatapathReady.
	Datapath string `json:"datapath,omitempty"`
	// Demand is how many pods wait for an address that the node does not have.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Demand int `json:"demand"`
	// ENIDemand is how many pods wait for an exclusive ENI.
	// +kubebuilder:validation:Minimum=0
	// +optional
	ENIDemand int `json:"eniDemand"`
	// WaitingSandboxes are the container runtime's ids of the sandboxes with which pods began to wait for an
	// address or an ENI, at most 32 of them. By them the logs of the runtime, of the agent and of the
	// controller, with its calls to the cloud, can be compared; nothing is decided by them.
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=256
	// +listType=atomic
	WaitingSandboxes []string `json:"waitingSandboxes,omitempty"`
	// UsedCount is the length of Used.
	// +kubebuilder:validation:Minimum=0
	// +optional
	UsedCount int `json:"usedCount"`
	// Used are the addresses that pods hold.
	// +kubebuilder:validation:MaxItems=4096
	// +listType=map
	// +listMapKey=address
	Used []UsedAddress `json:"used,omitempty"`
	// Cooling are addresses that no pod holds any more and that are not used again yet.
	// +kubebuilder:validation:MaxItems=4096
	// +listType=set
	Cooling []string `json:"cooling,omitempty"`
	// Released are addresses with Releasing set that the node does not use any more.
	// +kubebuilder:validation:MaxItems=4096
	// +listType=set
	Released []string `json:"released,omitempty"`
	// MissingENIs are the ids of ENIs that are Ready according to the spec and whose device is
	// neither on the node nor in the pod of an exclusive ENI: it disappeared, or never appeared.
	// The controller compares the node with the cloud at once.
	// +kubebuilder:validation:MaxItems=128
	// +listType=set
	MissingENIs []string `json:"missingENIs,omitempty"`
	// UncountedENIs is how many ENIs are held by pods that did not request the resource
	// aliyun/eni, so that the scheduler does not count them (mode exclusive).
	// +kubebuilder:validation:Minimum=0
	UncountedENIs int `json:"uncountedENIs,omitempty"`
	// LeaseSeconds is how long the agent's Lease is valid: when it was not renewed
	// for so long, the agent is dead or stuck. 0: the agent renews none.
	// +kubebuilder:validation:Minimum=0
	LeaseSeconds int `json:"leaseSeconds,omitempty"`
	// Conditions are the agent's: Ready (the node can serve pods), DatapathReady, PolicyReady.
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// ControllerConditions are the controller's, and the only field of the status that it writes: what
	// it cannot do for the node and why (types AddressesAvailable, LimitsFromCloud, AddressesGone,
	// AgentAlive and NodeGone).
	// +listType=map
	// +listMapKey=type
	ControllerConditions []metav1.Condition `json:"controllerConditions,omitempty"`
}

// UsedAddress is an address and the pod that holds it.
type UsedAddress struct {
	// +kubebuilder:validation:MaxLength=45
	Address string `json:"address"`
	// Pod is "namespace/name".
	Pod string `json:"pod"`
	// Sandbox is the container runtime's id of the pod sandbox.
	Sandbox string `json:"sandbox,omitempty"`
	// Limits are those of the pod's bandwidth that the node enforces; nil if it has none.
	Limits *PodLimits `json:"limits,omitempty"`
	// Priority is the pod's network priority, if that has an effect and is not the usual one.
	Priority string `json:"priority,omitempty"`
}

const (
	// ConditionReady (the agent's): the node can wire pods.
	ConditionReady = "Ready"
	// ConditionDatapathReady (the agent's): the chosen datapath runs; the reason says why it was chosen.
	ConditionDatapathReady = "DatapathReady"
	// ReasonDatapathAuto and ReasonDatapathAutoLacking (of DatapathReady): auto chose the
	// fastest one; the kernel supports all, or lacks those that the message names.
	ReasonDatapathAuto        = "Auto"
	ReasonDatapathAutoLacking = "AutoLacking"
	// ReasonDatapathRefused and ReasonDatapathKept (of DatapathReady): the node cannot run the
	// datapath of the spec; the message says why. It serves no pods; or it keeps the current one.
	ReasonDatapathRefused = "Refused"
	ReasonDatapathKept    = "KeptWhileRunning"
	// ReasonDatapathObstructed (of DatapathReady, False): it is programmed, but another program
	// on the node, which the message names, may break pods' traffic.
	ReasonDatapathObstructed = "Obstructed"
	// ConditionPolicyReady (the agent's) exists while policy is on: the node has what policies say. False: the
	// message says what it lacks, and which pods start.
	ConditionPolicyReady = "PolicyReady"
	// ConditionAddressesAvailable (the controller's): the controller can get the addresses the node needs.
	// Its reason is one of the Reason constants of package cloud's error table.
	ConditionAddressesAvailable = "AddressesAvailable"
	// ConditionLimitsFromCloud (the controller's): the limits are the cloud's answer. False: they are
	// the catalogue's, and the message says why.
	ConditionLimitsFromCloud = "LimitsFromCloud"

	// ConditionAddressesGone (the controller's) is True while pods have addresses that are on no ENI of
	// the node, which its message names. They have no network and must be recreated.
	ConditionAddressesGone = "AddressesGone"
	// ConditionNodeGone (the controller's) is True while the node has ENIs that are to be given back,
	// because the Node object does not exist, is to be ignored or names another instance now.
	// The message says what the controller waits for.
	ConditionNodeGone = "NodeGone"

	// ConditionAgentAlive (the controller's) is False while the node's agent does not renew its Lease, and
	// does not exist otherwise.
	ConditionAgentAlive = "AgentAlive"
)
