package provision_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/plan"
	"terway.dev/terway/internal/provision"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/state"
)

// simulator is a simulated cloud behind a connection that can be cut.
type simulator struct {
	*vpcsim.Server
	wire *wire
}

func start(t *testing.T, change ...func(*vpcsim.Options)) *simulator {
	t.Helper()
	o := vpcsim.Options{Seed: 1}
	for _, f := range change {
		f(&o)
	}
	s, err := vpcsim.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &simulator{s, newWire(t, s.Endpoint())}
}

// wire forwards calls to the cloud and can stop doing so, like a kill -9 of the caller: at the last
// call, before or after the cloud carried it out.
type wire struct {
	*httptest.Server
	to *url.URL

	mu    sync.Mutex
	calls int
	// limit is how many calls get through (−1: all); then done is called. With late, the cloud
	// carries out the next call, but its answer is lost.
	limit int
	late  bool
	done  func()
}

func newWire(t *testing.T, to string) *wire {
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{to: u, limit: -1}
	w.Server = httptest.NewServer(w)
	t.Cleanup(w.Close)
	return w
}

func (w *wire) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.calls++
	cut := w.limit >= 0 && w.calls > w.limit
	late, done := w.late && w.calls == w.limit+1, w.done
	w.mu.Unlock()
	if !cut || late {
		out := r.Clone(context.WithoutCancel(r.Context()))
		out.URL.Scheme, out.URL.Host, out.RequestURI = w.to.Scheme, w.to.Host, ""
		rsp, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer rsp.Body.Close()
		if !cut {
			rw.WriteHeader(rsp.StatusCode)
			_, _ = io.Copy(rw, rsp.Body) // the client gets a truncated answer
			return
		}
	}
	done()
	panic(http.ErrAbortHandler)
}

// cutAfter lets n calls through and kills the caller at the next one; the returned context ends
// with the caller.
func (w *wire) cutAfter(t *testing.T, n int, late bool) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls, w.limit, w.late, w.done = 0, n, late, cancel
	return ctx
}

func (w *wire) mend() (calls int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls, w.limit, w.calls = w.calls, -1, 0
	return calls
}

// provisioner is one run of the program; it keeps nothing of the last one.
func (s *simulator) provisioner(t *testing.T) *provision.Provisioner {
	t.Helper()
	a := s.Account()
	c, err := alibaba.New(alibaba.Config{Region: s.Region(), ECSEndpoint: s.wire.URL, VPCEndpoint: s.wire.URL,
		Credentials: alibaba.StaticCredentials(a.AccessKeyID, a.AccessKeySecret), Clock: quick{}})
	if err != nil {
		t.Fatal(err)
	}
	return &provision.Provisioner{Cloud: c, Region: s.Region(), Clock: quick{}, Say: func(line string) { t.Log(line) },
		Poll: time.Second, Patience: time.Hour, Settle: 20 * time.Second}
}

// quick is a clock on which a second passes in a millisecond.
type quick struct{ clock.RealClock }

var began = time.Now()

func (quick) Now() time.Time { return began.Add(1000 * time.Since(began)) }

func (quick) After(d time.Duration) <-chan time.Time { return time.After(d / 1000) }

func (quick) Sleep(d time.Duration) { time.Sleep(d / 1000) }

func ranges(s ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, x := range s {
		all = append(all, netip.MustParsePrefix(x))
	}
	return all
}

// example is a plan of two zones.
func example() *plan.Plan {
	return &plan.Plan{
		Version: plan.Version, Name: "shop", Region: "cn-hangzhou", Network: claims.NetworkTerway, Mode: claims.ModeShared,
		VPC:   plan.VPC{CIDR: netip.MustParsePrefix("192.168.0.0/16")},
		Nodes: plan.Nodes{Count: 2, Max: 4, InstanceTypes: []string{"ecs.g6.2xlarge"}},
		Zones: []plan.Zone{
			{ID: "cn-hangzhou-i", Node: vsw("node-i", "192.168.0.0/19"), Pods: []plan.VSwitch{vsw("pod-i", "192.168.32.0/19")}},
			{ID: "cn-hangzhou-j", Node: vsw("node-j", "192.168.64.0/19"), Pods: []plan.VSwitch{vsw("pod-j", "192.168.96.0/19")}},
		},
		ServiceCIDR: netip.MustParsePrefix("172.21.0.0/20"), SecurityGroup: plan.GroupNormal,
	}
}

