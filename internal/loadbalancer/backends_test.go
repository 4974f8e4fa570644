package loadbalancer

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"terway.dev/terway/internal/cloud"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// world is a Service with a slice and what else Backends asks for. Pod n has the address 10.0.0.n.
type world struct {
	svc   *corev1.Service
	slice discoveryv1.EndpointSlice
	pods  map[string]*corev1.Pod
	enis  map[netip.Addr]string
	Cluster
}

func newWorld(change ...func(*corev1.Service)) *world {
	w := &world{svc: service(ClassCLB, map[string]string{}), pods: map[string]*corev1.Pod{}, enis: map[netip.Addr]string{}}
	w.svc.UID = "uid"
	w.svc.Spec.Ports[0].NodePort = 30080
	for _, f := range change {
		f(w.svc)
	}
	w.slice.AddressType = discoveryv1.AddressTypeIPv4
	w.slice.Ports = []discoveryv1.EndpointPort{{Port: new(int32)}}
	*w.slice.Ports[0].Port = 8080
	w.Now = noon
	w.Pod = func(name string) *corev1.Pod { return w.pods[name] }
	w.ENI = func(a netip.Addr) string { return w.enis[a] }
	return w
}

func podAddress(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }

// The conditions of endpoints.
var (
	isReady     = discoveryv1.EndpointConditions{}
	isNotReady  = discoveryv1.EndpointConditions{Ready: new(bool), Serving: new(bool)}
	terminates  = discoveryv1.EndpointConditions{Ready: new(bool), Serving: yesPtr(), Terminating: yesPtr()}
	hasStopped  = discoveryv1.EndpointConditions{Ready: new(bool), Serving: new(bool), Terminating: yesPtr()}
	allOfThem   = []discoveryv1.EndpointConditions{isReady, isNotReady, terminates, hasStopped}
	defaultSets = Settings{PodBackends: true, Zones: cluster.Zones}
)

func yesPtr() *bool { t := true; return &t }

// endpoint adds pod n, on a node.
func (w *world) endpoint(n int, node string, c discoveryv1.EndpointConditions) {
	w.slice.Endpoints = append(w.slice.Endpoints, discoveryv1.Endpoint{
		Addresses: []string{podAddress(n).String()}, NodeName: &node, Conditions: c,
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: fmt.Sprintf("web-%d", n), UID: types.UID(fmt.Sprintf("uid-%d", n))},
	})
	w.enis[podAddress(n)] = "eni-" + node
}

// in says what the first group has: the weights of pods by number.
func (w *world) in(weights map[int]int) {
	var list []cloud.Backend
	for n, weight := range weights {
		list = append(list, cloud.Backend{Server: "eni-a", Type: cloud.ServerENI, Address: podAddress(n), Port: 8080, Weight: weight})
	}
	w.Groups = [][]cloud.Backend{list}
}

func (w *world) targets(t interface{ Fatal(...any) }, s Settings) Targets {
	want, err := Read(w.svc, s)
	if err != nil {
		t.Fatal(err)
	}
	w.Slices = []*discoveryv1.EndpointSlice{&w.slice}
	return Backends(want, w.svc, w.Cluster)
}

// list returns the targets of the first listener as SERVER ADDRESS'S LAST BYTE:PORT=WEIGHT, and then the problems.
func (r Targets) list() string {
	var all []string
	for _, b := range r.Listeners[0] {
		last := ""
		if b.Type == cloud.ServerENI {
			last = fmt.Sprintf(" %d", b.Address.As4()[3])
		}
		all = append(all, fmt.Sprintf("%s%s:%d=%d", b.Server, last, b.Port, b.Weight))
	}
	for _, p := range r.Problems {
		all = append(all, p.Object+"!")
	}
	return strings.Join(all, ", ")
}

