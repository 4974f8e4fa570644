package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"terway.dev/terway/api/v1alpha1"
)

// A pod's life in every version of the CNI specification.
func TestPodsLife(t *testing.T) {
	if !isNode(t) {
		return
	}
	n := newNode(t)
	n.plug(1)
	n.assign(10)
	n.start()
	n.eventually("readiness", ready)
	if _, err := libcni.ConfListFromFile(n.dir + "/" + ConflistName); err != nil {
		t.Errorf("the configuration that the agent wrote: %v", err)
	}
	atNode := listen(t, nil, nodeIP+":8080")
	atGateway := listen(t, n.fabric, gateway+":8080")

	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			conf := n.conf(version, false)
			p := n.sandbox("pod")
			addr, res := p.mustAdd(conf)
			if again, _ := p.mustAdd(conf); again != addr {
				t.Errorf("second ADD answered %s, first %s", again, addr)
			}
			if res.Interfaces[0].Sandbox != "" || res.Interfaces[1].Sandbox != p.ns.Path || res.Interfaces[1].Name != "eth0" || *res.IPs[0].Interface != 1 {
				t.Errorf("interfaces %+v, want the host's end and then the pod's eth0", res.Interfaces)
			}
			if len(res.Routes) != 1 || res.Routes[0].Dst.String() != "0.0.0.0/0" || !res.Routes[0].GW.Equal(res.IPs[0].Gateway) {
				t.Errorf("routes %v, gateway %v", res.Routes, res.IPs[0].Gateway)
			}
			n.deliver(addr)
			for to, from := range map[string]<-chan string{nodeIP + ":8080": atNode, gateway + ":8080": atGateway} {
				if err := p.reaches(to); err != nil {
					t.Fatalf("pod to %s: %v", to, err)
				}
				if got := netip.MustParseAddrPort(<-from).Addr(); got != addr {
					t.Errorf("%s saw the pod as %s, want its own address %s", to, got, addr)
				}
			}
			if version != "0.3.1" {
				if err := n.cni.CheckNetworkList(context.Background(), conf, p.rt); err != nil {
					t.Errorf("CHECK of a sound pod: %v", err)
				}
				p.checkNotices(t, conf, "link set eth0 down", "link show dev eth0 up")
			}
			p.mustDel(conf)
			p.mustDel(conf)
			n.eventually("the address to rest", func(nn *v1alpha1.NodeNetwork) bool {
				return slices.Contains(nn.Status.Cooling, addr.String()) && nn.Status.UsedCount == 0
			})

			gone := n.sandbox("gone")
			gone.mustAdd(conf)
			gone.ns.Remove()
			gone.mustDel(conf)
		})
	}
}

// checkNotices breaks something in the pod and expects CHECK to report it. The agent may repair the
// pod before CHECK runs: then sound, which prints nothing for a broken pod, prints something, and the
// pod is broken again.
func (s *sandbox) checkNotices(t *testing.T, c *libcni.NetworkConfigList, broken, sound string) {
	t.Helper()
	for range 20 {
		s.ns.IP(broken)
		if err := s.n.cni.CheckNetworkList(context.Background(), c, s.rt); err != nil {
			return
		}
		if s.ns.IP(sound) == "" {
			t.Errorf("CHECK of a pod after ip %s said nothing, and the agent had not repaired it", broken)
			return
		}
	}
	t.Errorf("CHECK never noticed ip %s: the agent was faster each time", broken)
}

func TestNamespaceGoneWithoutDel(t *testing.T) {
	if !isNode(t) {
		return
	}
	n := newNode(t)
	n.plug(1)
	n.assign(1)
	n.start()
	n.eventually("readiness", ready)
	p := n.sandbox("pod")
	p.mustAdd(n.conf("1.1.0", false))
	n.eventually("the pod's address in the report", func(nn *v1alpha1.NodeNetwork) bool {
		return nn.Status.UsedCount == 1 && nn.Status.Used[0].Pod == "default/pod" && nn.Status.Used[0].Sandbox == p.rt.ContainerID
	})
	p.ns.Remove()
	n.eventually("the dead pod's address to rest", func(nn *v1alpha1.NodeNetwork) bool {
		return nn.Status.UsedCount == 0 && len(nn.Status.Cooling) == 1
	})
	if links := n.ip("-br link"); strings.Contains(links, "tw") {
		t.Errorf("links of a dead pod are left: %s", links)
	}
}

