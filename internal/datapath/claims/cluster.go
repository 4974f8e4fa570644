package claims

// Names that Terway uses on objects of Kubernetes. The chart repeats some of them; test/chart
// compares.
const (
	// LabelMode on a Node is its mode, shared or exclusive.
	LabelMode = "network.terway.dev/mode"
	// LabelExclusiveENIs on a Node is exclusive_enis for this node.
	LabelExclusiveENIs = "network.terway.dev/exclusive-enis"
	// LabelOtherMode with the value OtherModeExclusive is how other versions of Terway label a node
	// in mode exclusive.
	LabelOtherMode     = "k8s.aliyun.com/exclusive-mode-eni-type"
	OtherModeExclusive = "eniOnly"

	// LabelIgnore on a Node, "true", makes Terway ignore it; LabelOtherIgnore is the label of other
	// versions, and LabelNodeType with VirtualNode is on nodes that are no machines.
	LabelIgnore      = "network.terway.dev/ignore"
	LabelOtherIgnore = "k8s.aliyun.com/ignore-by-terway"
	LabelNodeType    = "type"
	VirtualNode      = "virtual-kubelet"

	// LabelLease is on the Leases of all agents (v1alpha1.LeaseName), in Terway's namespace.
	LabelLease = "network.terway.dev/agent"

	// TaintNotReady keeps pods away from a node whose network is not ready.
	TaintNotReady = "network.terway.dev/not-ready"
	// AnnotationMaxPods on a Node is how many pods with their own address it can hold.
	AnnotationMaxPods = "network.terway.dev/max-pods"
	// AnnotationPodCIDR on a Node says for which of its blocks the node's CNI plugins are
	// configured (network: flannel), separated by a comma if there is one for each family. Package
	// agent/flannel writes it; pods that start earlier would have addresses of another block.
	AnnotationPodCIDR = "network.terway.dev/pod-cidr"

	// ResourceENI is the extended resource by which a pod requests an exclusive ENI. Other versions
	// of Terway use the same name.
	ResourceENI = "aliyun/eni"
	// AnnotationExclusiveENI on a pod requests an exclusive ENI: "true" or "false". The admission
	// webhook turns it into a request of ResourceENI, which the scheduler counts.
	AnnotationExclusiveENI = "network.terway.dev/exclusive-eni"
	// AnnotationDrainAdded on a pod is by how many seconds the admission webhook has made its grace period longer,
	// for which its containers wait before they end (package loadbalancer, Needs.Sleep).
	AnnotationDrainAdded = "network.terway.dev/drain-added-seconds"
	// LabelReadinessGate, with the value "true", is on pods with readiness gates of load balancers, so that the
	// controller need not watch all pods. The admission webhook sets it.
	LabelReadinessGate = "network.terway.dev/readiness-gate"
	// LabelInjectGates, with the value GatesEnabled, on a namespace: its new pods get what load balancers need. The
	// existing manager uses the same. With GatesRequired none is created without it.
	LabelInjectGates = "k8s.alibabacloud.com/pod-readiness-gate-inject"
	GatesEnabled     = "enabled"
	GatesRequired    = "required"

	// LabelConnectivity is on the namespaces, "true", and on the pods of "terwayctl connectivity".
	// AnnotationConnectivityUntil on such a namespace is when its run has ended at the latest: then the next one
	// deletes it.
	LabelConnectivity           = "network.terway.dev/connectivity"
	AnnotationConnectivityUntil = "network.terway.dev/connectivity-until"

	// FinalizerENIs keeps a NodeNetwork until its ENIs are gone from the cloud.
	FinalizerENIs = "network.terway.dev/enis"
)

// Tags of resources in the cloud.
const (
	// TagCreator, with the value Creator, is on everything that Terway creates.
	TagCreator = "creator"
	Creator    = "terway"

	// TagCluster is on everything that the controller creates; its value is cluster_id. TagNode and
	// TagToken identify the node and the client token of an ENI.
	TagCluster = "terway.dev/cluster"
	TagNode    = "terway.dev/node"
	TagToken   = "terway.dev/token"
	// TagExclusive marks an exclusive ENI. TagExclusiveFormer is its name in the previous version;
	// it is read, not written.
	TagExclusive       = "terway.dev/exclusive"
	TagExclusiveFormer = "terway.dev/own"

	// TagPlan is on the resources of a plan and has its name. TagRole is on vSwitches of a plan.
	TagPlan = "terway.dev/plan"
	TagRole = "terway.dev/role"
)
