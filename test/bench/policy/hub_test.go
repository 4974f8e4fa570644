//go:build bench

package policy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/clock"

	"terway.dev/terway/internal/controller/certs"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/feed"
	"terway.dev/terway/internal/policy/hub"
	"terway.dev/terway/internal/policy/translate"
	"terway.dev/terway/internal/policy/wire"
	"terway.dev/terway/test/bench/report"
)

const (
	// The process with the nodes' ends of streams gets these: the hub's address, a file with the
	// certificates to trust, and how many nodes there are.
	envHub, envTrust, envNodes = "TERWAY_BENCH_HUB", "TERWAY_BENCH_TRUST", "NODES"

	hubName = "terway-policy.kube-system.svc"

	// mostMemory is the goal for the hub, in MiB, which it is told as a container's limit.
	mostMemory = 800
)

func nodeName(i int) string { return fmt.Sprintf("node%d", i) }

// A follower is a node's end of a stream. It has resources by name as a node does, compares them
// with the digest, and answers.
type follower struct {
	name   string
	have   map[wire.Name]struct{}
	digest wire.Digest
}

func (f *follower) follow(ctx context.Context, address string, roots *x509.CertPool) (settled bool, err error) {
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: hubName, MinVersion: tls.VersionTLS13})),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(wire.MaxMessage), grpc.MaxCallSendMsgSize(wire.MaxMessage)))
	if err != nil {
		return false, err
	}
	defer conn.Close()
	s, err := wire.NewHubClient(conn).Follow(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+f.name))
	if err != nil {
		return false, err
	}
	hello := &wire.Hello{Format: wire.Format}
	for n := range f.have {
		hello.Have = append(hello.Have, n[:])
	}
	if err := s.Send(&wire.FromNode{Message: &wire.FromNode_Hello{Hello: hello}}); err != nil {
		return false, err
	}
	for {
		m, err := s.Recv()
		if err != nil {
			return settled, err
		}
		switch m := m.Message.(type) {
		case *wire.ToNode_Update:
			for _, r := range m.Update.Put {
				f.put(r.Name())
			}
			gone, err := wire.Names(m.Update.Remove)
			if err != nil {
				return settled, err
			}
			for _, n := range gone {
				f.remove(n)
			}
		case *wire.ToNode_Settled:
			ack := &wire.Ack{Revision: m.Settled.Revision}
			if string(f.digest[:]) != string(m.Settled.Digest) {
				ack.Refused = "another digest"
			}
			if err := s.Send(&wire.FromNode{Message: &wire.FromNode_Ack{Ack: ack}}); err != nil {
				return settled, err
			}
			settled = true
		}
	}
}

func (f *follower) put(n wire.Name) {
	if _, has := f.have[n]; !has {
		f.have[n] = struct{}{}
		f.digest.Add(n)
	}
}

func (f *follower) remove(n wire.Name) {
	if _, has := f.have[n]; has {
		delete(f.have, n)
		f.digest.Add(n)
	}
}

// TestFollowers is the process that TestPolicyHub starts: all nodes' ends of streams, until its
// standard input is closed. They would be most of the hub's memory.
func TestFollowers(t *testing.T) {
	address := os.Getenv(envHub)
	if address == "" {
		t.Skip("TestPolicyHub executes it")
	}
	roots := x509.NewCertPool()
	trust, err := os.ReadFile(os.Getenv(envTrust))
	if err != nil || !roots.AppendCertsFromPEM(trust) {
		t.Fatalf("certificates to trust: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range number(t, envNodes, 0) {
		f := &follower{name: nodeName(i), have: map[wire.Name]struct{}{}}
		all.Go(func() {
			// The pauses are those of an agent.
			const first, last = 100 * time.Millisecond, 10 * time.Second
			for wait := first; ctx.Err() == nil; wait = min(2*wait, last) {
				if settled, _ := f.follow(ctx, address, roots); settled {
					wait = first
				}
				select {
				case <-ctx.Done():
				case <-time.After(wait/2 + rand.N(wait)):
				}
			}
		})
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	cancel()
	all.Wait()
}

// byName accepts a node's name as its token.
type byName struct{}

func (byName) Review(_ context.Context, token string) (hub.Identity, error) {
	return hub.Identity{Node: token, Expires: time.Now().Add(24 * time.Hour)}, nil
}

// times are how long nodes waited.
type times struct {
	mu            sync.Mutex
	change, first []time.Duration
}

func (t *times) settled(took time.Duration, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if first {
		t.first = append(t.first, took)
	} else {
		t.change = append(t.change, took)
	}
}

// take returns both in order, and forgets them.
func (t *times) take() (change, first []time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change, first = t.change, t.first
	t.change, t.first = nil, nil
	slices.Sort(change)
	slices.Sort(first)
	return change, first
}

func (t *times) firsts() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.first)
}

// quantile returns milliseconds.
func quantile(sorted []time.Duration, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return milliseconds(sorted[min(len(sorted)-1, int(share*float64(len(sorted))))])
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// resident returns a line of /proc/self/status in MiB: VmRSS, or VmHWM for the most so far.
func resident(t *testing.T, line string) float64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n"+line+":")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return float64(kib) / 1024
}

