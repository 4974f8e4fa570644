//go:build bench

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	ctrl "sigs.k8s.io/controller-runtime"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/load"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/test/bench/report"
)

const (
	// balancedPods is how many pods a Deployment behind load balancers has, balancedRate how many requests
	// a second each way of sending has.
	balancedPods, balancedRate = 10, 200
	// kept is over how many connections requests go that are kept.
	kept = 20
	// balancedTimeout limits a request.
	balancedTimeout = 5 * time.Second
	// balancedFault is the name of the fault that throttles calls.
	balancedFault = "bench-loadbalancer"
	// balancedType has room for four Deployments on two nodes, with the pods that end and those that come.
	balancedType = "ecs.g6.4xlarge"
)

// service is a kind of load balancer.
type service struct{ name, product, protocol string }

var (
	clbTCP  = service{"CLB", instruments.CLB, "tcp"}
	clbHTTP = service{"CLB, HTTP", instruments.CLB, "http"}
	nlbTCP  = service{"NLB", instruments.NLB, "tcp"}
)

// objectName is that of its Service, in front of a Deployment.
func (s service) objectName(of string) string { return of + "-" + s.product + "-" + s.protocol }

// strategy is that of a rolling upgrade.
type strategy struct{ surge, unavailable int }

func (s strategy) String() string {
	return fmt.Sprintf("maxSurge %d/maxUnavailable %d", s.surge, s.unavailable)
}

// strategies are those of each row.
func strategies() []strategy { return []strategy{{3, 0}, {0, 2}} }

// Goals of failed requests.
const (
	printed = "" // none
	none    = "0"
	// once: one for each connection that was open when its pod ended, none of a new one.
	once = "≤ 1 a connection"
)

// sending is a way of sending to pods, whose program ends at SIGTERM as it says.
type sending struct {
	atSIGTERM string
	to        service
	// connections is how many are kept; 0: each request has a new one.
	connections int
	goal        string
}

func (s sending) String() string {
	over := "a new connection each"
	if s.connections > 0 {
		over = fmt.Sprintf("%d kept connections", s.connections)
	}
	does := map[string]string{"exit": "exits at SIGTERM", "drain": "closes gracefully"}
	return fmt.Sprintf("app %s; %s, %s", does[s.atSIGTERM], s.to.name, over)
}

// missed returns why the goal is missed; nil if it is met, or there is none.
func (s sending) missed(r *load.Report) error {
	switch s.goal {
	case none:
		return r.Err()
	case once:
		return errors.Join(r.OfNew(), r.OfLiving())
	}
	return nil
}

// upgrades are rolling upgrades under requests.
type upgrades struct {
	// key is the name in CASES, name that in the table; none for upgrades without trouble.
	key, name string
	network   string
	// bare: without readiness gates and sleep; required: no pod is created without them.
	bare, required bool
	ways           []sending
	// before is called before the first upgrade, during in each; nil: nothing is.
	before, during func(context.Context, *balancers) error
}

func allUpgrades() []upgrades {
	all := []sending{
		{"exit", clbTCP, 0, none}, {"exit", nlbTCP, 0, none}, {"drain", clbTCP, kept, none}, {"drain", nlbTCP, kept, none},
		{"exit", clbTCP, kept, once}, {"exit", nlbTCP, kept, once}, {"exit", clbHTTP, kept, none},
	}
	under := all[:4] // while something else goes on
	seen := slices.Clone(all[:2])
	for i := range seen {
		seen[i].goal = printed
	}
	return []upgrades{
		{key: "upgrade", network: lab.NetworkTerway, ways: all},
		{key: "leader", name: "the leader is killed, gates required", network: lab.NetworkTerway, required: true, ways: under, during: killLeader},
		{key: "throttled", name: "half of the calls are throttled", network: lab.NetworkTerway, ways: under, before: throttle},
		{key: "bare", name: "gate and sleep off", network: lab.NetworkTerway, bare: true, ways: seen},
		{key: "flannel", name: "Flannel with NodePorts", network: lab.NetworkFlannel, ways: seen},
	}
}

// rounds returns how often the pods are made anew: twice at most for what is only printed.
func (u upgrades) rounds(asked int) int {
	if slices.ContainsFunc(u.ways, func(s sending) bool { return s.goal != printed }) {
		return asked
	}
	return min(asked, 2)
}

// balancers is the lab.
type balancers struct {
	*instruments.Cluster
	rolled []*instruments.Deployment
}