func vsw(name, cidr string) plan.VSwitch {
	return plan.VSwitch{Name: name, CIDR: netip.MustParsePrefix(cidr)}
}

// full is a plan that uses everything: a secondary range, rules of the group.
func full() *plan.Plan {
	p := example()
	p.VPC.Secondary = ranges("10.7.0.0/16")
	p.SecurityGroup = plan.GroupEnterprise
	p.Zones[1].Pods = append(p.Zones[1].Pods, vsw("pod-j-2", "10.7.0.0/19"))
	return p
}

func flannel() *plan.Plan {
	p := example()
	p.Network, p.Mode, p.PodCIDR, p.NodeMask = claims.NetworkFlannel, "", netip.MustParsePrefix("172.20.0.0/16"), 26
	for i := range p.Zones {
		p.Zones[i].Pods = nil
	}
	return p
}

// inventory returns all that the cloud holds, as text without ids, sorted.
func (s *simulator) inventory(t *testing.T) []string {
	t.Helper()
	all := []string{}
	v := s.View()
	for _, x := range v.VPCs {
		all = append(all, fmt.Sprintf("vpc %s %s %v %v %s", x.VpcName, x.CidrBlock, x.SecondaryCidrBlocks, sorted(x.Tags), x.Status))
	}
	for _, x := range v.VSwitches {
		all = append(all, fmt.Sprintf("vswitch %s %s %s %v %s", x.VSwitchName, x.CidrBlock, x.ZoneId, sorted(x.Tags), x.Status))
	}
	for _, x := range v.SecurityGroups {
		line := fmt.Sprintf("group %s %s %v", x.SecurityGroupName, x.SecurityGroupType, sorted(x.Tags))
		for _, r := range x.Rules {
			line += fmt.Sprintf(" %s %s %s %s", r.Direction, r.IpProtocol, r.Policy, r.Peer)
		}
		all = append(all, line)
	}
	slices.Sort(all)
	return all
}

func sorted(tags []state.Tag) []string {
	var all []string
	for _, t := range tags {
		all = append(all, t.Key+"="+t.Value)
	}
	slices.Sort(all)
	return all
}

// wanted returns the inventory of a plan.
func wanted(p *plan.Plan) []string {
	own := "creator=terway terway.dev/plan=" + p.Name
	secondary := p.VPC.Secondary
	all := []string{fmt.Sprintf("vpc %s %s %v [%s] Available", p.Name, p.VPC.CIDR, secondary, own)}
	group := fmt.Sprintf("group %s %s [%s]", p.Name, p.SecurityGroup, own)
	if p.SecurityGroup == plan.GroupEnterprise {
		for _, c := range append([]netip.Prefix{p.VPC.CIDR}, secondary...) {
			group += " ingress ALL Accept " + c.String()
		}
	}
	if p.Network == claims.NetworkFlannel {
		group += " ingress ALL Accept " + p.PodCIDR.String()
	}
	all = append(all, group)
	for _, z := range p.Zones {
		for i, v := range append([]plan.VSwitch{z.Node}, z.Pods...) {
			role := "pod"
			if i == 0 {
				role = "node"
			}
			all = append(all, fmt.Sprintf("vswitch %s %s %s [%s terway.dev/role=%s] Available", v.Name, v.CIDR, z.ID, own, role))
		}
	}
	slices.Sort(all)
	return all
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: the cloud holds\n%q\nwant\n%q", what, got, want)
	}
}

// write changes the cloud as another program would.
func (s *simulator) write(t *testing.T, f func(state.API) error) {
	t.Helper()
	if err := s.Write(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

func types() plan.Catalog { return catalog.Default() }