// used returns the process's CPU time so far.
func used(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A region is the API server's objects, as the controller's cache has them.
type region struct {
	nodes    int
	pods     []metav1.Object
	policies []metav1.Object
	feed     *feed.Feed
}

const podsOfNamespace = 100

// newRegion makes pods of which two share an app, anywhere on the nodes; and policies, no two
// with the same rules, that each select an app and let in two others of the namespace and
// monitoring, and out one more, DNS and a network without two others; every tenth also lets in
// its whole namespace, and an app of the namespaces of a team.
func newRegion(t *testing.T, nodes, pods, policies int) *region {
	r := &region{nodes: nodes, feed: feed.New(translate.Options{AllowLoadBalancerProbes: true})}
	namespaces := max(2, pods/podsOfNamespace)
	for ns := range namespaces {
		r.feed.Set(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: name(ns, 0).Namespace, Labels: map[string]string{"kubernetes.io/metadata.name": name(ns, 0).Namespace, "team": fmt.Sprint(ns % 10)},
		}}, true)
	}
	chance := rand.New(rand.NewPCG(1, 2))
	for i := range pods {
		n := name(i/podsOfNamespace%namespaces, i)
		r.pods = append(r.pods, feed.Kept(newPod(n.Namespace, n.Name, appOf(i), nodeName(chance.IntN(nodes)), address(i))))
	}
	for i := range policies {
		r.policies = append(r.policies, feed.Kept(newPolicy(i%namespaces, i/namespaces)))
	}
	for _, p := range r.pods {
		r.feed.Set(p, true)
	}
	for _, p := range r.policies {
		r.feed.Set(p, true)
	}
	return r
}

func newPod(namespace, name string, app int, node string, a netip.Addr) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{
			"app": fmt.Sprintf("app%d", app), "pod-template-hash": fmt.Sprintf("%x", app), "statefulset.kubernetes.io/pod-name": name,
		}},
		Spec:   corev1.PodSpec{NodeName: node, ServiceAccountName: "default"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: a.String(), PodIPs: []corev1.PodIP{{IP: a.String()}}},
	}
}

// newPolicy returns the policy with number i of a namespace.
func newPolicy(ns, i int) *networkingv1.NetworkPolicy {
	const apps = podsOfNamespace / 2
	subject := i % apps
	port := func(n int) []networkingv1.NetworkPolicyPort {
		return []networkingv1.NetworkPolicyPort{{Protocol: new(corev1.ProtocolTCP), Port: new(intstr.FromInt32(int32(n)))}}
	}
	app := func(n int) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprintf("app%d", n%apps)}}
	}
	namespace := func(n int) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": name(n, 0).Namespace}}
	}
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: name(ns, 0).Namespace, Name: fmt.Sprintf("policy%d", i)}}
	p.Spec.PodSelector = *app(subject)
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{
		{From: []networkingv1.NetworkPolicyPeer{{PodSelector: app(subject + 1)}, {PodSelector: app(subject + 2)}}, Ports: append(port(8000+i), port(8443)...)},
		{From: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: namespace(0), PodSelector: app(0)}}, Ports: port(9090)},
	}
	p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{
		{To: []networkingv1.NetworkPolicyPeer{{PodSelector: app(subject + 3)}}, Ports: port(8000 + i)},
		{To: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: namespace(1), PodSelector: app(1)}}, Ports: port(53)},
		{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8", "100.100.100.200/32"}}}}, Ports: port(443)},
	}
	if i%10 == 0 {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{
			{PodSelector: &metav1.LabelSelector{}},
			{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": fmt.Sprint(i % 7)}}, PodSelector: app(3)},
		}})
	}
	return p
}

// appOf returns the app of the pod with a number.
func appOf(i int) int { return i % podsOfNamespace / 2 }

// replace deletes a pod and adds another one like it, elsewhere.
func (r *region) replace(i, n int) {
	old := r.pods[i]
	r.pods[i] = feed.Kept(newPod(old.GetNamespace(), fmt.Sprintf("young%d", n), appOf(i), nodeName(n*31%r.nodes), address(len(r.pods)+n)))
	r.feed.Set(old, false)
	r.feed.Set(r.pods[i], true)
}