// TestLoadBalancer prints how many requests fail when what is behind load balancers is upgraded, in
// labs that it starts, and how much longer a request takes through a NodePort.
func TestLoadBalancer(t *testing.T) {
	rounds, began := number(t, "ROUNDS", 5), time.Now()
	asked := strings.FieldsFunc(os.Getenv("CASES"), func(r rune) bool { return r == ',' })
	is := func(key string) bool { return len(asked) == 0 || slices.Contains(asked, key) }
	known := []string{"latency"}
	for _, u := range allUpgrades() {
		known = append(known, u.key)
	}
	for _, key := range asked {
		if !slices.Contains(known, key) {
			t.Fatalf("CASES: %q is none of %s", key, strings.Join(known, ", "))
		}
	}
	loadBefore, err := report.Load()
	if err != nil {
		t.Fatal(err)
	}
	run := balancedRun{Date: began, Rounds: rounds}
	for _, network := range []string{lab.NetworkTerway, lab.NetworkFlannel} {
		latency := network == lab.NetworkTerway && is("latency")
		list := slices.DeleteFunc(allUpgrades(), func(u upgrades) bool { return u.network != network || !is(u.key) })
		if len(list) == 0 && !latency {
			continue
		}
		ok := t.Run(network, func(t *testing.T) {
			b := labOf(t, network)
			for _, u := range list {
				rows, err := b.rows(t.Context(), u, u.rounds(rounds))
				run.Rows = append(run.Rows, rows...)
				if err != nil {
					t.Errorf("%s: %v", u.key, err)
				}
			}
			if latency {
				if run.Latency, err = b.latency(t.Context(), 4*rounds); err != nil {
					t.Errorf("latency: %v", err)
				}
			}
		})
		run.Incomplete = run.Incomplete || !ok
	}
	loadAfter, err := report.Load()
	if err != nil {
		t.Fatal(err)
	}
	run.Load = [2]float64{loadBefore, loadAfter}
	if err := run.finish(); err != nil {
		t.Fatal(err)
	}
}

// labOf starts a lab, which goes when the test ends.
func labOf(t *testing.T, network string) *balancers {
	t.Helper()
	command := func(args ...string) error {
		cmd := exec.Command("bin/terway-lab", args...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = "../..", os.Stdout, os.Stderr
		return cmd.Run()
	}
	if err := lab.Free(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := command("down"); err != nil {
			t.Errorf("terway-lab down: %v", err)
		}
	})
	if err := command("up", "--network", network, "--zones", "2", "--instance-type", balancedType); err != nil {
		t.Fatalf("terway-lab up: %v", err)
	}
	s, err := lab.LoadState(lab.DefaultDir)
	if err != nil {
		t.Fatal(err)
	}
	ctrl.SetLogger(logr.Discard())
	c, err := instruments.Connect(s)
	if err != nil {
		t.Fatal(err)
	}
	return &balancers{Cluster: c}
}

// rows upgrades all Deployments some times and returns a line of the table for each way of sending.
func (b *balancers) rows(ctx context.Context, u upgrades, rounds int) ([]balancedRow, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(rounds+1)*4*time.Minute, errors.New("an upgrade took more than 4 minutes"))
	defer cancel()
	reports, err := b.upgrade(ctx, u, rounds)
	say("%s: %d upgrades in %.0f s", u.key, rounds, time.Since(began).Seconds())
	var list []balancedRow
	for _, way := range u.ways {
		row := balancedRow{Case: u.name, Requests: way.String(), Goal: way.goal}
		for _, s := range strategies() {
			r := reports[sent{way, s}]
			if r == nil {
				continue
			}
			missed := way.missed(r)
			row.Missed = row.Missed || missed != nil
			row.Reports = append(row.Reports, r)
			say("  %s; %s: %s", way, s, r.Summary())
			for _, f := range r.Failures {
				say("    %s", f)
			}
			if n := balancedPods * (rounds + 1); way.goal != printed && way.connections == 0 && err == nil && len(r.Pods) < n { // else pods may end before a request comes to them
				err = errors.Join(err, fmt.Errorf("%s; %s: %d pods have answered, want %d", way, s, len(r.Pods), n))
			}
		}
		list = append(list, row)
	}
	return list, err
}

// sent is requests to a Deployment that is upgraded.
type sent struct {
	sending
	strategy
}

