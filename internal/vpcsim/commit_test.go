package vpcsim_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"

	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/state"
)

// recorder is a Fabric that stores what is applied, and fails if the test wants it to.
type recorder struct {
	mu       sync.Mutex
	applying bool
	views    []*state.View
	fail     error
	cloud    vpcsim.Feedback
	overlap  bool
}

func (r *recorder) Apply(_ context.Context, v *state.View) error {
	r.mu.Lock()
	r.overlap = r.overlap || r.applying
	r.applying = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.applying = false
		r.mu.Unlock()
	}()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	r.views = append(r.views, v)
	return nil
}

func (r *recorder) Connect(f vpcsim.Feedback) { r.cloud = f }

func (r *recorder) Listen(string, string, string) (net.Listener, error) {
	return net.Listen("tcp", "127.0.0.1:0")
}

func (r *recorder) Close() error { return nil }

func (r *recorder) set(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

// has reports whether the last view has the address on an attached ENI.
func (r *recorder) has(address string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, i := range r.views[len(r.views)-1].Instances {
		for _, n := range i.NetworkInterfaces {
			for _, a := range n.PrivateIpAddresses {
				if a.String() == address {
					return true
				}
			}
		}
	}
	return false
}

// What is answered is in the fabric, also with many concurrent calls.
func TestAnsweredMeansApplied(t *testing.T) {
	f := &recorder{}
	s := start(t, func(o *vpcsim.Options) { o.Fabric = f })
	c := connect(t, s)
	n := makeNetwork(t, c)
	node := runInstance(t, c, n, func(r *ecs.RunInstancesRequest) { r.InstanceType = "ecs.g7.32xlarge" })
	primary := instance(t, c, node).NetworkInterfaces.NetworkInterface[0].NetworkInterfaceId
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			// The SDK's clients are not safe for concurrent use.
			got, err := assign(connect(t, s), primary, 1, "")
			if err != nil {
				t.Error(err)
				return
			}
			if !f.has(got[0]) {
				t.Errorf("%s was answered, and is not in the fabric", got[0])
			}
		})
	}
	wg.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.overlap {
		t.Error("Apply ran twice at once")
	}
	for i := 1; i < len(f.views); i++ {
		if f.views[i].Revision <= f.views[i-1].Revision {
			t.Errorf("revision %d was applied after %d", f.views[i].Revision, f.views[i-1].Revision)
		}
	}
}

// A failure of the fabric is returned to the caller of the change, and retried automatically.
func TestFailingFabric(t *testing.T) {
	f := &recorder{}
	s := start(t, func(o *vpcsim.Options) { o.Fabric = f })
	c := connect(t, s)
	n := makeNetwork(t, c)
	node := runInstance(t, c, n)
	primary := instance(t, c, node).NetworkInterfaces.NetworkInterface[0].NetworkInterfaceId
	f.set(errors.New("no such luck"))
	_, err := assign(c, primary, 1, "token")
	wantError(t, err, "InternalError", 500)
	if err == nil || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("the error has no reason: %v", err)
	}
	addresses := func() (list []string) {
		for _, a := range eni(t, c, primary).PrivateIpSets.PrivateIpSet {
			list = append(list, a.PrivateIpAddress)
		}
		return list
	}
	made := addresses()
	if len(made) != 2 {
		t.Fatalf("addresses %v: reading must continue, and show the change", made)
	}
	f.set(nil)
	eventually(t, "the fabric has the address without another call", func() bool { return f.has(made[1]) })
	if again := must(assign(c, primary, 1, "token"))(t); again[0] != made[1] {
		t.Errorf("the retry gave %v, want %s", again, made[1])
	}
}

func TestFabricThatFailsAtTheStart(t *testing.T) {
	f := &recorder{fail: errors.New("no such luck")}
	if s, err := vpcsim.New(vpcsim.Options{Fabric: f}); err == nil || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("started: %v", err)
		if s != nil {
			s.Close()
		}
	}
}