func TestStatusAndGCThroughLibcni(t *testing.T) {
	if !isNode(t) {
		return
	}
	n := newNode(t)
	conf := n.conf("1.1.0", false)
	code := func(err error) uint {
		var e *types.Error
		if errors.As(err, &e) {
			return e.Code
		}
		return 0
	}
	if err := n.cni.GetStatusNetworkList(context.Background(), conf); code(err) != types.ErrPluginNotAvailable || !strings.Contains(err.Error(), "terwayd") {
		t.Errorf("STATUS without an agent: %v, want code 50", err)
	}
	p := n.sandbox("pod")
	if _, _, err := p.add(conf); code(err) != types.ErrTryAgainLater {
		t.Errorf("ADD without an agent: %v, want code 11", err)
	}
	if err := n.cni.DelNetworkList(context.Background(), conf, p.rt); code(err) != types.ErrTryAgainLater {
		t.Errorf("DEL without an agent: %v, want code 11: nobody confirmed it", err)
	}
	n.start()
	if err := n.cni.GetStatusNetworkList(context.Background(), conf); code(err) != types.ErrPluginNotAvailable {
		t.Errorf("STATUS before there is an ENI: %v, want code 50", err)
	}
	n.plug(1)
	n.assign(5)
	n.eventually("readiness", ready)
	if err := n.cni.GetStatusNetworkList(context.Background(), conf); err != nil {
		t.Errorf("STATUS of a ready node: %v", err)
	}
	var pods []*sandbox
	for i := range 3 {
		p := n.sandbox(fmt.Sprintf("pod%d", i))
		p.mustAdd(conf)
		pods = append(pods, p)
	}
	used := func(want int) {
		n.eventually(fmt.Sprintf("%d addresses in use", want), func(nn *v1alpha1.NodeNetwork) bool { return nn.Status.UsedCount == want })
	}
	used(3)
	keep := []types.GCAttachment{{ContainerID: pods[1].rt.ContainerID, IfName: "eth0"}}
	// libcni sends a DEL for what is in its cache; the agent must not depend on that.
	if err := os.RemoveAll(n.dir + "/cache"); err != nil {
		t.Fatal(err)
	}
	if err := n.cni.GCNetworkList(context.Background(), conf, &libcni.GCArgs{ValidAttachments: keep}); err != nil {
		t.Errorf("GC: %v", err)
	}
	used(1)
	if err := pods[1].reaches(nodeIP + ":1"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("the pod that GC kept: %v, want an answer of the node", err)
	}
	if err := n.cni.GCNetworkList(context.Background(), conf, &libcni.GCArgs{}); err != nil {
		t.Errorf("GC of everything: %v", err)
	}
	used(0)
}

func TestChainedPortmap(t *testing.T) {
	if !isNode(t) {
		return
	}
	n := newNode(t)
	n.plug(1)
	n.assign(5)
	n.start()
	n.eventually("readiness", ready)
	conf := n.conf("1.1.0", true)
	p := n.sandbox("web")
	p.rt.CapabilityArgs = map[string]any{"portMappings": []map[string]any{{"hostPort": 8088, "containerPort": 80, "protocol": "tcp"}}}
	p.mustAdd(conf)
	from := listen(t, p.ns, ":80")
	if err := n.cni.CheckNetworkList(context.Background(), conf, p.rt); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	c, err := n.fabric.Dial("tcp", outside+":0", nodeIP+":8088", 3*time.Second)
	if err != nil {
		t.Fatalf("connection to the hostPort: %v", err)
	}
	_ = c.Close()
	if got := netip.MustParseAddrPort(<-from).Addr().Unmap(); got != netip.MustParseAddr(outside) {
		t.Errorf("the pod saw the client as %s, want %s", got, outside)
	}
	p.mustDel(conf)
	if c, err := n.fabric.Dial("tcp", outside+":0", nodeIP+":8088", time.Second); err == nil {
		_ = c.Close()
		t.Error("the hostPort answers after DEL")
	}
}

