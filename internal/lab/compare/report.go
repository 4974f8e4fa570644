package compare

// Report is all that was measured.
type Report struct {
	// Date is the day of the measurement.
	Date         string    `json:"date"`
	Kernel       string    `json:"kernel"`
	CPUs         int       `json:"cpus"`
	Nodes        int       `json:"nodes"`
	InstanceType string    `json:"instanceType"`
	Rounds       int       `json:"rounds"`
	Pods         int       `json:"pods"`
	Networks     []Network `json:"networks"`
}

// Network is what was measured of one network.
type Network struct {
	Name string `json:"name"` // "terway", "flannel"
	// Datapath is how pods were wired, as the nodes say.
	Datapath string `json:"datapath,omitempty"`
	// Default says that Terway chose it.
	Default   bool      `json:"default,omitempty"`
	Paths     []Path    `json:"paths"`
	Seen      Seen      `json:"seen"`
	Policy    Policy    `json:"policy"`
	Limits    []Limit   `json:"limits"`
	Addresses Addresses `json:"addresses"`
	// LoadBalancer is absent until it can be measured.
	LoadBalancer *LoadBalancer `json:"loadBalancer,omitempty"`
}

// The paths that are measured.
const (
	// PathPodToPod is between pods of two nodes, against these nodes.
	PathPodToPod = "pod to pod"
	// PathPodToInstance is from a pod to an instance of the VPC outside the cluster's
	// pod network, against the pod's node.
	PathPodToInstance = "pod to instance"
)

// Path is the speed of pods as a ratio to that of nodes over the same fabric.
type Path struct {
	Name    string  `json:"name"`
	Stream  Spread  `json:"stream"`  // throughput: below 1 is slower than the nodes
	P50     Spread  `json:"p50"`     // time of a request and its answer: above 1 is slower
	Connect Spread  `json:"connect"` // time until a connection is open, p50
	Rounds  []Round `json:"rounds"`
}

// Round is what was measured of pods and nodes in turns.
type Round struct {
	Pods  Speed `json:"pods"`
	Nodes Speed `json:"nodes"`
}

// Speed is one turn's measurement; it depends on the machine and what else runs on it.
type Speed struct {
	BitsPerSecond float64 `json:"bitsPerSecond"`
	P50           float64 `json:"p50Seconds"`
	// P99 is in no table: the slowest of a hundred waited for a CPU, not for the network.
	P99     float64 `json:"p99Seconds"`
	Connect float64 `json:"connectSeconds"`
}

// Seen is what an instance of the VPC that is no node sees of a pod.
type Seen struct {
	Pod  string `json:"pod"`
	As   string `json:"as"`
	Node string `json:"node"`
}

// Policy is what became of connections when a NetworkPolicy denied all of them.
type Policy struct {
	Enforced bool `json:"enforced"`
	// Tried and Passed count connections after the policy was made.
	Tried  int `json:"tried"`
	Passed int `json:"passed"`
	// Seconds is how long was tried, or until no connection passed any more.
	Seconds float64 `json:"seconds"`
}

// Limit is a pod's bandwidth when it asked for a limit.
type Limit struct {
	// Direction is "egress" or "ingress", as in the annotation.
	Direction string  `json:"direction"`
	Asked     float64 `json:"askedBitsPerSecond"`
	Got       float64 `json:"gotBitsPerSecond"`
}

// Kept tells whether the pod got about what it asked for: within twice, as shapers
// let bursts pass.
func (l Limit) Kept() bool { return l.Got <= 2*l.Asked }

// Addresses is what the pods' network holds and what pods use of it.
type Addresses struct {
	// Pods have an address of the pod network.
	Pods int `json:"pods"`
	// OnENIs are addresses of the VPC on the nodes' secondary ENIs, InBlocks those of
	// the ranges that belong to one node each.
	OnENIs   int `json:"onENIs"`
	InBlocks int `json:"inBlocks"`
	// Blocks are these ranges.
	Blocks []string `json:"blocks,omitempty"`
	// Routes are the entries that somebody made in the VPC's route tables.
	Routes int `json:"routes"`
}

// Reserved is how many addresses nobody else can have.
func (a Addresses) Reserved() int { return a.OnENIs + a.InBlocks }

// Quotas of an account and a VPC by default (VPC's limits page); both can be raised.
const (
	QuotaRouteEntries     = 200   // custom entries of a route table
	QuotaPrivateAddresses = 60000 // private addresses of a VPC
)

// LoadBalancer is where a load balancer sends what is meant for a pod.
type LoadBalancer struct {
	// Direct: to the pod's address; else to a NodePort.
	Direct bool `json:"direct"`
}
