package vpcsim_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/state"
)

// prober is a plane like a balancer's health checks: in Apply it finds new instances and
// reports on each.
type prober struct {
	recorder
}

func (p *prober) Apply(ctx context.Context, v *state.View) error {
	if err := p.recorder.Apply(ctx, v); err != nil {
		return err
	}
	for _, i := range v.Instances {
		if slices.Contains(i.Tags, healthy) {
			continue
		}
		if err := p.cloud.Report(func(api state.API) error {
			return api.TagResources(state.TagResourcesRequest{ResourceType: "instance", ResourceId: []string{i.InstanceId}, Tag: []state.Tag{healthy}})
		}); err != nil {
			return err
		}
	}
	return nil
}

var healthy = state.Tag{Key: "health", Value: "good"}

// last returns the last view that was applied.
func (r *recorder) last() *state.View {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.views) == 0 {
		return nil
	}
	return r.views[len(r.views)-1]
}

// times returns how often Apply was called.
func (r *recorder) times() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.views)
}

// sees reports whether the last view has the report on an instance.
func (r *recorder) sees(id string) bool {
	v := r.last()
	return v != nil && slices.ContainsFunc(v.Instances, func(i state.InstanceView) bool {
		return i.InstanceId == id && slices.Contains(i.Tags, healthy)
	})
}

// A plane's report becomes part of the cloud: callers see it, it is applied to the planes, and
// it is there after a restart.
func TestPlaneReports(t *testing.T) {
	fabric, probe := &recorder{}, &prober{}
	s := start(t, func(o *vpcsim.Options) {
		o.StateDir, o.Fabric, o.Planes = t.TempDir(), fabric, []vpcsim.Plane{probe}
	})
	c := connect(t, s)
	node := runInstance(t, c, makeNetwork(t, c))
	eventually(t, "the report is applied to all planes", func() bool { return fabric.sees(node) && probe.sees(node) })
	if tags := instance(t, c, node).Tags.Tag; len(tags) != 1 || tags[0].TagValue != healthy.Value {
		t.Errorf("a caller sees the tags %v", tags)
	}
	if err := probe.cloud.Report(func(state.API) error { return errors.New("refused") }); err == nil || err.Error() != "refused" {
		t.Errorf("a report that the cloud refuses: %v", err)
	}
	// A report between two calls is applied too. (The prober notices that the tag is gone and
	// sets it again.)
	revision := fabric.last().Revision
	if err := probe.cloud.Report(func(api state.API) error {
		return api.UntagResources(state.UntagResourcesRequest{ResourceType: "instance", ResourceId: []string{node}, All: true})
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a report is applied by itself", func() bool { return fabric.last().Revision > revision && fabric.sees(node) })
	dir := s.StateDir
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start(t, func(o *vpcsim.Options) { o.StateDir = dir })
	if tags := instance(t, connect(t, s), node).Tags.Tag; len(tags) != 1 {
		t.Errorf("after a restart the tags are %v", tags)
	}
}

// A plane may depend on those before it: it is called after them, not at all while one of them
// fails, and closed before them.
func TestPlanesStandOnEachOther(t *testing.T) {
	var order ending
	fabric, second, third := &recorder{}, &ended{name: "second", order: &order}, &ended{name: "third", order: &order}
	s := start(t, func(o *vpcsim.Options) { o.Fabric, o.Planes = fabric, []vpcsim.Plane{second, third} })
	c := connect(t, s)
	makeNetwork(t, c)

	second.set(errors.New("no such luck"))
	if err := makeVPC(s); err == nil {
		t.Error("a change that one plane refuses succeeds")
	}
	told := third.last().Revision // no earlier change is pending any more
	if err := makeVPC(s); err == nil || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("a change that one plane refuses: %v", err)
	}
	if fabric.last().Revision == told {
		t.Error("the fabric does not have what a later plane refused")
	}
	if now := third.last().Revision; now != told {
		t.Errorf("the third plane got revision %d, which the second does not have", now)
	}
	second.set(nil)
	eventually(t, "the third plane is updated without another call", func() bool { return third.last().Revision == fabric.last().Revision })

	before := []int{fabric.times(), second.times(), third.times()}
	third.cloud.Lost()
	eventually(t, "all planes are called again when one lost something", func() bool {
		return fabric.times() > before[0] && second.times() > before[1] && third.times() > before[2]
	})

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order.names, " "); got != "third second" {
		t.Errorf("closed: %s", got)
	}
}

// If the simulator does not start, it closes the planes.
func TestPlanesAreClosedWhenTheStartFails(t *testing.T) {
	var order ending
	second := &ended{name: "second", order: &order}
	second.set(errors.New("no such luck"))
	if _, err := vpcsim.New(vpcsim.Options{Planes: []vpcsim.Plane{second}}); err == nil {
		t.Error("started")
	}
	if len(order.names) != 1 {
		t.Errorf("closed: %v", order.names)
	}
}

func makeVPC(s *vpcsim.Server) error {
	return s.Write(context.Background(), func(api state.API) error {
		_, err := api.CreateVpc(state.CreateVpcRequest{})
		return err
	})
}

// ending records the order in which planes were closed.
type ending struct {
	mu    sync.Mutex
	names []string
}

type ended struct {
	recorder
	name  string
	order *ending
}

func (e *ended) Close() error {
	e.order.mu.Lock()
	defer e.order.mu.Unlock()
	e.order.names = append(e.order.names, e.name)
	return nil
}