// gated is a pod with gates; conditions are TYPE=STATUS or TYPE=STATUS:REASON.
func gated(n int, gates []string, conditions ...string) *corev1.Pod {
	p := &corev1.Pod{}
	p.UID = types.UID(fmt.Sprintf("uid-%d", n))
	for _, g := range gates {
		p.Spec.ReadinessGates = append(p.Spec.ReadinessGates, corev1.PodReadinessGate{ConditionType: corev1.PodConditionType(g)})
	}
	for _, c := range conditions {
		kind, rest, _ := strings.Cut(c, "=")
		status, reason, _ := strings.Cut(rest, ":")
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodConditionType(kind), Status: corev1.ConditionStatus(status), Reason: reason})
	}
	return p
}

func TestBackendsPods(t *testing.T) {
	ours := GatePrefix + "web"
	for _, c := range []struct {
		name string
		set  func(w *world)
		want string
	}{
		{"ready ones", func(w *world) { w.endpoint(1, "a", isReady); w.endpoint(2, "b", isReady) }, "eni-a 1:8080=100, eni-b 2:8080=100"},
		{"the default weight", func(w *world) {
			w.svc.Annotations[Prefix+"default-weight"] = "7"
			w.endpoint(1, "a", isReady)
		}, "eni-a 1:8080=7"},
		{"terminating", func(w *world) {
			w.endpoint(1, "a", isReady)
			w.endpoint(2, "a", terminates)
			w.in(map[int]int{1: 100, 2: 100})
		}, "eni-a 1:8080=100, eni-a 2:8080=0"},
		{"terminating, and no longer serving", func(w *world) {
			w.endpoint(1, "a", isReady)
			w.endpoint(2, "a", hasStopped)
			w.in(map[int]int{1: 100, 2: 100})
		}, "eni-a 1:8080=100"},
		{"terminating, and never added", func(w *world) { w.endpoint(1, "a", isReady); w.endpoint(2, "a", terminates) }, "eni-a 1:8080=100"},
		{"only terminating ones are left", func(w *world) { w.endpoint(2, "a", terminates); w.in(map[int]int{2: 0}) }, "eni-a 2:8080=100"},
		{"only terminating ones serve", func(w *world) {
			w.endpoint(1, "a", isNotReady)
			w.endpoint(2, "a", terminates)
			w.in(map[int]int{1: 100, 2: 100})
		}, "eni-a 1:8080=0, eni-a 2:8080=100"},
		{"terminating ones wait for one whose gate is shut", func(w *world) {
			w.endpoint(1, "a", isNotReady)
			w.pods["web-1"] = gated(1, []string{ours}, "ContainersReady=True", "Ready=False:ReadinessGatesNotReady")
			w.endpoint(2, "a", terminates)
			w.in(map[int]int{2: 100})
		}, "eni-a 1:8080=100, eni-a 2:8080=100"},
		{"not ready, and never added", func(w *world) { w.endpoint(1, "a", isNotReady) }, ""},
		{"not ready for a moment", func(w *world) { w.endpoint(1, "a", isNotReady); w.in(map[int]int{1: 100}) }, "eni-a 1:8080=0"},
		{"not ready for 30 s", func(w *world) {
			w.endpoint(1, "a", isNotReady)
			w.in(map[int]int{1: 0})
			w.NotReady = map[string]time.Time{"uid-1": noon.Add(-NotReadyFor)}
		}, ""},
		{"not ready for less", func(w *world) {
			w.endpoint(1, "a", isNotReady)
			w.in(map[int]int{1: 0})
			w.NotReady = map[string]time.Time{"uid-1": noon.Add(1 - NotReadyFor)}
		}, "eni-a 1:8080=0"},
		{"gone", func(w *world) { w.endpoint(1, "a", isReady); w.in(map[int]int{1: 100, 2: 100}) }, "eni-a 1:8080=100"},
		{"containers are not ready", func(w *world) {
			w.endpoint(1, "a", isNotReady)
			w.pods["web-1"] = gated(1, []string{ours}, "ContainersReady=False", "Ready=False:ContainersNotReady")
		}, ""},
		{"a gate of somebody else", func(w *world) {
			w.endpoint(1, "a", isNotReady)
			w.pods["web-1"] = gated(1, []string{ours, "example.com/x"}, "ContainersReady=True", "Ready=False:ReadinessGatesNotReady")
		}, ""},
		{"the gate has opened, kubelet has not noticed", func(w *world) {
			w.endpoint(1, "a", isNotReady)
			w.pods["web-1"] = gated(1, []string{ours}, "ContainersReady=True", ours+"=True", "Ready=False:ReadinessGatesNotReady")
		}, "eni-a 1:8080=100"},
		{"ready, the slice does not know yet", func(w *world) {
			w.endpoint(1, "a", isNotReady)
			w.pods["web-1"] = gated(1, []string{ours}, "ContainersReady=True", ours+"=True", "Ready=True")
		}, "eni-a 1:8080=100"},
		{"its node is lost", func(w *world) {
			w.endpoint(1, "a", isNotReady)
			w.in(map[int]int{1: 100})
			w.pods["web-1"] = gated(1, []string{ours}, "ContainersReady=True", ours+"=True", "Ready=False")
		}, "eni-a 1:8080=0"},
		{"containers failed, the slice does not know yet", func(w *world) {
			w.endpoint(1, "a", isReady)
			w.in(map[int]int{1: 100})
			w.pods["web-1"] = gated(1, []string{ours}, "ContainersReady=False", "Ready=False")
		}, "eni-a 1:8080=0"},
		{"deleted, the slice does not know yet", func(w *world) {
			w.endpoint(1, "a", isReady)
			w.endpoint(2, "a", isReady)
			w.in(map[int]int{1: 100, 2: 100})
			w.pods["web-1"] = gated(1, []string{ours}, "ContainersReady=True", "Ready=True")
			w.pods["web-1"].DeletionTimestamp = &metav1.Time{Time: noon}
		}, "eni-a 1:8080=0, eni-a 2:8080=100"},
		{"ended, the slice does not know yet", func(w *world) {
			w.endpoint(1, "a", isReady)
			w.in(map[int]int{1: 100})
			w.pods["web-1"] = gated(1, []string{ours}, "Ready=True")
			w.pods["web-1"].Status.Phase = corev1.PodFailed
		}, ""},
		{"another pod of the name", func(w *world) {
			w.endpoint(1, "a", isReady)
			w.pods["web-1"] = gated(2, []string{ours}, "ContainersReady=False")
		}, "eni-a 1:8080=100"},
		{"the Service wants those that are not ready", func(w *world) {
			w.svc.Spec.PublishNotReadyAddresses = true
			w.endpoint(1, "a", isReady)
			w.pods["web-1"] = gated(1, []string{ours}, "ContainersReady=False", "Ready=False")
		}, "eni-a 1:8080=100"},
		{"in two slices", func(w *world) {
			w.endpoint(1, "a", isReady)
			w.endpoint(1, "a", terminates)
			w.endpoint(1, "a", isReady)
			w.endpoint(2, "a", isReady)
			w.in(map[int]int{1: 100})
		}, "eni-a 1:8080=0, eni-a 2:8080=100"},
		{"the address of a pod that was", func(w *world) {
			w.endpoint(1, "a", hasStopped)
			w.endpoint(1, "a", isReady)
			w.slice.Endpoints[0].TargetRef.UID = "former"
		}, "eni-a 1:8080=100"},
		{"no ENI", func(w *world) {
			w.endpoint(1, "a", isReady)
			w.endpoint(2, "a", isReady)
			delete(w.enis, podAddress(1))
		}, "eni-a 2:8080=100, pod web-1!"},
		{"no ENI any more", func(w *world) {
			w.endpoint(1, "b", isReady)
			w.in(map[int]int{1: 100})
			delete(w.enis, podAddress(1))
		}, "eni-a 1:8080=100"},
		{"no ENI any more, and it terminates", func(w *world) {
			w.endpoint(1, "b", terminates)
			w.endpoint(2, "a", isReady)
			w.in(map[int]int{1: 100})
			delete(w.enis, podAddress(1))
		}, "eni-a 1:8080=0, eni-a 2:8080=100"},
		{"on another ENI", func(w *world) { w.endpoint(1, "b", isReady); w.in(map[int]int{1: 100}) }, "eni-b 1:8080=100"},
		{"on another ENI, and it terminates", func(w *world) {
			w.endpoint(1, "b", terminates)
			w.endpoint(2, "b", isReady)
			w.in(map[int]int{1: 100})
		}, "eni-a 1:8080=0, eni-b 2:8080=100"},
		{"those that cannot be added are no reason to drain", func(w *world) {
			w.endpoint(1, "a", isReady)
			delete(w.enis, podAddress(1))
			w.endpoint(2, "a", terminates)
			w.in(map[int]int{2: 100})
		}, "eni-a 2:8080=100, pod web-1!"},
		{"in the node's network", func(w *world) {
			w.endpoint(1, "a", isReady)
			w.Nodes = []Node{{Name: "a", Instance: "i-a", Address: podAddress(1), Ready: true}}
		}, "i-a:8080=100"},
		{"in the node's network, and not ready", func(w *world) {
			w.endpoint(1, "a", isNotReady)
			w.Nodes = []Node{{Name: "a", Instance: "i-a", Address: podAddress(1), Ready: true}}
			w.Groups = [][]cloud.Backend{{{Server: "i-a", Type: cloud.ServerInstance, Port: 8080, Weight: 100}}}
		}, "i-a:8080=0"},
		{"terminating, its containers have stopped, the slice does not know yet", func(w *world) {
			w.endpoint(1, "a", terminates)
			w.in(map[int]int{1: 100})
			w.pods["web-1"] = gated(1, []string{ours}, "ContainersReady=False")
		}, ""},
		{"IPv6", func(w *world) { w.endpoint(1, "a", isReady); w.slice.AddressType = discoveryv1.AddressTypeIPv6 }, ""},
		{"another port", func(w *world) { w.endpoint(1, "a", isReady); w.slice.Ports[0].Name = &w.svc.Name }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld()
			c.set(w)
			got := w.targets(t, defaultSets)
			if got.list() != c.want {
				t.Errorf("%s, want %s", got.list(), c.want)
			}
			for _, b := range got.Listeners[0] {
				if b.Description != "terway.uid.tcp.80" {
					t.Errorf("description %q", b.Description)
				}
			}
		})
	}
}