// upgrade makes all pods anew some times, under requests: those of all programs and strategies
// beside each other.
func (b *balancers) upgrade(ctx context.Context, u upgrades, rounds int) (reports map[sent]*load.Report, err error) {
	if err := b.MakeNamespace(ctx, metav1.ObjectMeta{GenerateName: "bench-loadbalancer-"}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.end(ctx)) }()
	if !u.bare {
		if err := b.InjectGates(ctx, u.required); err != nil {
			return nil, err
		}
	}
	at := map[string]*instruments.Balanced{}
	// of are the load balancers of each of b.rolled.
	var of [][]*instruments.Balanced
	b.rolled = nil
	web := func(w sending, s strategy) string {
		return fmt.Sprintf("%s-%d-%d", w.atSIGTERM, s.surge, s.unavailable)
	}
	for _, program := range []string{"exit", "drain"} {
		for _, s := range strategies() {
			var all []*instruments.Balanced
			name := ""
			for _, w := range u.ways {
				if w.atSIGTERM != program {
					continue
				}
				name = web(w, s)
				object := w.to.objectName(name)
				if at[object] != nil {
					continue
				}
				if at[object], err = b.Balance(ctx, instruments.BalancedService{Name: object, Of: name, Product: w.to.product,
					Annotations: instruments.QuickChecks("protocol-port", fmt.Sprintf("%s:%d", w.to.protocol, instruments.BalancerPort))}); err != nil {
					return nil, err
				}
				all = append(all, at[object])
			}
			if name == "" {
				continue
			}
			d := b.Webservers(name, balancedPods, s.surge, s.unavailable, "--at-sigterm", program)
			if err := d.Create(ctx); err != nil {
				return nil, err
			}
			b.rolled, of = append(b.rolled, d), append(of, all)
		}
	}
	serve := func(wait func(*instruments.Deployment) ([]corev1.Pod, error)) error {
		for i, d := range b.rolled {
			pods, err := wait(d)
			if err != nil {
				return err
			}
			for _, balanced := range of[i] {
				if err := balanced.Serves(ctx, pods); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := serve(func(d *instruments.Deployment) ([]corev1.Pod, error) { return d.Settle(ctx) }); err != nil {
		return nil, err
	}
	loads := map[sent]*load.Load{}
	defer func() {
		reports = map[sent]*load.Report{}
		for what, l := range loads {
			reports[what] = l.Stop()
		}
	}()
	for _, w := range u.ways {
		for _, s := range strategies() {
			l, err := at[w.to.objectName(web(w, s))].LoadFrom(b.Lab.Master.NetNS, balancedRate, w.connections, balancedTimeout)
			if err != nil {
				return nil, err
			}
			loads[sent{w, s}] = l
		}
	}
	if u.before != nil {
		if err := u.before(ctx, b); err != nil {
			return nil, err
		}
	}
	for range rounds {
		for _, d := range b.rolled {
			if err := d.Rollout(ctx); err != nil {
				return nil, err
			}
		}
		if u.during != nil {
			if err := u.during(ctx, b); err != nil {
				return nil, err
			}
		}
		if err := serve(func(d *instruments.Deployment) ([]corev1.Pod, error) { return d.Rolled(ctx) }); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// end removes what upgrades and latency have made.
func (b *balancers) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	return errors.Join(b.Lab.Cloud.RemoveFault(ctx, balancedFault), b.Empty(ctx, b.Namespace))
}

// killLeader kills the leading controller when the first pod is being replaced.
func killLeader(ctx context.Context, b *balancers) error {
	if err := b.Terminates(ctx, b.rolled[0]); err != nil {
		return err
	}
	m, err := b.Leader(ctx)
	if err != nil {
		return err
	}
	_, err = instruments.Kill("terway-controller", m)
	return err
}

// throttle refuses half of the calls about load balancers from then on.
func throttle(ctx context.Context, b *balancers) error {
	return b.Lab.Cloud.AddFault(ctx, faults.Rule{Name: balancedFault, Action: "?lb:*", Probability: new(0.5), Error: &faults.Error{Code: "Throttling.User"}})
}

// latency compares requests to pods with those to them through NodePorts of both nodes, in turns.
func (b *balancers) latency(ctx context.Context, rounds int) (_ []float64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Minute, errors.New("it took more than 10 minutes"))
	defer cancel()
	if err := b.MakeNamespace(ctx, metav1.ObjectMeta{GenerateName: "bench-loadbalancer-"}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.end(ctx)) }()
	direct, err := b.Balance(ctx, instruments.BalancedService{Name: "clb", Of: "web", Product: instruments.CLB})
	if err != nil {
		return nil, err
	}
	d := b.Webservers("web", 2, 1, 0)
	if err := d.Create(ctx); err != nil {
		return nil, err
	}
	pods, err := d.Settle(ctx)
	if err != nil {
		return nil, err
	}
	if err := direct.Serves(ctx, pods); err != nil {
		return nil, err
	}
	ports, err := b.Client.CoreV1().Services(b.Namespace).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "ports"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(instruments.HTTPPort)}},
	}}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	through, remove, err := b.Lab.Cloud.BalanceNodePort(b.Lab.Machines, uint16(ports.Spec.Ports[0].NodePort), instruments.BalancerPort)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	byPorts := *direct
	byPorts.To = through
	if err := b.Poll(ctx, "an answer through a NodePort", func() (bool, error) {
		got, err := instruments.Reach(ctx, b.Lab.Master.NetNS, "tcp", through.String())
		return got == instruments.Open, err
	}); err != nil {
		return nil, err
	}
	var ratios []float64
	for i := range rounds {
		p50 := map[*instruments.Balanced]time.Duration{}
		order := []*instruments.Balanced{direct, &byPorts}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, to := range order {
			l, err := to.LoadFrom(b.Lab.Master.NetNS, balancedRate, 4, balancedTimeout)
			if err != nil {
				return nil, err
			}
			time.Sleep(time.Second)
			r := l.Stop()
			if err := r.Err(); err != nil {
				return nil, fmt.Errorf("to %s: %w", to.To, err)
			}
			p50[to] = r.P50
		}
		ratios = append(ratios, float64(p50[direct])/float64(p50[&byPorts]))
	}
	return ratios, nil
}

