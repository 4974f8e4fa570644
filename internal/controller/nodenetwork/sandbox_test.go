package nodenetwork

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/cnicall/server"
	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/vpcsim/faults"
)

// logBook is a log that several goroutines write.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// of returns the lines of a program with a message.
func (b *logBook) of(program, message string) (lines []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.text.String()) {
		if strings.Contains(line, "program="+program+" ") || strings.Contains(line, "program="+program+"\n") {
			if strings.Contains(line, message) {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// wiring is a datapath that wires nothing.
type wiring struct{ agent.Datapath }

func (wiring) Choices() []string         { return []string{"route"} }
func (wiring) Lacking() map[string]error { return nil }
func (wiring) Capacity(string) string    { return "" }
func (wiring) Sync(context.Context, datapath.Node, []datapath.Pod) ([]datapath.Repair, error) {
	return nil, nil
}
func (wiring) AddPod(context.Context, datapath.Node, datapath.Pod) (datapath.Wiring, error) {
	return datapath.Wiring{HostIfName: "tw1", HostMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, PodMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, MTU: 1500,
		Gateways: []netip.Addr{netip.MustParseAddr("169.254.1.1")}}, nil
}

// One id goes from the container runtime to the cloud: the sandbox's, with which the plugin is executed. At level info it is in the lines of the
// agent, of the controller and of the cloud's client about what is refused, with the cloud's id of the request.
func TestOneIDFromThePluginToTheCloud(t *testing.T) {
	const sandbox = "7c5e09d1a01b"
	plugin := filepath.Join(t.TempDir(), "terway")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", plugin, "terway.dev/terway/cmd/terway").CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v\n%s", err, out)
	}
	book := &logBook{}
	log := slog.New(slog.NewTextHandler(book, nil)) // level info

	// Cloud and controller.
	g := newRig(t, []string{"192.168.32.0/24"})
	account := g.Sim.Account()
	client, err := alibaba.New(alibaba.Config{
		Region: "cn-hangzhou", ECSEndpoint: g.Sim.Endpoint(), VPCEndpoint: g.Sim.Endpoint(), SLBEndpoint: g.Sim.Endpoint(), NLBEndpoint: g.Sim.Endpoint(),
		Credentials: alibaba.StaticCredentials(account.AccessKeyID, account.AccessKeySecret),
		Clock:       g.Clock, Attempts: 2, Random: func() float64 { return 0.5 }, Log: log.With("program", "client"),
	})
	g.Must(err)
	g.r.Cloud, g.r.Log = client, log.With("program", "controller")
	g.addNode("n1", "ecs.g6.2xlarge")
	g.Fault(faults.Rule{Name: "refuse", Action: "CreateNetworkInterface", Error: &faults.Error{Code: "Forbidden.RAM", Status: 403}})

	// Agent.
	j, err := journal.Open(t.TempDir())
	g.Must(err)
	t.Cleanup(func() { _ = j.Close() })
	a, err := agent.New(agent.Options{
		Log: log.With("program", "agent"), Now: time.Now, Journal: j, Datapath: wiring{}, WaitForAddress: time.Minute, Alive: func(string) bool { return true },
		Devices: func() (map[string]agent.Device, error) {
			found := map[string]agent.Device{}
			if nn := g.nn("n1"); nn != nil {
				for i, eni := range nn.Spec.ENIs {
					found[eni.MAC] = agent.Device{Name: fmt.Sprint("eth", i+1), MTU: 1500}
				}
			}
			return found, nil
		},
	})
	g.Must(err)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	g.Must(err)
	running.Go(func() {
		if err := server.Serve(ctx, listener, time.Second, a.Answer); err != nil {
			t.Error(err)
		}
	})
	running.Go(func() {
		watch := func(ctx context.Context, changed func()) error {
			for ctx.Err() == nil {
				changed()
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
			return ctx.Err()
		}
		if err := agent.NewNodeSync(a, agent.Cluster{Client: g.kube, Own: g.kube, Watch: watch}, "n1").Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})

	// The runtime executes the plugin, and the controller works, until done says so.
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, plugin)
	cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID="+sandbox, "CNI_NETNS=/run/netns/x", "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin",
		"CNI_ARGS=K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion":"1.1.0","name":"terway","type":"terway","socket":%q}`, socket))
	cmd.Stdout = &out
	work := func(what string, done func() bool) {
		t.Helper()
		for began := time.Now(); !done(); {
			if time.Since(began) > 30*time.Second {
				t.Fatalf("not within 30 s: %s\n%s%s", what, book.text.String(), out.String())
			}
			if _, err := g.r.Reconcile(ctx, request("n1")); err != nil && !apierrors.IsConflict(err) { // the agent writes meanwhile
				t.Fatal(err)
			}
			g.Must(a.Repair(ctx)) // terwayd does it when devices come
			g.Clock.Pass(10 * time.Second)
			time.Sleep(10 * time.Millisecond)
		}
	}
	work("the node's NodeNetwork", func() bool { return g.nn("n1") != nil })
	g.Must(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	work("the report of the waiting pod", func() bool { return slices.Contains(g.nn("n1").Status.WaitingSandboxes, sandbox) })
	work("a refused call for the sandbox", func() bool {
		return len(book.of("client", sandbox)) > 0 && len(book.of("controller", sandbox)) > 0
	})
	for program, words := range map[string][]string{
		"agent":      {"a pod waits for an address", "pod=shop/web-0", "sandbox=" + sandbox},
		"controller": {"the cloud refused", "node=n1", "sandboxes=[" + sandbox + "]"},
		"client":     {"cloud call", "action=CreateNetworkInterface", "request=", "sandboxes=[" + sandbox + "]", "Forbidden.RAM"},
	} {
		lines := book.of(program, sandbox)
		if len(lines) == 0 {
			t.Errorf("%s: no line has the id", program)
			continue
		}
		for _, word := range words {
			if !strings.Contains(lines[0], word) {
				t.Errorf("%s: no %q in %s", program, word, lines[0])
			}
		}
	}

	// The pod gets its address by the same ADD, and successful calls are no lines at this level.
	g.Sim.RemoveFault("refuse")
	before := len(book.of("client", "cloud call"))
	var failed error
	work("the end of the plugin", func() bool {
		select {
		case failed = <-ended:
			return true
		default:
			return false
		}
	})
	if failed != nil || !strings.Contains(out.String(), "192.168.32.") {
		t.Errorf("the plugin: %v, %s", failed, out.String())
	}
	if now := book.of("client", "cloud call"); len(now) > before {
		t.Errorf("calls that did not fail are in the log: %s", now[before:])
	}
}
