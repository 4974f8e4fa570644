//go:build bench

package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/agent/nodepolicy"
	"terway.dev/terway/internal/datapath/ebpf"
	dpnode "terway.dev/terway/internal/datapath/node"
)

// asAgent is set in the process of a node's agent: a job as JSON.
const asAgent = "TERWAY_BENCH_AGENT"

// job configures an agent's process.
type job struct {
	Datapath string
	Dir      string
	NodeIP   string
	Spec     v1alpha1.NodeNetworkSpec
	// Profile is the file for its CPU profile; empty for none.
	Profile string
	// Product: the node has all kinds, as terwayd's has. Policies says where the policy hub is; nil: policy is off.
	Product  bool
	Policies *hubJob
}

func TestMain(m *testing.M) {
	if s := os.Getenv(asAgent); s != "" {
		var j job
		err := json.Unmarshal([]byte(s), &j)
		if err == nil {
			err = j.run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// socket is the agent's socket.
func (j *job) socket() string { return j.Dir + "/terway.sock" }

// start runs the agent in a separate process, in the node's namespace, until the test ends. It
// is the same as terwayd: package, socket, journal on disk and loops; only the API server is
// one in memory. It starts with the priority that first gives.
func (n *node) start(j job) (pid int) {
	n.t.Helper()
	raw, err := json.Marshal(j)
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asAgent+"="+string(raw))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.Do(func() error {
		first(0, true)
		return cmd.Start()
	}); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
			n.t.Errorf("agent of %s: %v", n.Name, err)
		}
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		n.t.Fatalf("agent of %s: %v", n.Name, err)
	}
	return cmd.Process.Pid
}

// run is the main function of the agent's process; it reports when it listens.
func (j *job) run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	end, err := profile(j.Profile)
	if err != nil {
		return err
	}
	defer end()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var dp *dpnode.Node
	var enforcer *ebpf.Policy
	if j.Product {
		if dp, enforcer, err = product("", log); err != nil {
			return err
		}
	}
	for _, k := range kinds() {
		if k.name == j.Datapath && dp == nil {
			if dp, err = k.open("", log); err != nil {
				return err
			}
		}
	}
	state, err := journal.Open(j.Dir + "/state")
	if err != nil {
		return err
	}
	options := agent.Options{
		Log: log, Now: time.Now, Journal: state, Datapath: dp, WaitForAddress: 25 * time.Second,
		Alive: agent.SandboxAlive, Devices: agent.LinksByMAC,
	}
	var a *agent.Agent
	var policies *nodepolicy.Policies
	if j.Policies != nil {
		policies = j.Policies.follow(j.Dir, enforcer, func() { a.RequestRepair() }, log)
		options.Policies = policies
	}
	if a, err = agent.New(options); err != nil {
		return err
	}
	if policies != nil {
		policies.Start()
	}
	cluster, err := j.cluster()
	if err != nil {
		return err
	}
	l, err := agent.Listen(j.socket())
	if err != nil {
		return err
	}
	fmt.Println("listening")
	nodes := agent.NewNodeSync(a, cluster, "node")
	var wg sync.WaitGroup
	// The periods are those of cmd/terwayd.
	wg.Go(func() {
		a.RepairLoop(ctx, 5*time.Second, 100*time.Millisecond, func(bool) error { return nil })
	})
	wg.Go(func() { a.Watch(ctx) })
	if policies != nil {
		wg.Go(func() { policies.Run(ctx) })
	}
	errs := make([]error, 2)
	wg.Go(func() { errs[0] = agent.Serve(ctx, l, a) })
	wg.Go(func() { errs[1] = nodes.Run(ctx) })
	wg.Wait()
	closing, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return errors.Join(errs[0], errs[1], dp.Close(closing), state.Close())
}

// cluster returns an API server in memory with the node.
func (j *job) cluster() (agent.Cluster, error) {
	scheme, err := agent.Scheme()
	if err != nil {
		return agent.Cluster{}, err
	}
	kube := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.NodeNetwork{}).WithObjects(
		&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "node"},
			Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: j.NodeIP}}},
		},
		&v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "node", UID: "uid"}, Spec: j.Spec},
	).Build()
	return agent.Cluster{Client: kube, Own: kube, Watch: func(ctx context.Context, changed func()) error {
		return watch(ctx, kube, changed)
	}}, nil
}

func watch(ctx context.Context, kube client.WithWatch, changed func()) error {
	w, err := kube.Watch(ctx, &v1alpha1.NodeNetworkList{})
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
