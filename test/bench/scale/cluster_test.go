//go:build bench

package scale

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/test/bench/fleet"
)

// cluster is a cluster as the controller sees it: a real API server with Nodes, a cloud, and
// agents.
type cluster struct {
	t      testing.TB
	dir    string
	api    *lab.APIServer
	rest   *rest.Config
	kube   client.Client
	cloud  *region
	agents *fleet.Fleet
	names  []string
	binary string
	// logs is the number of controllers that were started, for the names of their logs.
	logs int
}

func newCluster(t testing.TB, s settings) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: tempDir(t)}
	var env []string
	if s.gogc > 0 {
		env = append(env, fmt.Sprintf("GOGC=%d", s.gogc))
	}
	var err error
	if c.api, err = lab.StartAPIServer(t.Context(), filepath.Join(c.dir, "api"), lab.NewProgress(os.Stdout, time.Now), env...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.api.Close(); err != nil {
			t.Error(err)
		}
	})
	if c.rest, err = c.api.RESTConfig(); err != nil {
		t.Fatal(err)
	}
	scheme := kruntime.NewScheme()
	for _, add := range []func(*kruntime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	if c.kube, err = client.New(c.rest, client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	c.cloud = newRegion(t, s.nodes, s.instanceType)
	c.binary = filepath.Join(c.dir, "terway-controller")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", c.binary, "../../../cmd/terway-controller")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build terway-controller: %v\n%s", err, out)
	}
	if err := c.fill(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	agents := rest.CopyConfig(c.rest)
	agents.Impersonate = account("terwayd")
	if c.agents, err = fleet.New(agents, c.names); err != nil {
		t.Fatal(err)
	}
	if s.leases {
		c.agents.Leases = metav1.NamespaceSystem
	}
	if err := c.agents.Start(t.Context(), agents); err != nil {
		t.Fatal(err)
	}
	return c
}

// fill creates the objects that helm and the kubelets would create.
func (c *cluster) fill(ctx context.Context, s settings) error {
	raw, err := os.ReadFile("../../../deploy/chart/kinds/network.terway.dev_nodenetworks.yaml")
	if err != nil {
		return err
	}
	crd := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(raw, &crd.Object); err != nil {
		return fmt.Errorf("the chart's CRD: %w", err)
	}
	if err := c.kube.Create(ctx, crd); err != nil {
		return err
	}
	conf, err := yaml.Marshal(map[string]any{
		"cluster_id": "bench", "region": regionID, "vswitches": c.cloud.pods, "service_cidr": "172.21.0.0/20", "cooling_seconds": s.cooling,
	})
	if err != nil {
		return err
	}
	if _, err := config.Parse(conf); err != nil {
		return err
	}
	if err := c.kube.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: config.ConfigMapName},
		Data:       map[string]string{config.ConfigMapKey: string(conf)},
	}); err != nil {
		return err
	}
	// Permissions are not measured here.
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "bench"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
	}
	for _, name := range []string{"terway-controller", "terwayd"} {
		binding.Subjects = append(binding.Subjects, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceSystem, Name: name})
	}
	if err := c.kube.Create(ctx, binding); err != nil {
		return err
	}
	// A CRD is served shortly after it is created.
	if err := lab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		return c.kube.List(ctx, &v1alpha1.NodeNetworkList{}) == nil, nil
	}); err != nil {
		return err
	}
	return c.register(ctx)
}

// register creates the Nodes like kubelets.
func (c *cluster) register(ctx context.Context) error {
	const together = 16
	work := make(chan machine)
	errs := make(chan error, len(c.cloud.machines))
	var wg sync.WaitGroup
	names := map[string]string{}
	for i, m := range c.cloud.machines {
		names[m.id] = fmt.Sprintf("node-%05d", i)
		c.names = append(c.names, names[m.id])
	}
	for range together {
		wg.Go(func() {
			for m := range work {
				n := node(names[m.id], m)
				status := n.Status
				if err := c.kube.Create(ctx, n); err != nil {
					errs <- err
					continue
				}
				n.Status = status
				errs <- c.kube.Status().Update(ctx, n)
			}
		})
	}
	for _, m := range c.cloud.machines {
		work <- m
	}
	close(work)
	wg.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// account returns a service account of the chart. The API server's priority and fairness must
// know the programs by it: it does not limit an administrator's requests.
func account(name string) rest.ImpersonationConfig {
	return rest.ImpersonationConfig{UserName: "system:serviceaccount:" + metav1.NamespaceSystem + ":" + name,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + metav1.NamespaceSystem, "system:authenticated"}}
}

