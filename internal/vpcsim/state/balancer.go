package state

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// This file has what the products of load balancers share: load balancers as a data plane sees
// them, what a data plane reports of backends, and the addresses of load balancers.

// Products of load balancers, in Balancer.Product.
const ProductCLB = "CLB" // Slb 2014-05-15

// Protocols of a BalancerListener.
const (
	ProtocolTCP  = "TCP"
	ProtocolUDP  = "UDP"
	ProtocolHTTP = "HTTP"
)

// Schedulers of a BalancerListener.
const (
	SchedulerWRR = "wrr" // round robin by weight
	SchedulerRR  = "rr"  // round robin, the weight is 0 or not 0
	SchedulerWLC = "wlc" // the fewest connections for its weight
	SchedulerSCH = "sch" // consistent hash of the source address
	SchedulerTCH = "tch" // consistent hash of addresses and ports
)

// Balancer is a load balancer as a data plane sees it: one that is active, with the listeners
// that run.
type Balancer struct {
	LoadBalancerId string
	Product        string
	// VpcId is the VPC of the backends; "" as long as a public one has none.
	VpcId     string
	Addresses []BalancerAddress
	// DNSName resolves to the public addresses, or to the private ones if there are none; only an NLB has one.
	DNSName string `json:",omitempty"`
	// SecurityGroupIds are the groups that judge what comes to the addresses; none: no group
	// does.
	SecurityGroupIds []string `json:",omitempty"`
	Listeners        []BalancerListener
}

// BalancerAddress is an address at which a load balancer listens.
type BalancerAddress struct {
	Address netip.Addr
	// Public: reached from outside of the VPC too. VSwitchId is empty for such an address.
	Public    bool   `json:",omitempty"`
	VSwitchId string `json:",omitempty"`
	ZoneId    string `json:",omitempty"`
}

// BalancerListener is a listener that runs.
type BalancerListener struct {
	// ListenerId is unique in the region.
	ListenerId string
	Protocol   string
	Port       uint16
	Scheduler  string
	// Persistence is how long a source address keeps its backend after its last connection
	// began; 0: not at all.
	Persistence time.Duration `json:",omitempty"`
	// EstablishedTimeout ends a connection without packets.
	EstablishedTimeout time.Duration `json:",omitempty"`
	// ConnectionDrain is how long the connections to a backend that was removed, or is
	// unhealthy, go on; 0: until they are closed.
	ConnectionDrain time.Duration `json:",omitempty"`
	// PreserveClientIP: backends see the address of the client. Not for HTTP.
	PreserveClientIP bool `json:",omitempty"`
	// AccessList restricts the clients; nil: all are served.
	AccessList *AccessList `json:",omitempty"`
	// HTTP has what only a listener of this protocol has.
	HTTP *BalancerHTTP `json:",omitempty"`
	// HealthCheck is nil without checks: then every backend counts as healthy.
	HealthCheck *BalancerHealthCheck `json:",omitempty"`
	Backends    []BalancerBackend
}

// AccessList has the clients that a listener serves, or those that it does not.
type AccessList struct {
	Allow bool
	CIDRs []netip.Prefix
}

// BalancerHTTP has the settings of an HTTP listener.
type BalancerHTTP struct {
	// RequestTimeout is how long a backend may take to answer; IdleTimeout is how long a
	// client's connection may be idle.
	RequestTimeout, IdleTimeout time.Duration
	// StickySession: "insert" gives a client a cookie that expires after CookieTimeout,
	// "server" rewrites the application's Cookie, "" does neither.
	StickySession string        `json:",omitempty"`
	CookieTimeout time.Duration `json:",omitempty"`
	Cookie        string        `json:",omitempty"`
	// The header fields that are added beside X-Forwarded-For.
	ForwardedProto, ForwardedPort, ForwardedClientPort, ForwardedAddress, ForwardedID bool
}

// Types of a BalancerHealthCheck.
const (
	CheckTCP  = "tcp"  // connect
	CheckHTTP = "http" // one of the Codes
	CheckUDP  = "udp"  // no ICMP error, or the expected answer
)

// BalancerHealthCheck is how a listener's backends are checked, from 100.64.0.0/10.
type BalancerHealthCheck struct {
	Type string
	// Port is 0 for the backend's own.
	Port uint16 `json:",omitempty"`
	// Interval is the time between two checks, Timeout how long one waits for an answer.
	Interval, Timeout time.Duration
	// Healthy and Unhealthy are how many checks in a row change the verdict.
	Healthy, Unhealthy int
	// Method, Domain and URI are those of an HTTP request; a Domain of "" is the backend's
	// address. Codes are the classes of status codes that are healthy, such as "http_2xx".
	Method string   `json:",omitempty"`
	Domain string   `json:",omitempty"`
	URI    string   `json:",omitempty"`
	Codes  []string `json:",omitempty"`
	// Request is what a UDP check sends, Expect what it wants back; "" for no preference.
	Request string `json:",omitempty"`
	Expect  string `json:",omitempty"`
}

// BalancerBackend is a backend of a listener. One that was removed is not in the list.
type BalancerBackend struct {
	// Key is unique in the listener, and stays the same while the backend does.
	Key      string
	ServerId string
	Address  netip.Addr
	Port     uint16
	// Weight is 0 to 100; 0: no new connections.
	Weight int
	BackendVerdict
}