// In a user's group only the backends with our description are ours.
// Several slices: of each address family, and of pods whose port of the Service's targetPort has another number.
func TestBackendsOfSeveralSlices(t *testing.T) {
	w := newWorld()
	w.endpoint(1, "a", isReady)
	other := w.slice.DeepCopy()
	*other.Ports[0].Port = 9090
	other.Endpoints[0].Addresses[0] = podAddress(2).String()
	other.Endpoints[0].TargetRef.Name, other.Endpoints[0].TargetRef.UID = "web-2", "uid-2"
	w.enis[podAddress(2)] = "eni-a"
	six := w.slice.DeepCopy()
	six.AddressType, six.Endpoints[0].Addresses = discoveryv1.AddressTypeIPv6, []string{"2001:db8::1"}
	none := w.slice.DeepCopy() // pods without a port of the targetPort's name
	none.Ports, none.Endpoints[0].Addresses = nil, []string{podAddress(3).String()}
	want, err := Read(w.svc, defaultSets)
	if err != nil {
		t.Fatal(err)
	}
	w.Slices = []*discoveryv1.EndpointSlice{six, none, other, &w.slice}
	if got, want := Backends(want, w.svc, w.Cluster).list(), "eni-a 1:8080=100, eni-a 2:9090=100"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A Service that has only IPv6 addresses cannot be served, and is told so.
func TestIPv6Only(t *testing.T) {
	for _, class := range []string{ClassCLB, ClassNLB} {
		for _, c := range []struct {
			families []corev1.IPFamily
			ok       bool
		}{{nil, true}, {[]corev1.IPFamily{corev1.IPv4Protocol}, true}, {[]corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}, true}, {[]corev1.IPFamily{corev1.IPv6Protocol}, false}} {
			svc := service(class, nil)
			svc.Spec.IPFamilies = c.families
			if _, err := Read(svc, cluster); (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "spec.ipFamilies") {
				t.Errorf("%s %v: %v", class, c.families, err)
			}
		}
	}
}

