package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

func TestAddTwiceGivesTheSameAnswer(t *testing.T) {
	e := newEnv(t, 3)
	first := e.mustAdd("a")
	if again := e.mustAdd("a"); again != first {
		t.Errorf("second ADD answered %s, first %s", again, first)
	}
	e.restart()
	if again := e.mustAdd("a"); again != first {
		t.Errorf("ADD after restart answered %s, first %s", again, first)
	}
	if other := e.mustAdd("b"); other == first {
		t.Errorf("two pods have %s", other)
	}
}

func TestDelIsIdempotentAndRestsTheAddress(t *testing.T) {
	e := newEnv(t, 1)
	addr := e.mustAdd("a")
	e.del("a")
	e.del("a")
	e.del("never-was")
	if _, err := e.add("b"); err == nil || !strings.Contains(err.Msg, "1 resting") || !strings.Contains(err.Msg, "1m0s") {
		t.Errorf("ADD while the address rests: %v, want the reason and the time", err)
	}
	e.restart() // the cooling time is in the journal
	if _, err := e.add("b"); err == nil {
		t.Error("restart shortened the rest")
	}
	e.sleep(time.Minute)
	if got := e.mustAdd("b"); got != addr {
		t.Errorf("got %s, want %s", got, addr)
	}
}

func TestFailedWiringLeavesNothing(t *testing.T) {
	e := newEnv(t, 1)
	e.dp.failAdd = errors.New("no such device")
	if _, err := e.add("a"); err == nil || !strings.Contains(err.Msg, "no such device") {
		t.Errorf("error %v, want the cause", err)
	}
	if len(e.dp.wired) != 0 {
		t.Errorf("wired %v, want nothing", e.dp.wired)
	}
	e.dp.failAdd = nil
	e.sleep(time.Minute)
	e.mustAdd("a")
}

// A pod whose namespace is not visible, but whose link is alive, keeps its address: the agent's view of
// the mounts is wrong, not the pod.
func TestHiddenSandboxIsKept(t *testing.T) {
	e := newEnv(t, 1)
	e.mustAdd("a")
	e.dead["/run/netns/a"], e.links["twa"] = true, true
	e.repair()
	if len(e.dp.wired) != 1 {
		t.Error("a living pod was unwired")
	}
	delete(e.links, "twa")
	e.repair()
	if len(e.dp.wired) != 0 {
		t.Error("a dead pod was kept")
	}
}

func TestGCLeavesWhatIsBeingWired(t *testing.T) {
	e := newEnv(t, 1)
	e.dp.onAdd = func(step) {
		gc := call("")
		gc.Config = []byte(`{"cniVersion":"1.1.0","name":"terway","cni.dev/valid-attachments":[]}`)
		if r := e.do(context.Background(), "GC", gc); r.Error != nil {
			t.Errorf("GC: %v", r.Error)
		}
	}
	e.mustAdd("a")
	if len(e.dp.wired) != 1 {
		t.Error("GC took the pod that was being wired")
	}
}

func TestAddInANamespaceThatIsGone(t *testing.T) {
	e := newEnv(t, 1)
	e.dead["/run/netns/a"] = true
	if _, err := e.add("a"); !says(err, types.ErrInvalidNetNS, "/run/netns/a") {
		t.Errorf("error %v, want code 8 naming the path", err)
	}
}

func TestDeadSandboxIsFreed(t *testing.T) {
	e := newEnv(t, 1)
	e.mustAdd("a")
	e.dead["/run/netns/a"] = true
	if err := e.a.Repair(context.Background()); err != nil {
		t.Fatal(err)
	}
	if len(e.dp.wired) != 0 {
		t.Error("the wiring of a dead sandbox is still there")
	}
	e.sleep(time.Minute)
	e.mustAdd("b")
}

func TestManyAddsAtOnce(t *testing.T) {
	const n = 300
	e := newEnv(t, n)
	var mu sync.Mutex
	seen := map[string]string{}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			id := fmt.Sprintf("s%d", i)
			r := e.do(context.Background(), "ADD", call(id))
			if r.Error != nil {
				t.Errorf("ADD %s: %v", id, r.Error)
				return
			}
			var res struct {
				IPs []struct{ Address string }
			}
			if err := json.Unmarshal(r.Result, &res); err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if other, dup := seen[res.IPs[0].Address]; dup {
				t.Errorf("%s and %s share %s", id, other, res.IPs[0].Address)
			}
			seen[res.IPs[0].Address] = id
		})
	}
	wg.Wait()
	if len(seen) != n {
		t.Errorf("%d addresses, want %d", len(seen), n)
	}
}

func TestGC(t *testing.T) {
	e := newEnv(t, 3)
	for _, s := range []string{"a", "b", "c"} {
		e.mustAdd(s)
	}
	gc := call("")
	gc.Config = []byte(`{"cniVersion":"1.1.0","name":"terway","type":"terway","cni.dev/valid-attachments":[{"containerID":"b","ifname":"eth0"}]}`)
	if r := e.do(context.Background(), "GC", gc); r.Error != nil {
		t.Fatalf("GC: %v", r.Error)
	}
	if _, ok := e.dp.wired["b"]; !ok || len(e.dp.wired) != 1 {
		t.Errorf("wired %v, want only b", e.dp.wired)
	}
	gc.Config = []byte(`{"cniVersion":"1.1.0","name":"another","type":"terway","cni.dev/valid-attachments":[]}`)
	if r := e.do(context.Background(), "GC", gc); r.Error != nil {
		t.Fatalf("GC: %v", r.Error)
	}
	if len(e.dp.wired) != 1 {
		t.Error("GC of another network took a pod of ours")
	}
}

func TestCheck(t *testing.T) {
	e := newEnv(t, 1)
	addr := e.mustAdd("a")
	check := call("a")
	conf := func(a string) []byte {
		return []byte(`{"cniVersion":"1.1.0","name":"terway","type":"terway","prevResult":{"cniVersion":"1.1.0",
			"interfaces":[{"name":"twa"},{"name":"eth0","sandbox":"/run/netns/a"}],"ips":[{"address":"` + a + `"}]}}`)
	}
	check.Config = conf(addr)
	if r := e.do(context.Background(), "CHECK", check); r.Error != nil {
		t.Errorf("CHECK of a sound pod: %v", r.Error)
	}
	check.Config = conf("192.168.99.99/32")
	if r := e.do(context.Background(), "CHECK", check); r.Error == nil || !strings.Contains(r.Error.Msg, "192.168.99.99") {
		t.Errorf("CHECK with another address: %v", r.Error)
	}
	delete(e.dp.wired, "a")
	check.Config = conf(addr)
	if r := e.do(context.Background(), "CHECK", check); r.Error == nil || !strings.Contains(r.Error.Msg, "host link") {
		t.Errorf("CHECK of a broken pod: %v", r.Error)
	}
}