// TestPolicyHub measures a hub with many nodes, whose ends of the streams are in another process,
// while pods are replaced. Settings are NODES, PODS, POLICIES, CHURN (seconds), RATE (pods a
// second) and PROFILE, a file for a CPU profile of the hub meanwhile.
func TestPolicyHub(t *testing.T) {
	nodes, pods, policies := number(t, envNodes, 1000), number(t, "PODS", 30_000), number(t, "POLICIES", 30_000)
	churn, rate := time.Duration(number(t, "CHURN", 60))*time.Second, number(t, "RATE", 100)
	hub.SaveMemory(mostMemory << 20)
	b := begin(t, "hub", "hub")
	r := newRegion(t, nodes, pods, policies)

	server := certs.Server{Name: "terway-policy", Host: hubName}
	data, _, err := server.Turn(nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	trust := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(trust, data[certs.Trust], 0o600); err != nil {
		t.Fatal(err)
	}
	var waited times
	h := hub.New(hub.Config{
		Name: "bench", Authenticator: byName{}, Budget: compile.DefaultBudget, Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}, Settled: waited.settled,
	})
	apply := func() time.Duration {
		start := time.Now()
		d, _ := r.feed.Changes()
		if err := h.Apply(d); err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	took := apply()
	if errs := h.Errors(); len(errs) > 0 {
		t.Fatal(errs)
	}
	b.value("compile everything", "s", took.Seconds(), report.Goal{})
	b.say("compiled in %.1f s, %.0f MiB resident", took.Seconds(), resident(t, "VmRSS"))

	serve := func(address string) (string, *grpc.Server) {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		s := h.Server(func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c, _, err := server.Serving(data, time.Now())
			return c, err
		})
		go func() { _ = s.Serve(l) }()
		return l.Addr().String(), s
	}
	// settled waits until every node has answered on a new stream.
	settled := func(what string, since time.Time, goal report.Goal) {
		t.Helper()
		was := h.Stats()
		for deadline := time.Now().Add(5 * time.Minute); waited.firsts() < nodes; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d of %d nodes have settled", what, waited.firsts(), nodes)
			}
		}
		took := time.Since(since)
		_, first := waited.take()
		sent := float64(h.Stats().Bytes-was.Bytes) / float64(nodes) / 1024
		b.value(what, "s", took.Seconds(), goal)
		b.value(what+": for a node", "KiB", sent, report.Goal{})
		b.say("%s: %.1f s; from Hello p50 %.0f ms, p99 %.0f ms; %.0f KiB for a node", what, took.Seconds(), quantile(first, .5), quantile(first, .99), sent)
	}
	at, s := serve("127.0.0.1:0")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(self, "-test.run=^TestFollowers$", "-test.timeout=0")
	child.Env = append(os.Environ(), envHub+"="+at, envTrust+"="+trust, fmt.Sprintf("%s=%d", envNodes, nodes))
	child.Stderr = os.Stderr
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(stdin.Close(), child.Wait()); err != nil {
			t.Error(err)
		}
	})
	settled("all nodes connect and have nothing", start, report.Goal{})

	if path := os.Getenv("PROFILE"); path != "" {
		f, err := os.Create(path)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	before, cpu, began := h.Stats(), used(t), time.Now()
	var applied []time.Duration
	tick := time.NewTicker(time.Second / time.Duration(rate))
	for n := 0; time.Since(began) < churn; n++ {
		<-tick.C
		r.replace(n*7919%len(r.pods), n)
		applied = append(applied, apply())
	}
	tick.Stop()
	took = time.Since(began)
	cpu = used(t) - cpu
	pprof.StopCPUProfile()
	time.Sleep(2 * time.Second) // for what is on the way
	change, _ := waited.take()
	slices.Sort(applied)
	after := h.Stats()
	perSecond := func(n uint64) float64 { return float64(n) / took.Seconds() }
	b.say("%d pods replaced in %.1f s, Apply p50 %.2f ms, p99 %.2f ms, at most %.1f ms; %.0f revisions a second, at most %.0f ms until the answer", len(applied), took.Seconds(),
		quantile(applied, .5), quantile(applied, .99), quantile(applied, 1), perSecond(after.Sent-before.Sent), quantile(change, 1))
	b.value("a change until the node's answer, p50", "ms", quantile(change, .5), report.Goal{AtMost: 20})
	b.value("a change until the node's answer, p99", "ms", quantile(change, .99), report.Goal{AtMost: 150})
	b.value("pods replaced", "per s", float64(len(applied))/took.Seconds(), report.Goal{})
	b.value("revisions for all nodes", "per s", perSecond(after.Sent-before.Sent), report.Goal{})
	b.value("bytes for a node", "B/s", perSecond(after.Bytes-before.Bytes)/float64(nodes), report.Goal{})
	b.value("CPU of the hub", "CPUs", cpu.Seconds()/took.Seconds(), report.Goal{})
	if path := os.Getenv("HEAP"); path != "" {
		writeHeap(t, path)
	}

	start = time.Now()
	s.Stop()
	_, s = serve(at)
	defer s.Stop()
	settled("all nodes reconnect at once", start, report.Goal{AtMost: 10})
	b.value("resident memory in the end", "MiB", resident(t, "VmRSS"), report.Goal{})
	b.value("most resident memory", "MiB", resident(t, "VmHWM"), report.Goal{AtMost: mostMemory})
	if refused := h.Stats().Nacked; refused > 0 {
		t.Errorf("%d revisions were refused", refused)
	}
	b.finish(fmt.Sprintf("%d nodes, %d pods, %d policies; %d pods a second are replaced for %s.", nodes, len(r.pods), len(r.policies), rate, churn))
}

func writeHeap(t *testing.T, path string) {
	t.Helper()
	heap()
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(pprof.Lookup("heap").WriteTo(f, 0), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}