// kubeconfig returns the kubeconfig of a service account.
func (c *cluster) kubeconfig(name string) string {
	c.t.Helper()
	cfg, err := clientcmd.LoadFromFile(c.api.Kubeconfig)
	if err != nil {
		c.t.Fatal(err)
	}
	as := account(name)
	for _, user := range cfg.AuthInfos {
		user.Impersonate, user.ImpersonateGroups = as.UserName, as.Groups
	}
	path := filepath.Join(c.dir, name+".conf")
	if err := clientcmd.WriteToFile(*cfg, path); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// node returns a Node as a kubelet writes it, including images.
func node(name string, m machine) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64", corev1.LabelTopologyZone: m.zone, corev1.LabelTopologyRegion: regionID,
		}},
		Spec: corev1.NodeSpec{
			ProviderID: regionID + "." + m.id,
			Taints:     []corev1.Taint{{Key: claims.TaintNotReady, Effect: corev1.TaintEffectNoSchedule}},
		},
		Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: m.address.String()}, {Type: corev1.NodeHostName, Address: name}},
			NodeInfo: corev1.NodeSystemInfo{
				KubeletVersion: "v1.36.3", OSImage: "Debian GNU/Linux 12 (bookworm)", KernelVersion: "6.1.0", ContainerRuntimeVersion: "containerd://2.1.0", OperatingSystem: "linux", Architecture: "amd64",
			},
		},
	}
	for _, kind := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeReady} {
		c := corev1.NodeCondition{Type: kind, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficient", Message: "kubelet has sufficient resources available", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}
		if kind == corev1.NodeReady {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status"
		}
		n.Status.Conditions = append(n.Status.Conditions, c)
	}
	for i := range 30 {
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{SizeBytes: 50 << 20, Names: []string{
			fmt.Sprintf("registry.example.com/team/service-%d@sha256:%064d", i, i), fmt.Sprintf("registry.example.com/team/service-%d:v1.0.%d", i, i),
		}})
	}
	return n
}

// controller is a process of the product's program.
type controller struct {
	c    *cluster
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// start runs terway-controller with the documented rate limits multiplied by factor.
func (c *cluster) start(factor float64) *controller {
	c.t.Helper()
	secret := filepath.Join(c.dir, "secret")
	account := c.cloud.Account()
	for name, text := range map[string]string{"access-key-id": account.AccessKeyID, "access-key-secret": account.AccessKeySecret} {
		if err := errors.Join(os.MkdirAll(secret, 0o700), os.WriteFile(filepath.Join(secret, name), []byte(text), 0o600)); err != nil {
			c.t.Fatal(err)
		}
	}
	args := []string{
		"--namespace", metav1.NamespaceSystem, "--secret-dir", secret, "--ecs-endpoint", c.cloud.Endpoint(), "--vpc-endpoint", c.cloud.Endpoint(),
		"--metrics-address", "off", "--health-address", "127.0.0.1:0",
	}
	if factor != 1 {
		var limits []string
		for action, n := range alibaba.DefaultLimits() {
			limits = append(limits, fmt.Sprintf("%s=%d", action, max(1, int(float64(n)*factor))))
		}
		args = append(args, "--cloud-limits", strings.Join(limits, ","))
	}
	c.logs++
	p := &controller{c: c, log: filepath.Join(c.dir, fmt.Sprintf("controller-%d.log", c.logs)), cmd: exec.Command(c.binary, args...), done: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	p.cmd.Env = append(os.Environ(), "KUBECONFIG="+c.kubeconfig("terway-controller"))
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig is sent when the thread that started it ends
		defer close(p.done)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // its log has the exit status
		}
	}()
	if err := <-started; err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { p.end(syscall.SIGKILL) })
	return p
}

// end ends it with a signal and waits.
func (p *controller) end(sig syscall.Signal) {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.c.t.Errorf("end terway-controller: %v", err)
	}
	<-p.done
}

