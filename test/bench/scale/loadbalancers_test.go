//go:build bench

package scale

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/controller/loadbalancer"
	"terway.dev/terway/internal/lab"
	lb "terway.dev/terway/internal/loadbalancer"
	"terway.dev/terway/internal/vpcsim/state"
)

// The load of TestLoadBalancers, and its goals.
const (
	balancedServices = 50
	balancedBackends = 200
	balancedChanges  = 20  // a second
	mostWrites       = 1.2 // a change
	mostReads        = 0.2
	mostAdded        = 2 * time.Second // from ready to added, 99 %
	mostBehind       = 10 * time.Second
)

// timed notes when backends have been added.
type timed struct {
	cloud.BalancerAPI
	*balancedLoad
}

func (t timed) AddBackends(ctx context.Context, group string, list []cloud.Backend) error {
	err := t.BalancerAPI.AddBackends(ctx, group, list)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range list {
		key := b.Description + " " + b.Address.String()
		if at, waits := t.ready[key]; waits && err == nil {
			t.took = append(t.took, time.Since(at))
			delete(t.ready, key)
		}
	}
	return err
}

// balancedLoad is Services with load balancers, whose pods change.
type balancedLoad struct {
	*testing.T
	cloud *region
	api   *alibaba.Client
	kube  client.Client
	pool  []netip.Addr
	eni   map[netip.Addr]string
	svcs  []*corev1.Service
	// has are the ready pods of each Service, by their place in pool.
	has []map[int]bool

	// start begins to control them.
	start func()

	mu sync.Mutex
	// ready is since when a backend is waited for, took how long they took.
	ready map[string]time.Time
	took  []time.Duration
}

// TestLoadBalancers changes the pods of many Services, without kubelets, and counts the calls to the cloud.
func TestLoadBalancers(t *testing.T) {
	seconds := 120
	l := newBalancedLoad(t)
	l.start()
	l.wait("all Services have their backends", 5*time.Minute)
	l.mu.Lock()
	l.took = nil
	clear(l.ready)
	l.mu.Unlock()

	before := l.cloud.calls()
	random := rand.New(rand.NewPCG(1, 1))
	changes, began := 0, time.Now()
	for tick := time.NewTicker(time.Second / balancedChanges); time.Since(began) < time.Duration(seconds)*time.Second; changes++ {
		<-tick.C
		l.change(random.IntN(len(l.svcs)), random.IntN(len(l.pool)))
	}
	took := time.Since(began)
	ended := time.Now()
	l.wait("the cloud is as wanted", time.Minute)
	behind := time.Since(ended)
	reads, writes := 0, 0
	after := l.cloud.calls().since(before)
	for action, n := range after {
		if strings.HasPrefix(action, "Describe") || strings.HasPrefix(action, "List") || strings.HasPrefix(action, "Get") {
			reads += int(n.Calls)
		} else {
			writes += int(n.Calls)
		}
	}
	l.mu.Lock()
	slices.Sort(l.took)
	added := l.took[len(l.took)*99/100]
	median := l.took[len(l.took)/2]
	l.mu.Unlock()
	w, r := float64(writes)/float64(changes), float64(reads)/float64(changes)
	t.Logf("%d Services with %d backends, %.1f changes a second for %.0f s: %.2f writes and %.2f reads a change; from ready to added %.2f s (median), %.2f s (99 %%); the cloud is as wanted %.1f s after the last change\n%s",
		balancedServices, balancedBackends, float64(changes)/took.Seconds(), took.Seconds(), w, r, median.Seconds(), added.Seconds(), behind.Seconds(), after)
	if w <= mostWrites && r <= mostReads && added <= mostAdded && behind <= mostBehind {
		return
	}
	missed := fmt.Sprintf("not met: want at most %.1f writes, %.1f reads, %s (99 %%), %s", mostWrites, mostReads, mostAdded, mostBehind)
	if os.Getenv("GATE") != "" {
		t.Fatal(missed)
	}
	t.Log(missed)
}

