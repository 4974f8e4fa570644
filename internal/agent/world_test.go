package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/datapath/claims"
	dpnode "terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/route"
	"terway.dev/terway/internal/testutil"
)

// These tests drive the plugin's binary through libcni against an agent with the
// datapath route, on a node that is a network namespace of its own.

const (
	nodeIP   = "192.168.0.10"
	outside  = "192.168.0.20" // a host of the VPC
	gateway  = "192.168.63.253"
	inNodeNS = "TERWAY_TEST_BIN" // set in the process that is the node; where the plugins are
)

// isNode runs a test in a process of its own whose network and mount namespaces
// are a fresh node's, so that agent and plugin run as they do on a node: in its
// own namespaces. It is true in that process. (The agent's netlink, its socket
// and what the plugin's process inherits are all the node's.)
func isNode(t *testing.T) bool {
	t.Helper()
	testutil.RequireRoot(t)
	if os.Getenv(inNodeNS) != "" {
		for _, m := range []struct {
			src, dst, kind string
			flags          uintptr
		}{
			{"", "/", "", unix.MS_REC | unix.MS_PRIVATE},
			{"netns", testutil.NetNSDir, "tmpfs", 0},
			{"sysfs", "/sys", "sysfs", 0},
		} {
			if err := unix.Mount(m.src, m.dst, m.kind, m.flags, ""); err != nil {
				t.Fatalf("mount %s: %v", m.dst, err)
			}
		}
		return true
	}
	if err := os.MkdirAll(testutil.NetNSDir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), inNodeNS+"="+plugins(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
	return false
}

var buildPlugins = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "terway-cni")
	if err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{"build", "-o", dir + "/terway", "terway.dev/terway/cmd/terway"},
		// The lab's module has what portmap needs; the product's has not.
		{"build", "-C", "../lab/modules/containerd", "-o", dir + "/portmap", "github.com/containernetworking/plugins/plugins/meta/portmap"},
	} {
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			return dir, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return dir, nil
})

func plugins(t *testing.T) string {
	t.Helper()
	dir, err := buildPlugins()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getenv(inNodeNS) == "" {
		if dir, err := buildPlugins(); err == nil {
			if err := os.RemoveAll(dir); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
	os.Exit(code)
}

// node is the node that the test's process is, and the cluster it is in.
type node struct {
	t      *testing.T
	dir    string
	cni    *libcni.CNIConfig
	fabric *testutil.NS // everything that is not the node
	kube   client.WithWatch
	log    io.Writer

	away bool // the API server does not answer

	agent *Agent
	stop  func() // as SIGTERM
}

func newNode(t *testing.T) *node {
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: t.TempDir(), fabric: testutil.NewNS(t, "fabric"), log: io.Discard}
	n.cni = libcni.NewCNIConfigWithCacheDir([]string{os.Getenv(inNodeNS)}, n.dir+"/cache", nil)
	n.kube = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.NodeNetwork{}).WithObjects(
		&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "node-1"},
			Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeIP}}},
		},
		&v1alpha1.NodeNetwork{
			ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "uid-1"},
			Spec: v1alpha1.NodeNetworkSpec{
				VPCCIDRs: []string{"192.168.0.0/16"}, ServiceCIDRs: []string{"172.21.0.0/20"}, Datapath: "auto",
				Pool: v1alpha1.Pool{Min: 1, Max: 10, CoolingSeconds: 60}, Limits: v1alpha1.Limits{MaxPods: 300},
			},
		}).Build()

	n.fabric.IP("link set lo up")
	n.ip("link set lo up")
	n.ip("link add eth0 type veth peer name node netns " + n.fabric.Name)
	n.ip("addr add " + nodeIP + "/19 dev eth0")
	n.ip("link set eth0 up")
	n.ip("route add default via " + outside)
	n.fabric.IP("addr add " + outside + "/19 dev node")
	n.fabric.IP("link set node up")
	return n
}

// plug hot-plugs an ENI into the node.
func (n *node) plug(number int) {
	n.t.Helper()
	port := fmt.Sprintf("port%d", number)
	n.ip(fmt.Sprintf("link add eth%d address %s type veth peer name %s netns %s", number, eniAddress(number), port, n.fabric.Name))
	n.fabric.IP("addr add " + gateway + "/19 dev " + port)
	n.fabric.IP("link set " + port + " up")
}

