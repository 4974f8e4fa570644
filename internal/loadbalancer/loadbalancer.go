// Package loadbalancer says what load balancer a Service wants (Read), which backends its listeners should have
// (Backends), how a group gets them (Changes), what of a load balancer has to be set (Differences), and which readiness
// gates a pod needs (NeedsOf). It knows neither the cluster nor the cloud: all it needs is in its arguments, and what it
// returns is a value.
package loadbalancer

import "net/netip"

// Product is a kind of load balancer.
type Product string

// Products of Alibaba Cloud.
const (
	CLB Product = "CLB" // Classic Load Balancer, SLB 2014-05-15
	NLB Product = "NLB" // Network Load Balancer, 2022-04-30
)

// Classes of Services that are always ours.
const (
	ClassCLB = "network.terway.dev/clb"
	ClassNLB = "network.terway.dev/nlb"
)

// Protocol is the protocol of a listener.
type Protocol string

// Protocols of listeners. Only CLB has HTTP.
const (
	TCP  Protocol = "TCP"
	UDP  Protocol = "UDP"
	HTTP Protocol = "HTTP"
)

// Settings are the cluster's settings that concern load balancers.
type Settings struct {
	// Classes are further classes of Services and what they mean; "" stands for Services without one.
	Classes map[string]Product
	// Zones are the zones of an NLB, and their first vSwitch is that of an intranet CLB.
	Zones []Zone
	// PodBackends: the pods themselves are backends, not NodePorts.
	PodBackends bool
}

// Zone is a zone with a vSwitch in it.
type Zone struct{ ID, VSwitch string }

// LoadBalancer is a load balancer as a Service wants it.
type LoadBalancer struct {
	Product Product
	// ID is of a load balancer that the user made; "" for one of our own. The user's has no Attributes
	// here, no Tags, Zones and SecurityGroups: they are the user's.
	ID string
	// OwnListeners: the listeners are ours. It is false only for a user's load balancer without
	// force-override-listeners.
	OwnListeners bool
	// Preserve: the load balancer stays when the Service is deleted.
	Preserve bool
	Tags     map[string]string
	// Zones are those of an NLB. If the Service does not say which, they are empty.
	Zones []Zone
	// SecurityGroups are those that an NLB joins.
	SecurityGroups []string
	// Attributes are parameters of the load balancer, by their names in the product's API. Each
	// parameter that has a meaning is there, so that an annotation that is removed is undone.
	Attributes map[string]string
	// New has what only a new load balancer gets: the cluster's configuration says it, not the Service, and
	// may say something else later.
	New Place
	// Sources may connect; empty: all.
	Sources []netip.Prefix
	// SourcesWrong: the Service does not say which may. Those that may stay, and all listeners are
	// Wrong, so that none is opened for everybody.
	SourcesWrong bool
	Listeners    []Listener
	// DefaultWeight is that of a backend that takes connections.
	DefaultWeight int
	// DrainSeconds is how long a pod's containers sleep before they stop; 0: they do not.
	DrainSeconds int
	// Capped says which value is more than the product can have, and what it gets; nil: none is. It stops nothing.
	Capped      error
	PodBackends bool
}

// Place is where a new load balancer is.
type Place struct {
	VSwitchID string // of an intranet CLB
	Zones     []Zone // of an NLB
}

// Listener is a listener with a server group of its own.
type Listener struct {
	Port     int32
	Protocol Protocol
	// ServicePort is the index in the Service's spec.ports.
	ServicePort int
	// GroupID is of a group of the user's own load balancer; "" for a group of ours.
	GroupID string
	// Wrong: the annotations do not say what listener it should be. If there is one on its port, it and
	// its group stay as they are; its backends follow the Service.
	Wrong bool
	// Attributes are parameters of the listener and Group parameters of its server group, by their
	// names in the product's API.
	Attributes, Group map[string]string
}
