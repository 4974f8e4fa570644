package cloud

import (
	"context"
	"net/netip"
)

// BalancerAPI has the calls for the load balancers of one product: CLB (SLB 2014-05-15) or NLB
// (2022-04-30). Parameters and settings are maps by the names of the product's API; values are
// spelled as the API spells them, booleans and numbers too, and lists are separated by commas.
//
// A change returns when it is in force: a job that fails, or does not end, is an error. Every
// error is an *Error (see Classify).
type BalancerAPI interface {
	// FindBalancers returns the load balancers that have a tag.
	FindBalancers(ctx context.Context, key, value string) ([]Balancer, error)
	// DescribeBalancer returns one load balancer.
	DescribeBalancer(ctx context.Context, id string) (*Balancer, error)
	// CreateBalancer creates a load balancer and returns its id. The same Token gives the same
	// one. It may not be usable yet: see Balancer.Ready.
	CreateBalancer(ctx context.Context, want NewBalancer) (id string, err error)
	// SetBalancer changes some settings of a load balancer.
	SetBalancer(ctx context.Context, id string, settings map[string]string) error
	// SetZones changes the zones of an NLB: the vSwitch by zone.
	SetZones(ctx context.Context, id string, zones map[string]string) error
	// SetSecurityGroups makes an NLB join and leave security groups.
	SetSecurityGroups(ctx context.Context, id string, join, leave []string) error
	// SetTags adds tags to a load balancer, and removes others.
	SetTags(ctx context.Context, id string, add map[string]string, remove []string) error
	// DeleteBalancer takes off a load balancer's protections and deletes it, with its listeners
	// and, for CLB, its groups. One that does not exist is no error.
	DeleteBalancer(ctx context.Context, id string) error

	// ListListeners returns the listeners of a load balancer.
	ListListeners(ctx context.Context, balancer string) ([]Listener, error)
	// CreateListener creates a listener, which then runs.
	CreateListener(ctx context.Context, balancer string, want Listener) error
	// SetListener changes settings of a listener, and sets its group and description.
	SetListener(ctx context.Context, is Listener, settings map[string]string) error
	// StartListener starts a listener that is stopped.
	StartListener(ctx context.Context, is Listener) error
	// DeleteListener deletes a listener. One that does not exist is no error.
	DeleteListener(ctx context.Context, is Listener) error
	// Health returns what the health checks of a listener find.
	Health(ctx context.Context, is Listener) (Health, error)

	// ListGroups returns the server groups of a load balancer, and for NLB, whose groups have no
	// load balancer before a listener uses them, those that have the tag.
	ListGroups(ctx context.Context, balancer, key, value string) ([]Group, error)
	// CreateGroup creates a server group without backends and returns its id. For NLB the same
	// Token gives the same one.
	CreateGroup(ctx context.Context, balancer string, want NewGroup) (id string, err error)
	// SetGroup changes settings of a group (NLB).
	SetGroup(ctx context.Context, id string, settings map[string]string) error
	// DeleteGroup deletes a group that no listener uses. One that does not exist is no error.
	DeleteGroup(ctx context.Context, id string) error

	// ListBackends returns the backends of a group. While another job changes them it is an error,
	// of class Conflict.
	ListBackends(ctx context.Context, group string) ([]Backend, error)
	// AddBackends, RemoveBackends and WeighBackends change a group: all of the backends or none.
	AddBackends(ctx context.Context, group string, list []Backend) error
	RemoveBackends(ctx context.Context, group string, list []Backend) error
	WeighBackends(ctx context.Context, group string, list []Backend) error

	// FindAccess returns the access lists of a VPC that have a tag.
	FindAccess(ctx context.Context, vpc, key, value string) ([]AccessList, error)
	// CreateAccess creates an access list without sources and returns its id. One of CLB without sources lets
	// all clients connect: add some before a listener gets it.
	CreateAccess(ctx context.Context, want NewAccess) (id string, err error)
	// ChangeAccess adds sources to an access list, then removes others.
	ChangeAccess(ctx context.Context, id string, add, remove []netip.Prefix) error
	// DeleteAccess deletes an access list that nothing uses. One that does not exist is no error.
	DeleteAccess(ctx context.Context, id string) error
}

// AccessList says which clients may connect: an access control list of CLB, which listeners get as AclId, or a
// security group, which an NLB joins.
type AccessList struct {
	ID      string
	Tags    map[string]string
	Sources []netip.Prefix
}

// NewAccess describes an access list to create.
type NewAccess struct {
	Token string // of a security group: the same one gives the same group
	Name  string // an account has each name of an access control list once
	VPC   string // of a security group
	Tags  map[string]string
}

// Balancer is a load balancer.
type Balancer struct {
	ID string
	// Ready: it can be changed and used.
	Ready bool
	// Address is the address of a CLB; Host is the name of an NLB.
	Address netip.Addr
	Host    string
	VPC     string
	Tags    map[string]string
	// Zones are those of an NLB: the vSwitch by zone.
	Zones          map[string]string
	SecurityGroups []string
	Settings       map[string]string
}

// NewBalancer describes a load balancer to create.
type NewBalancer struct {
	Token          string
	VPC            string
	Tags           map[string]string
	Zones          map[string]string
	SecurityGroups []string
	Settings       map[string]string
}

// Listener is a listener of a load balancer. A listener of CLB has no id: its load balancer, port
// and protocol identify it.
type Listener struct {
	ID       string
	Balancer string
	Port     int
	// Protocol is TCP, UDP, HTTP or another one of the product, in upper case.
	Protocol    string
	Group       string
	Description string
	Running     bool
	Settings    map[string]string
}

// Group is a server group.
type Group struct {
	ID   string
	Name string
	// Protocol is that of an NLB's group.
	Protocol string
	Tags     map[string]string
	Settings map[string]string
	// Backends is their number; -1 if it is not known.
	Backends int
}

// NewGroup describes a server group to create.
type NewGroup struct {
	Token string
	Name  string
	// What only NLB has.
	Protocol string
	VPC      string
	Tags     map[string]string
	Settings map[string]string
}

// The types of a backend's server.
const (
	ServerENI      = "eni"
	ServerInstance = "ecs"
)

// Backend is an address and port in a server group.
type Backend struct {
	// Server is the id of an ENI or instance.
	Server string
	// Type is ServerENI or ServerInstance.
	Type        string
	Address     netip.Addr
	Port        int
	Weight      int
	Description string
}

// BackendKey identifies a backend in a group.
type BackendKey struct {
	Server  string
	Address netip.Addr
	Port    int
}

// Key returns what identifies the backend: for an instance, without the address, which is its
// primary one.
func (b Backend) Key() BackendKey {
	if b.Type == ServerInstance {
		return BackendKey{Server: b.Server, Port: b.Port}
	}
	return BackendKey{b.Server, b.Address, b.Port}
}

// Health is what a listener's health checks find.
type Health struct {
	// Listed has the cloud's words for backends; "" for healthy ones.
	Listed map[BackendKey]string
	// Others is the word for all other backends; "" if they are healthy.
	Others string
}

// Of returns why a backend is not healthy; "" if it is.
func (h Health) Of(b BackendKey) string {
	if why, ok := h.Listed[b]; ok {
		return why
	}
	return h.Others
}