func TestBackendsInUsersGroup(t *testing.T) {
	w := newWorld(func(s *corev1.Service) {
		s.Annotations[Prefix+"id"], s.Annotations[Prefix+"vgroup-port"] = "lb-1", "rsp-1:80"
	})
	w.endpoint(1, "a", isNotReady)
	w.endpoint(2, "a", isNotReady)
	w.in(map[int]int{1: 100, 2: 100})
	l := Listener{Port: 80, Protocol: TCP, GroupID: "rsp-1"}
	for i := range w.Groups[0] {
		if w.Groups[0][i].Description = "theirs"; w.Groups[0][i].Address == podAddress(1) {
			w.Groups[0][i].Description = Owner("uid", l)
		}
	}
	if got := w.targets(t, defaultSets).list(); got != "eni-a 1:8080=0" {
		t.Error(got)
	}
	if name := Name("uid", l); Owner("uid", l) != name || !IsOf("uid", name) || IsOf("ui", name) || IsOf("", name) || IsOf("uid", "theirs") || Owner("uid", Listener{}) != "" {
		t.Errorf("names: %s", name)
	}
	l.Protocol = HTTP
	if Name("uid", l) != "terway.uid.tcp.80" {
		t.Error("an HTTP listener has another group than a TCP one")
	}
}