// alive fails the test if the program has ended by itself.
func (p *controller) alive() error {
	select {
	case <-p.done:
		return fmt.Errorf("terway-controller ended:\n%s", p.tail())
	default:
		return nil
	}
}

func (p *controller) tail() string {
	raw, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(raw), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
}

// use is the resources that a process has used so far.
type use struct {
	cpu  time.Duration
	peak float64 // maximum resident memory in MiB
}

// useOf reads it (proc(5)).
func useOf(pid int) (u use, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	ticks := 0
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.Atoi(f)
		if err != nil {
			return u, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	u.cpu = time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			var kib int
			if _, err := fmt.Sscan(value, &kib); err != nil {
				return u, fmt.Errorf("/proc/%d/status: %w", pid, err)
			}
			u.peak = float64(kib) / 1024
		}
	}
	return u, nil
}

// leader returns the holder of the controller's lease, or "".
func (c *cluster) leader(ctx context.Context) (string, error) {
	l := &coordinationv1.Lease{}
	err := c.kube.Get(ctx, client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: "terway-controller"}, l)
	if client.IgnoreNotFound(err) != nil {
		return "", err
	}
	if err != nil || l.Spec.HolderIdentity == nil {
		return "", nil
	}
	return *l.Spec.HolderIdentity, nil
}

// writes counts the write requests to the API server, and the writes to etcd.
type writes struct {
	requests map[string]float64 // by verb and resource
	bytes    float64
}

func (c *cluster) writes(ctx context.Context) (w writes, err error) {
	w.requests = map[string]float64{}
	transport, err := rest.HTTPClientFor(c.rest)
	if err != nil {
		return w, err
	}
	if err := metrics(ctx, transport, c.rest.Host, func(name string, labels map[string]string, v float64) {
		verb := labels["verb"]
		if name == "apiserver_request_total" && (verb == "POST" || verb == "PUT" || verb == "PATCH" || verb == "APPLY" || verb == "DELETE") {
			key := verb + " " + labels["resource"]
			if labels["subresource"] != "" {
				key += "/" + labels["subresource"]
			}
			if code := labels["code"]; code != "200" && code != "201" {
				key += " (" + code + ")" // 409: a conflict with another write
			}
			w.requests[key] += v
		}
	}); err != nil {
		return w, err
	}
	return w, metrics(ctx, http.DefaultClient, c.api.Etcd, func(name string, _ map[string]string, v float64) {
		if name == "etcd_debugging_mvcc_total_put_size_in_bytes" {
			w.bytes += v
		}
	})
}

// since returns the difference to before, for resources that Terway writes.
func (w writes) since(before writes) writes {
	out := writes{requests: map[string]float64{}, bytes: w.bytes - before.bytes}
	for key, n := range w.requests {
		if n -= before.requests[key]; n > 0 {
			out.requests[key] = n
		}
	}
	return out
}

// of returns the number of writes of a resource.
func (w writes) of(resource string) (n float64) {
	for key, v := range w.requests {
		if parts := strings.Fields(key); parts[1] == resource || strings.HasPrefix(parts[1], resource+"/") {
			n += v
		}
	}
	return n
}

// metrics calls f for each sample of a /metrics page in the Prometheus text format.
func metrics(ctx context.Context, c *http.Client, url string, f func(name string, labels map[string]string, v float64)) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return err
	}
	answer, err := c.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", req.URL, answer.Status)
	}
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := cutLast(line, " ")
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return fmt.Errorf("GET %s: %q: %w", req.URL, line, err)
		}
		labels := map[string]string{}
		if at := strings.IndexByte(name, '{'); at >= 0 {
			for _, pair := range strings.Split(strings.TrimSuffix(name[at+1:], "}"), ",") {
				k, quoted, _ := strings.Cut(pair, "=")
				var text string
				if json.Unmarshal([]byte(quoted), &text) == nil {
					labels[k] = text
				}
			}
			name = name[:at]
		}
		f(name, labels, v)
	}
	return lines.Err()
}

func cutLast(s, sep string) (before, after string, ok bool) {
	at := strings.LastIndex(s, sep)
	if at < 0 {
		return s, "", false
	}
	return s[:at], s[at+len(sep):], true
}

// tempDir returns the test's directory, or KEEP, where the logs stay.
func tempDir(t testing.TB) string {
	dir := os.Getenv("KEEP")
	if dir == "" {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(dir, "scale")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