// deliver makes the fabric bring an address to ENI 1, as a VPC does: it knows, it
// does not ask.
func (n *node) deliver(a netip.Addr) {
	n.t.Helper()
	n.fabric.IP("route replace " + a.String() + "/32 dev port1")
	n.fabric.IP("neigh replace " + a.String() + " lladdr " + eniAddress(1) + " dev port1 nud permanent")
}

func eniAddress(number int) string { return fmt.Sprintf("00:16:3e:00:00:%02x", number) }

// assign makes the node's ENI 1 have that many addresses.
func (n *node) assign(addresses int) {
	n.t.Helper()
	n.spec(func(s *v1alpha1.NodeNetworkSpec) {
		eni := v1alpha1.ENI{
			Token: "t1", ID: "eni-1", MAC: eniAddress(1), Phase: v1alpha1.ENIReady,
			CIDRs: []string{"192.168.32.0/19"}, Gateways: []string{gateway},
		}
		for i := range addresses {
			eni.Addresses = append(eni.Addresses, v1alpha1.Address{Address: fmt.Sprintf("192.168.%d.%d", 32+i/250, 1+i%250)})
		}
		s.ENIs = []v1alpha1.ENI{eni}
	})
}

func (n *node) spec(change func(*v1alpha1.NodeNetworkSpec)) {
	n.t.Helper()
	nn := n.network()
	change(&nn.Spec)
	nn.Generation++
	if err := n.kube.Update(context.Background(), nn); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) network() *v1alpha1.NodeNetwork {
	n.t.Helper()
	nn := &v1alpha1.NodeNetwork{}
	if err := n.kube.Get(context.Background(), client.ObjectKey{Name: "node-1"}, nn); err != nil {
		n.t.Fatal(err)
	}
	return nn
}