// A backend that is not ready leaves after 30 s, also if its removal takes long, and not before.
func TestBackendsNotReady(t *testing.T) {
	w := newWorld()
	w.endpoint(1, "a", isNotReady)
	w.in(map[int]int{1: 100})
	for _, c := range []struct {
		after time.Duration
		want  string
		next  time.Time
	}{
		{0, "eni-a 1:8080=0", noon.Add(NotReadyFor)},
		{10 * time.Second, "eni-a 1:8080=0", noon.Add(NotReadyFor)},
		{NotReadyFor, "", time.Time{}},
		{NotReadyFor + time.Second, "", time.Time{}},
	} {
		w.Now = noon.Add(c.after)
		got := w.targets(t, defaultSets)
		if got.list() != c.want || !got.Next.Equal(c.next) {
			t.Errorf("after %s: %s, next %s; want %s, %s", c.after, got.list(), got.Next, c.want, c.next)
		}
		w.NotReady = got.NotReady
	}
	w.slice.Endpoints[0].Conditions = isReady
	if got := w.targets(t, defaultSets); len(got.NotReady) > 0 {
		t.Errorf("ready again, but not forgotten: %v", got.NotReady)
	}
}

func TestBackendsNodes(t *testing.T) {
	node := func(name string, ready bool) Node { return Node{Name: name, Instance: "i-" + name, Ready: ready} }
	in := func(servers ...string) [][]cloud.Backend {
		var list []cloud.Backend
		for _, s := range servers {
			list = append(list, cloud.Backend{Server: s, Type: cloud.ServerInstance, Port: 30080, Weight: 100})
		}
		return [][]cloud.Backend{list}
	}
	local := func(w *world) { w.svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	for _, c := range []struct {
		name string
		set  func(w *world)
		want string
	}{
		{"all nodes", func(w *world) { w.Nodes = []Node{node("a", true), node("b", true)} }, "i-a:30080=100, i-b:30080=100"},
		{"excluded", func(w *world) {
			w.Nodes = []Node{node("a", true), {Name: "b", Instance: "i-b", Ready: true, Excluded: true}}
		}, "i-a:30080=100"},
		{"not ready", func(w *world) {
			w.Nodes = []Node{node("a", true), node("b", false), node("c", false)}
			w.Groups = in("i-a", "i-b")
		}, "i-a:30080=100, i-b:30080=0"},
		{"none is ready", func(w *world) { w.Nodes = []Node{node("a", false), node("b", false)}; w.Groups = in("i-a") }, "i-a:30080=100"},
		{"no instance", func(w *world) { w.Nodes = []Node{node("a", true), {Name: "b", Ready: true}} }, "i-a:30080=100, node b!"},
		{"no node port", func(w *world) { w.svc.Spec.Ports[0].NodePort = 0; w.Nodes = []Node{node("a", true)} }, "port 80!"},
		{"local: as many as pods", func(w *world) {
			local(w)
			w.Nodes = []Node{node("a", true), node("b", true), node("c", true)}
			w.endpoint(1, "a", isReady)
			w.endpoint(2, "b", isReady)
			w.endpoint(3, "b", isReady)
		}, "i-a:30080=1, i-b:30080=2"},
		{"local: the last one of a node terminates", func(w *world) {
			local(w)
			w.Nodes = []Node{node("a", true), node("b", true)}
			w.endpoint(1, "a", isReady)
			w.endpoint(2, "b", terminates)
			w.Groups = in("i-a", "i-b")
		}, "i-a:30080=1, i-b:30080=0"},
		{"local: all terminate", func(w *world) {
			local(w)
			w.Nodes = []Node{node("a", true)}
			w.endpoint(1, "a", terminates)
			w.endpoint(2, "a", terminates)
			w.Groups = in("i-a")
		}, "i-a:30080=2"},
		{"local: node not ready", func(w *world) {
			local(w)
			w.Nodes = []Node{node("a", true), node("b", false)}
			w.endpoint(1, "a", isReady)
			w.endpoint(2, "b", isReady)
			w.Groups = in("i-b")
		}, "i-a:30080=1, i-b:30080=0"},
		{"local: unknown node", func(w *world) { local(w); w.endpoint(1, "x", isReady) }, "pod web-1!"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld()
			c.set(w)
			if got := w.targets(t, Settings{}).list(); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestNodeOf(t *testing.T) {
	n := &corev1.Node{}
	n.Name = "a"
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "10.0.0.9"}, {Type: corev1.NodeInternalIP, Address: "fd00::1"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if got, want := NodeOf(n, "i-a"), (Node{Name: "a", Instance: "i-a", Address: podAddress(1), Ready: true}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, change := range []func(*corev1.Node){
		func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""} },
		func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: taintToBeDeleted}} },
	} {
		c := n.DeepCopy()
		if change(c); !NodeOf(c, "").Excluded {
			t.Errorf("%+v is not excluded", c)
		}
	}
}