func (l *balancedLoad) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func newBalancedLoad(t *testing.T) *balancedLoad {
	const instances = 14
	l := &balancedLoad{T: t, cloud: newRegion(t, instances, "ecs.g6.8xlarge"), eni: map[netip.Addr]string{}, ready: map[string]time.Time{}}
	timing := state.DefaultTiming()
	timing.NLBLoadBalancer, timing.NLBListener, timing.NLBServerGroup, timing.Listener = 0, 0, 0, 0 // without the API's own delay
	l.must(l.cloud.Write(t.Context(), func(api state.API) error { api.SetTiming(timing); return nil }))
	account := l.cloud.Account()
	at := l.cloud.Endpoint()
	var err error
	l.api, err = alibaba.New(alibaba.Config{Region: regionID, ECSEndpoint: at, VPCEndpoint: at, SLBEndpoint: at, NLBEndpoint: at,
		Credentials: alibaba.StaticCredentials(account.AccessKeyID, account.AccessKeySecret)})
	l.must(err)
	enis, err := l.api.DescribeENIs(t.Context(), cloud.ENIFilter{})
	l.must(err)
	for _, e := range enis {
		for i := range 3 {
			list, err := l.api.AssignAddresses(t.Context(), e.ID, 8, fmt.Sprint(e.ID, i))
			if err != nil {
				break // the type allows no more
			}
			for _, a := range list {
				l.pool, l.eni[a] = append(l.pool, a), e.ID
			}
		}
	}
	if len(l.pool) <= balancedBackends {
		t.Fatalf("%d addresses, want more than %d", len(l.pool), balancedBackends)
	}
	server, err := lab.StartAPIServer(t.Context(), t.TempDir(), lab.NewProgress(os.Stdout, time.Now))
	l.must(err)
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	rest, err := server.RESTConfig()
	l.must(err)
	rest.QPS = -1
	scheme := runtime.NewScheme()
	l.must(clientgoscheme.AddToScheme(scheme))
	l.kube, err = client.New(rest, client.Options{Scheme: scheme})
	l.must(err)
	for i := range balancedServices {
		class := lb.ClassCLB
		if i%2 == 1 {
			class = lb.ClassNLB
		}
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("s%d", i)}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: &class, Ports: []corev1.ServicePort{{Port: 80}}}}
		l.must(l.kube.Create(t.Context(), svc))
		l.svcs, l.has = append(l.svcs, svc), append(l.has, map[int]bool{})
		for n := range balancedBackends {
			l.has[i][n] = true
		}
		l.slices(i)
	}
	ctrl.SetLogger(logr.Discard())
	mgr, err := ctrl.NewManager(rest, ctrl.Options{Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}, Logger: logr.Discard(),
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{&corev1.Pod{}: loadbalancer.CachedPods()}}})
	l.must(err)
	cfg := fmt.Sprintf("{cluster_id: c1, region: %s, service_cidr: 172.16.0.0/16, vswitches: {%s: [%s], %s: [%s]}}", regionID,
		zoneIDs[0], l.cloud.pods[zoneIDs[0]][0], zoneIDs[1], l.cloud.pods[zoneIDs[1]][0])
	parsed, err := config.Parse([]byte(cfg))
	l.must(err)
	r := loadbalancer.New(loadbalancer.Options{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), CLB: timed{l.api.CLB(), l}, NLB: timed{l.api.NLB(), l}, Config: config.NewStore(parsed),
		VPC:    func(context.Context) (string, error) { return enis[0].VPCID, nil },
		ENI:    func(_ context.Context, a netip.Addr) string { return l.eni[a] },
		Events: mgr.GetEventRecorder("terway-controller"), Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Join: 500 * time.Millisecond, Poll: time.Second, Retry: time.Second, Park: 30 * time.Second, Resync: 5 * time.Minute,
	})
	l.must(r.SetupWithManager(t.Context(), mgr))
	l.start = func() {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- mgr.Start(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	return l
}

// slices writes the EndpointSlices of a Service, of at most a hundred endpoints as Kubernetes' are.
func (l *balancedLoad) slices(i int) {
	l.Helper()
	for part := range (len(l.pool) + 99) / 100 {
		l.slice(i, part)
	}
}

func (l *balancedLoad) slice(i, part int) {
	l.Helper()
	yes, port, empty := true, int32(8080), ""
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("s%d-%d", i, part),
		Labels: map[string]string{discoveryv1.LabelServiceName: l.svcs[i].Name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &empty, Port: &port}}}
	for _, n := range slices.Sorted(maps.Keys(l.has[i])) {
		if n/100 == part {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{l.pool[n].String()}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}})
		}
	}
	err := l.kube.Update(l.Context(), s)
	if client.IgnoreNotFound(err) == nil && err != nil {
		err = l.kube.Create(l.Context(), s)
	}
	l.must(err)
}

// change makes a pod of a Service ready, or removes it.
func (l *balancedLoad) change(i, n int) {
	l.Helper()
	key := lb.Name(l.svcs[i].UID, lb.Listener{Port: 80, Protocol: lb.TCP}) + " " + l.pool[n].String()
	l.mu.Lock()
	delete(l.ready, key)
	if l.has[i][n] {
		delete(l.has[i], n)
	} else if len(l.has[i]) < balancedBackends { // a CLB's group is full
		l.has[i][n] = true
		l.ready[key] = time.Now()
	}
	l.mu.Unlock()
	l.slice(i, n/100)
}

// wait waits until the groups have the pods.
func (l *balancedLoad) wait(what string, most time.Duration) {
	l.Helper()
	ctx, cancel := context.WithTimeoutCause(l.Context(), most, errors.New(what+": not in time"))
	defer cancel()
	l.must(until(ctx, func() string {
		have := map[string]int{}
		if err := l.cloud.Read(ctx, 0, func(api state.API) error {
			all, err := api.DescribeLoadBalancers(state.DescribeLoadBalancersRequest{})
			if err != nil {
				return err
			}
			for _, b := range all {
				groups, err := api.DescribeVServerGroups(state.DescribeVServerGroupsRequest{LoadBalancerId: b.LoadBalancerId})
				if err != nil {
					return err
				}
				for _, g := range groups {
					have[g.VServerGroupName] = len(g.BackendServers)
				}
			}
			groups, err := api.NLBListServerGroups(state.NLBListServerGroupsRequest{})
			if err != nil {
				return err
			}
			for _, g := range groups {
				have[g.ServerGroupName] = len(g.Servers)
			}
			return nil
		}); err != nil {
			return err.Error()
		}
		for i, svc := range l.svcs {
			if n := have[lb.Name(svc.UID, lb.Listener{Port: 80, Protocol: lb.TCP})]; n != len(l.has[i]) {
				return fmt.Sprintf("%s has %d of %d backends", svc.Name, n, len(l.has[i]))
			}
		}
		return ""
	}))
}