// eventually waits for a state of the node that comes by itself.
func (n *node) eventually(what string, is func(*v1alpha1.NodeNetwork) bool) {
	n.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !is(n.network()) {
		if time.Now().After(deadline) {
			n.t.Fatalf("timed out waiting for %s; status %+v", what, n.network().Status)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func ready(nn *v1alpha1.NodeNetwork) bool {
	for _, c := range nn.Status.Conditions {
		if c.Type == v1alpha1.ConditionReady {
			return c.Status == metav1.ConditionTrue
		}
	}
	return false
}

// start starts the agent, as cmd/terwayd does.
func (n *node) start() {
	n.t.Helper()
	log := slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	j, err := journal.Open(n.dir + "/state")
	if err != nil {
		n.t.Fatal(err)
	}
	dp, err := dpnode.New(dpnode.Options{Log: log, Kinds: []dpnode.Kind{route.New()}, Choices: []string{claims.Route}})
	if err != nil {
		n.t.Fatal(err)
	}
	a, err := New(Options{
		Log: log, Now: time.Now, Journal: j, Datapath: dp, WaitForAddress: 20 * time.Second,
		Alive: SandboxAlive, Devices: LinksByMAC,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	l, err := Listen(n.socket())
	if err != nil {
		n.t.Fatal(err)
	}
	conflist, err := Conflist(n.socket(), "1.1.0")
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cluster := Cluster{Client: n.kube, Own: n.kube, Watch: n.watch}
	if n.away {
		cluster.Client = interceptor.NewClient(n.kube, interceptor.Funcs{
			Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
				return errors.New("connection refused")
			},
		})
		cluster.Own = cluster.Client
		cluster.Watch = func(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }
	}
	nodes := NewNodeSync(a, cluster, "node-1")
	var wg waitGroup
	wg.run(n.t, "repair", func() error {
		a.RepairLoop(ctx, time.Second, 10*time.Millisecond, func(ok bool) error {
			if !ok {
				return nil
			}
			return WriteFile(filepath.Join(n.dir, ConflistName), conflist, 0o644)
		})
		return nil
	})
	wg.run(n.t, "watch", func() error { a.Watch(ctx); return nil })
	wg.run(n.t, "serve", func() error { return Serve(ctx, l, a) })
	wg.run(n.t, "sync", func() error { return nodes.Run(ctx) })
	n.agent = a
	n.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := dp.Close(context.Background()); err != nil {
			n.t.Error(err)
		}
		if err := j.Close(); err != nil {
			n.t.Error(err)
		}
	})

	n.t.Cleanup(n.stop)
}

type waitGroup struct{ sync.WaitGroup }

func (w *waitGroup) run(t *testing.T, what string, f func() error) {
	w.Go(func() {
		if err := f(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	})
}

func (n *node) watch(ctx context.Context, changed func()) error {
	w, err := n.kube.Watch(ctx, &v1alpha1.NodeNetworkList{})
	if err != nil {
		return err
	}
	defer w.Stop()
	changed()
	for {
		select {
		case <-w.ResultChan():
			changed()
		case <-ctx.Done():
			return nil
		}
	}
}

func (n *node) socket() string { return n.dir + "/run/terway.sock" }

func (n *node) ip(command string) string {
	n.t.Helper()
	out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("ip %s: %v %s", command, err, out)
	}
	return string(out)
}

// conf is a configuration of that version; chained adds portmap.
func (n *node) conf(version string, chained bool) *libcni.NetworkConfigList {
	n.t.Helper()
	more := ""
	if chained {
		more = `,{"type":"portmap","backend":"nftables","capabilities":{"portMappings":true}}`
	}
	c, err := libcni.NetworkConfFromBytes([]byte(`{"cniVersion":"` + version + `","name":"terway","plugins":[{"type":"terway","socket":"` + n.socket() + `"}` + more + `]}`))
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

// sandbox is a pod as the container runtime has it.
type sandbox struct {
	n  *node
	ns *testutil.NS
	rt *libcni.RuntimeConf
}

func (n *node) sandbox(name string) *sandbox {
	n.t.Helper()
	ns := testutil.NewNS(n.t, name)
	return &sandbox{n: n, ns: ns, rt: &libcni.RuntimeConf{
		ContainerID: "id-" + ns.Name, NetNS: ns.Path, IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", name}, {"K8S_POD_UID", "uid-" + name}},
	}}
}

func (s *sandbox) add(c *libcni.NetworkConfigList) (netip.Addr, *types100.Result, error) {
	r, err := s.n.cni.AddNetworkList(context.Background(), c, s.rt)
	if err != nil {
		return netip.Addr{}, nil, err
	}
	res, err := types100.GetResult(r)
	if err != nil {
		return netip.Addr{}, nil, err
	}
	if len(res.IPs) != 1 {
		return netip.Addr{}, nil, fmt.Errorf("result has %d addresses, want 1", len(res.IPs))
	}
	a, ok := netip.AddrFromSlice(res.IPs[0].Address.IP)
	if !ok {
		return netip.Addr{}, nil, fmt.Errorf("address %v", res.IPs[0].Address)
	}
	return a.Unmap(), res, nil
}

func (s *sandbox) mustAdd(c *libcni.NetworkConfigList) (netip.Addr, *types100.Result) {
	s.n.t.Helper()
	a, r, err := s.add(c)
	if err != nil {
		s.n.t.Fatalf("ADD: %v", err)
	}
	return a, r
}

func (s *sandbox) mustDel(c *libcni.NetworkConfigList) {
	s.n.t.Helper()
	if err := s.n.cni.DelNetworkList(context.Background(), c, s.rt); err != nil {
		s.n.t.Fatalf("DEL: %v", err)
	}
}

// reaches says whether a connection from the pod to a listener goes through.
func (s *sandbox) reaches(address string) error {
	c, err := s.ns.Dial("tcp", "", address, 3*time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

// listen accepts connections and reports the source of each.
func listen(t *testing.T, in *testutil.NS, address string) (from <-chan string) {
	t.Helper()
	var l net.Listener
	if in != nil {
		l = in.Listen("tcp", address)
	} else {
		var err error
		if l, err = net.Listen("tcp", address); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
	ch := make(chan string, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			ch <- c.RemoteAddr().String()
			_ = c.Close()
		}
	}()
	return ch
}