// An ADD waits for an address, and for the device of its ENI.
func TestHotPlug(t *testing.T) {
	if !isNode(t) {
		return
	}
	n := newNode(t)
	n.spec(func(s *v1alpha1.NodeNetworkSpec) { s.Pool.Min = 0 })
	n.start()
	n.eventually("readiness", ready)
	p := n.sandbox("pod")
	done := make(chan error, 1)
	go func() {
		_, _, err := p.add(n.conf("1.1.0", false))
		done <- err
	}()
	n.eventually("the demand in the report", func(nn *v1alpha1.NodeNetwork) bool { return nn.Status.Demand == 1 })
	n.assign(1) // the cloud has assigned it, the device is not on the node yet
	n.eventually("the agent to know the address", func(*v1alpha1.NodeNetwork) bool {
		n.agent.mu.Lock()
		defer n.agent.mu.Unlock()
		return n.agent.pool.Count(time.Now()).Unusable == 1
	})
	select {
	case err := <-done:
		t.Fatalf("ADD answered before the ENI was on the node: %v", err)
	default:
	}
	n.plug(1)
	if err := <-done; err != nil {
		t.Errorf("ADD: %v", err)
	}
	n.eventually("the demand to be gone", func(nn *v1alpha1.NodeNetwork) bool { return nn.Status.Demand == 0 && nn.Status.UsedCount == 1 })
}

// The agent is stopped and restarted during a burst of pods. After a failure the kubelet creates a new
// sandbox.
func TestBurstWithRestart(t *testing.T) {
	if !isNode(t) {
		return
	}
	const pods = 100
	n := newNode(t)
	n.plug(1)
	n.assign(2 * pods)
	n.spec(func(s *v1alpha1.NodeNetworkSpec) { s.Pool.CoolingSeconds = 1 })
	n.start()
	n.eventually("readiness", ready)
	conf := n.conf("1.1.0", false)

	var boxes []*sandbox
	for i := range pods {
		boxes = append(boxes, n.sandbox(fmt.Sprintf("pod-%d", i)))
	}
	var mu sync.Mutex
	seen := map[netip.Addr]string{}
	var took []time.Duration
	burst := make(chan struct{}, 30) // the plugin is a process: bound the number that run at once
	half := make(chan struct{})
	var wg sync.WaitGroup
	for i, b := range boxes {
		burst <- struct{}{}
		if i == pods/2 {
			close(half)
		}
		wg.Go(func() {
			defer func() { <-burst }()
			for attempt := 1; ; attempt++ {
				start := time.Now()
				a, _, err := b.add(conf)
				if err == nil {
					mu.Lock()
					if other, dup := seen[a]; dup {
						t.Errorf("%s given to %s and %s", a, other, b.ns.Name)
					}
					seen[a] = b.ns.Name
					took = append(took, time.Since(start))
					mu.Unlock()
					return
				}
				if attempt == 5 {
					t.Errorf("ADD %s: %v", b.ns.Name, err)
					return
				}
				for n.cni.DelNetworkList(context.Background(), conf, b.rt) != nil {
					time.Sleep(50 * time.Millisecond)
				}
				b.rt.ContainerID += "x"
			}
		})
		if i == pods/2 {
			n.stop()
			n.start()
		}
	}
	wg.Wait()
	<-half
	slices.Sort(took)
	t.Logf("%d ADDs, 30 at once, one restart: median %v, slowest %v", len(took), took[len(took)/2], took[len(took)-1])
	if len(seen) != pods {
		t.Errorf("%d pods have addresses, want %d", len(seen), pods)
	}
	n.eventually("all addresses in the report", func(nn *v1alpha1.NodeNetwork) bool { return nn.Status.UsedCount == pods && nn.Status.Demand == 0 })
	for _, b := range boxes {
		if err := b.reaches(nodeIP + ":1"); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v, want an answer of the node", b.ns.Name, err)
		}
	}
	if got := strings.Count(n.ip("-br link"), "tw"); got != pods {
		t.Errorf("%d links for %d pods", got, pods)
	}
	for _, b := range boxes {
		b.mustDel(conf)
	}
	n.eventually("no address in use", func(nn *v1alpha1.NodeNetwork) bool { return nn.Status.UsedCount == 0 })
}

// The agent is restarted while the API server is unreachable: pods keep their network, and new ones
// get addresses.
func TestRestartWithoutAPIServer(t *testing.T) {
	if !isNode(t) {
		return
	}
	n := newNode(t)
	n.plug(1)
	n.assign(3)
	n.start()
	n.eventually("readiness", ready)
	conf := n.conf("1.1.0", false)
	old := n.sandbox("old")
	first, _ := old.mustAdd(conf)
	n.stop()
	n.away = true
	n.start()
	fresh := n.sandbox("fresh")
	second, _ := fresh.mustAdd(conf)
	if first == second {
		t.Errorf("both pods have %s", first)
	}
	for _, p := range []*sandbox{old, fresh} {
		if err := p.reaches(nodeIP + ":1"); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v, want an answer of the node", p.ns.Name, err)
		}
	}
}