// Takes reports whether a backend of the listener gets new connections.
func (l *BalancerListener) Takes(b *BalancerBackend) bool {
	return b.Weight > 0 && (l.HealthCheck == nil || b.Health == Healthy)
}

// Health is the verdict of health checks on a backend.
type Health string

// The verdicts.
const (
	HealthUnknown Health = "" // none yet
	Healthy       Health = "healthy"
	Unhealthy     Health = "unhealthy"
)

// BackendVerdict is the result of a backend's health checks.
type BackendVerdict struct {
	Health Health `json:",omitempty"`
	// Reason says why it is unhealthy: one of the Reason constants.
	Reason string `json:",omitempty"`
}

// Reasons for an unhealthy backend, in the words of NLB.
const (
	ReasonConnectTimeout    = "CONNECT_TIMEOUT"
	ReasonConnectFailed     = "CONNECT_FAILED"
	ReasonResponseTimeout   = "RECV_RESPONSE_TIMEOUT"
	ReasonConnectInterrupt  = "CONNECT_INTERRUPT"
	ReasonCodeNotMatch      = "HTTP_CODE_NOT_MATCH"
	ReasonHTTPInvalidHeader = "HTTP_INVALID_HEADER"
)

// BackendHealth is what a data plane reports of a backend of a listener.
type BackendHealth struct {
	ListenerId string
	Key        string
	BackendVerdict
}

// backendKey returns BalancerBackend.Key.
func backendKey(serverID string, a netip.Addr, port int) string {
	// A view makes the keys of all backends, so without the strings between.
	key := make([]byte, 0, len(serverID)+len("/255.255.255.255:65535"))
	key = append(append(key, serverID...), '/')
	key = append(a.AppendTo(key), ':')
	return string(strconv.AppendInt(key, int64(port), 10))
}

// checked is a listener whose backends are checked.
type checked struct {
	// verdicts are those on its backends, by key.
	verdicts *map[string]BackendVerdict
	// keys are those of its backends.
	keys iter.Seq[string]
}

// has reports whether a listener has a backend.
func (l checked) has(key string) bool {
	for k := range l.keys {
		if k == key {
			return true
		}
	}
	return false
}

// ReportHealth records verdicts on backends. It ignores those on listeners and backends that do
// not exist (any more).
func (s *State) ReportHealth(reports []BackendHealth) {
	var news []string
	for _, r := range reports {
		l, ok := s.checkedListener(r.ListenerId)
		if !ok || (*l.verdicts)[r.Key] == r.BackendVerdict || !l.has(r.Key) {
			continue
		}
		ensure(l.verdicts)
		(*l.verdicts)[r.Key] = r.BackendVerdict
		news = append(news, r.ListenerId)
	}
	if len(news) > 0 {
		s.changed(news...)
	}
}

func (s *State) checkedListener(id string) (checked, bool) {
	for _, p := range products {
		if p.checked == nil {
			continue
		}
		if l, ok := p.checked(&s.data, id); ok {
			return l, true
		}
	}
	return checked{}, false
}

// forget drops the verdicts on backends that a listener has not any more: a backend that comes
// back is checked anew.
func (l checked) forget() {
	kept := map[string]BackendVerdict{}
	for key := range l.keys {
		if v, ok := (*l.verdicts)[key]; ok {
			kept[key] = v
		}
	}
	if *l.verdicts = kept; len(kept) == 0 {
		*l.verdicts = nil
	}
}

// verdict returns the verdict on a backend.
func (s *State) verdict(verdicts map[string]BackendVerdict, key string) BackendVerdict {
	v, ok := verdicts[key]
	if !ok && s.options.AssumeHealthy {
		v.Health = Healthy
	}
	return v
}

// serverGone removes a deleted instance or ENI from the groups of all products.
func (s *State) serverGone(id string) {
	s.slbServerGone(id)
	s.nlbServerGone(id)
}

// pickVIP selects an address of a vSwitch for a load balancer: the named one, or a free one if
// that is zero. ok is false if there is none. Take it with take.
func (s *State) pickVIP(v *VSwitch, named netip.Addr) (a netip.Addr, ok bool) {
	switch {
	case v.Full || s.privateIPs(v.VpcId) >= s.options.Limits.PrivateIPsPerVPC:
		return a, false
	case named.IsValid():
		return named, usable(v.CidrBlock, named) && s.pool(v.VSwitchId).holder[named] == ""
	}
	picked, ok := s.pick(v, 1, nil)
	if !ok {
		return a, false
	}
	return picked[0], true
}

// publicVIPs is the range of load balancers' public addresses: TEST-NET-2 of RFC 5737, which is
// not used on the internet.
var publicVIPs = netip.MustParsePrefix("198.51.100.0/24")

// pickPublicVIPs selects the n lowest free public addresses. Enter them into index.public.
func (s *State) pickPublicVIPs(n int) (picked []netip.Addr, ok bool) {
	for i := 1; i < sizeOf(publicVIPs)-1 && len(picked) < n; i++ {
		if a := addrAt(publicVIPs, i); s.index.public[a] == "" {
			picked = append(picked, a)
		}
	}
	return picked, len(picked) == n
}

// holders returns the resources that have an address of a vSwitch, by id.
func (s *State) holders(vSwitchID string) []string {
	return distinct(slices.Collect(maps.Values(s.pool(vSwitchID).holder)))
}