// Whatever the states of the pods: none that terminates takes connections while one is ready, and if one could
// take connections, one does.
func TestBackendsProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		group := map[int]int{}
		const pods = 6
		state := map[int]discoveryv1.EndpointConditions{}
		for n := 1; n <= pods; n++ {
			if rapid.Bool().Draw(t, "there") {
				state[n] = rapid.SampledFrom(allOfThem).Draw(t, "state")
				w.endpoint(n, "a", state[n])
			}
			if rapid.Bool().Draw(t, "in") {
				group[n] = rapid.SampledFrom([]int{0, 100}).Draw(t, "weight")
			}
			if rapid.IntRange(0, 4).Draw(t, "unknown") == 0 {
				delete(w.enis, podAddress(n))
			}
		}
		w.in(group)
		got := w.targets(t, defaultSets)
		takes, ready, could := map[string]bool{}, false, false
		for _, b := range got.Listeners[0] {
			n := int(b.Address.As4()[3])
			if takes[b.Pod] = b.Weight > 0; b.Terminating != (state[n].Terminating != nil) {
				t.Fatalf("%+v: terminating?", b)
			}
			ready = ready || b.Weight > 0 && !b.Terminating
		}
		for n, c := range state {
			_, in := group[n]
			_, known := w.enis[podAddress(n)]
			could = could || c.Serving != nil && *c.Serving && in || c.Ready == nil && (in || known)
			switch name := fmt.Sprintf("web-%d", n); {
			case c.Ready == nil && (in || known) && !takes[name]:
				t.Fatalf("%s is ready and takes no connections: %s", name, got.list())
			case c.Ready != nil && c.Terminating == nil && takes[name]:
				t.Fatalf("%s is not ready and takes connections: %s", name, got.list())
			case c.Terminating != nil && ready && takes[name]:
				t.Fatalf("%s terminates and takes connections: %s", name, got.list())
			}
		}
		if could && !takesAny(takes) {
			t.Fatalf("nothing takes connections: %s", got.list())
		}
	})
}

func takesAny(takes map[string]bool) bool {
	for _, yes := range takes {
		if yes {
			return true
		}
	}
	return false
}