// balancedRow is a line of the table.
type balancedRow struct {
	Case, Requests, Goal string
	Missed               bool
	// Reports are those of the strategies.
	Reports []*load.Report
}

// balancedRun is the result.
type balancedRun struct {
	Date time.Time
	// Load of the machine before and after.
	Load   [2]float64
	Rounds int
	Rows   []balancedRow
	// Latency are the ratios of the rounds: a request and its answer from a load balancer straight to a
	// pod, to those through a NodePort.
	Latency []float64
	// Incomplete: something could not be measured.
	Incomplete bool
}

// finish prints the table, and heeds OUT, DOC and GATE.
func (r *balancedRun) finish() error {
	text, err := r.text()
	if err != nil {
		return err
	}
	say("\n%s", text)
	if out := os.Getenv("OUT"); out != "" {
		all, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(out, append(all, '\n'), 0o644); err != nil {
			return err
		}
	}
	if os.Getenv("DOC") != "" && !r.Incomplete {
		const page, name = "../../docs/benchmarks.md", "bench-loadbalancer"
		old, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		doc, err := report.Replace(string(old), name, "```\n"+text+"```\n")
		if err != nil {
			return fmt.Errorf("%s: %w", page, err)
		}
		if err := os.WriteFile(page, []byte(doc), 0o644); err != nil {
			return err
		}
	}
	for _, row := range r.Rows {
		if row.Missed && os.Getenv("GATE") != "" {
			err = errors.Join(err, fmt.Errorf("%s, %s: the goal is missed, %s", row.Case, row.Requests, row.Goal))
		}
	}
	return err
}

func (r *balancedRun) text() (string, error) {
	version, err := kernel.Version()
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "make bench-loadbalancer, %s, in %.0f min\n", r.Date.UTC().Format("2006-01-02 15:04 MST"), time.Since(r.Date).Minutes())
	fmt.Fprintf(&b, "Linux %s, %d CPUs, load %.1f before and %.1f after, %d upgrades (printed only: %d) of %d pods each, %d requests/s\n\n", version, runtime.NumCPU(), r.Load[0], r.Load[1],
		r.Rounds, min(r.Rounds, 2), balancedPods, balancedRate)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "failed of sent")
	for _, s := range strategies() {
		fmt.Fprintf(w, "\t%s", s)
	}
	fmt.Fprintln(w, "\tgoal")
	last := ""
	for _, row := range r.Rows {
		if row.Case != last {
			last = row.Case
			fmt.Fprintf(w, "%s:\n", row.Case)
		}
		fmt.Fprintf(w, "  %s", row.Requests)
		for i := range strategies() {
			cell := "not measured"
			if i < len(row.Reports) {
				cell = fmt.Sprintf("%d of %d", len(row.Reports[i].Failures), row.Reports[i].Sent)
			}
			fmt.Fprintf(w, "\t%s", cell)
		}
		verdict := ""
		switch {
		case row.Goal == printed:
		case row.Missed || len(row.Reports) < len(strategies()):
			verdict = "\t" + row.Goal + " not met"
		default:
			verdict = "\t" + row.Goal + " met"
		}
		fmt.Fprintln(w, verdict)
	}
	if err := w.Flush(); err != nil {
		return "", err
	}
	if ratios := slices.Sorted(slices.Values(r.Latency)); len(ratios) > 0 {
		fmt.Fprintf(&b, "\nrequest and answer, load balancer → pod ÷ load balancer → NodePort → pod: %.2f, spread %.2f–%.2f, %d turns\n",
			report.Median(ratios), ratios[0], ratios[len(ratios)-1], len(ratios))
	}
	return b.String(), nil
}
