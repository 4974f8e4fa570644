package compare

// Report has all results.
type Report struct {
	// Date is the day of the measurement.
	Date         string    `json:"date"`
	Kernel       string    `json:"kernel"`
	CPUs         int       `json:"cpus"`
	Nodes        int       `json:"nodes"`
	InstanceType string    `json:"instanceType"`
	Rounds       int       `json:"rounds"`
	Upgrades     int       `json:"upgrades"`
	Pods         int       `json:"pods"`
	Networks     []Network `json:"networks"`
}

// Network has the results of one network.
type Network struct {
	Name string `json:"name"` // "terway", "flannel"
	// Datapath is the datapath that the nodes report.
	Datapath string `json:"datapath,omitempty"`
	// Default says that Terway chose the datapath.
	Default   bool      `json:"default,omitempty"`
	Paths     []Path    `json:"paths"`
	Seen      Seen      `json:"seen"`
	Policy    Policy    `json:"policy"`
	Limits    []Limit   `json:"limits"`
	Addresses Addresses `json:"addresses"`
	// LoadBalancer is nil if it was not measured.
	LoadBalancer *LoadBalancer `json:"loadBalancer,omitempty"`
}

// The measured paths.
const (
	// PathPodToPod is between pods on two nodes, relative to these nodes.
	PathPodToPod = "pod to pod"
	// PathPodToInstance is from a pod to an instance of the VPC outside the pod network,
	// relative to the pod's node.
	PathPodToInstance = "pod to instance"
)

// Path is the speed of pods as a ratio to the speed of nodes over the same fabric.
type Path struct {
	Name    string  `json:"name"`
	Stream  Spread  `json:"stream"`  // throughput: below 1 is slower than the nodes
	P50     Spread  `json:"p50"`     // time from request to answer: above 1 is slower
	Connect Spread  `json:"connect"` // time until a connection is open, p50
	Rounds  []Round `json:"rounds"`
}

// Round has the measurements of pods and nodes of one round.
type Round struct {
	Pods  Speed `json:"pods"`
	Nodes Speed `json:"nodes"`
}

// Speed is one measurement. It depends on the machine and its load.
type Speed struct {
	BitsPerSecond float64 `json:"bitsPerSecond"`
	P50           float64 `json:"p50Seconds"`
	// P99 is in no table: the slowest of a hundred requests waits for a CPU, not for the
	// network.
	P99     float64 `json:"p99Seconds"`
	Connect float64 `json:"connectSeconds"`
}

// Seen is the client address that an instance outside the cluster sees for a pod.
type Seen struct {
	Pod  string `json:"pod"`
	As   string `json:"as"`
	Node string `json:"node"`
}

// Policy is the effect of a NetworkPolicy that denies all connections.
type Policy struct {
	Enforced bool `json:"enforced"`
	// Tried and Passed count connections after the policy was created.
	Tried  int `json:"tried"`
	Passed int `json:"passed"`
	// Seconds is the duration of the test, or the time until the last connection that passed.
	Seconds float64 `json:"seconds"`
}

// Limit is the bandwidth of a pod with a limit.
type Limit struct {
	// Direction is "egress" or "ingress", as in the annotation.
	Direction string  `json:"direction"`
	Asked     float64 `json:"askedBitsPerSecond"`
	Got       float64 `json:"gotBitsPerSecond"`
}

// Kept reports whether the bandwidth is about the limit: at most twice, because shapers allow
// bursts.
func (l Limit) Kept() bool { return l.Got <= 2*l.Asked }

// Addresses counts the addresses that the pods' network holds, and those that pods use.
type Addresses struct {
	// Pods is the number of pods with an address of the pod network.
	Pods int `json:"pods"`
	// OnENIs is the number of VPC addresses on the nodes' secondary ENIs, InBlocks that of the
	// ranges that each belong to one node.
	OnENIs   int `json:"onENIs"`
	InBlocks int `json:"inBlocks"`
	// Blocks are these ranges.
	Blocks []string `json:"blocks,omitempty"`
	// Routes is the number of custom entries in the VPC's route tables.
	Routes int `json:"routes"`
}

// Reserved returns how many addresses are not available to others.
func (a Addresses) Reserved() int { return a.OnENIs + a.InBlocks }

// Default quotas of an account and a VPC (VPC's limits page); both can be raised.
const (
	QuotaRouteEntries     = 200   // custom entries of a route table
	QuotaPrivateAddresses = 60000 // private addresses of a VPC
)

// LoadBalancer describes how a load balancer reaches a pod.
type LoadBalancer struct {
	// Direct: at the pod's address; otherwise at a NodePort.
	Direct bool `json:"direct"`
	// Sent is how many requests it got while all pods behind it were made anew, Failed how many
	// were not answered.
	Sent   int `json:"sent"`
	Failed int `json:"failed"`
}
