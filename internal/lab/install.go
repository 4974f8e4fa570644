package lab

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/datapath/claims"
)

//go:embed manifests/coredns.yaml
var corednsManifest string

// instanceEndpoint is the simulated cloud's address inside its instances.
const instanceEndpoint = "http://100.100.100.201"

// chartValues returns the values of the chart: the lab's own, and over them the user's.
func (s *State) chartValues() map[string]any {
	return loader.MergeMaps(s.ownValues(), s.Options.Values)
}

// ownValues returns the values that a user would set for this cluster.
func (s *State) ownValues() map[string]any {
	repository, tag, _ := strings.Cut(ImageTerway, ":")
	controller := map[string]any{
		"replicas":    min(2, len(s.Machines)),
		"ecsEndpoint": instanceEndpoint, "vpcEndpoint": instanceEndpoint, "slbEndpoint": instanceEndpoint, "nlbEndpoint": instanceEndpoint, "stsEndpoint": instanceEndpoint,
	}
	values := map[string]any{
		"image": map[string]any{"repository": repository, "tag": tag},
		"eniConfig": map[string]any{
			"cluster_id": ClusterID, "region": s.Cloud.Region, "vswitches": s.Cloud.PodVSwitches,
			"security_groups": []string{s.Cloud.SecurityGroupID},
			"min_pool_size":   3, "max_pool_size": 8,
			// In a test cluster, addresses can be used again soon.
			"cooling_seconds": 5,
			"service_cidr":    s.Options.Plan.ServiceCIDR.String(),
			"datapath":        s.Options.Datapath,
			"mode":            s.Options.Mode,
		},
		"credentials": map[string]any{"accessKeyID": s.Cloud.AccessKeyID, "accessKeySecret": s.Cloud.AccessKeySecret},
		"controller":  controller,
	}
	if s.Options.Network == NetworkFlannel {
		repository, tag, _ := strings.Cut(ImageFlannel, ":")
		values["flannel"] = map[string]any{"image": map[string]any{"repository": repository, "tag": tag}}
		values["eniConfig"] = map[string]any{
			"cluster_id": ClusterID, "region": s.Cloud.Region, "service_cidr": s.Options.Plan.ServiceCIDR.String(),
			"network": NetworkFlannel, "pod_cidr": s.Options.Plan.PodCIDR.String(),
		}
		return values
	}
	controller["sweepPeriod"] = "10s"
	// A short time, so that the return of addresses and ENIs can be watched.
	controller["surplusAfter"] = "2s"
	values["policy"] = map[string]any{"enabled": s.Options.Policy}
	values["agent"] = AgentValues()
	return values
}

// AgentValues are the chart's values of the agent in a lab: the machine may lack SYS_RESOURCE itself, and its kernel counts memory of
// eBPF maps by cgroup.
func AgentValues() map[string]any {
	return map[string]any{"securityContext": map[string]any{"capabilities": map[string]any{"add": []string{"DAC_OVERRIDE", "NET_ADMIN", "NET_RAW", "SYS_ADMIN"}}}}
}

// chart is the folder of the chart of the source tree.
func (o *Options) chart() string { return filepath.Join(o.Source, "deploy", "chart") }

// installTerway installs the chart of the source tree with the values of a state, or upgrades to it. It takes fields over that checks
// have changed.
func (s *State) installTerway(ctx context.Context) error {
	return s.install(ctx, s.Options.chart(), s.chartValues(), "--force-conflicts")
}

// install runs "terwayctl install", like an operator: its checks, the chart, its wait. log/install.log keeps what it says; the error
// has it too.
func (s *State) install(ctx context.Context, chart string, values map[string]any, flags ...string) error {
	o := &s.Options
	b, err := yaml.Marshal(values)
	if err != nil {
		return fmt.Errorf("encode the chart's values: %w", err)
	}
	file := o.path("values.yaml")
	if err := writeFile(file, b, 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, o.Terwayctl(), append([]string{"install", "--chart", chart, "--values", file}, flags...)...)
	cmd.Env = os.Environ()
	for _, v := range s.Env() {
		cmd.Env = append(cmd.Env, v[0]+"="+v[1])
	}
	// It records then that the release has failed, so that the next one may go on.
	cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(os.Interrupt) }, 10*time.Second
	out, err := cmd.CombinedOutput()
	if err := writeFile(o.path("log", "install.log"), out, 0o644); err != nil {
		return err
	}
	if err != nil {
		return fmt.Errorf("terwayctl install: %w\n%s", err, out)
	}
	return nil
}

// installDNS installs the cluster's DNS service.
func (o *Options) installDNS(ctx context.Context) error {
	limits := "{}"
	if o.Mode == claims.ModeExclusive {
		// Without it the scheduler would place a pod too many on the node.
		limits = fmt.Sprintf("{limits: {%s: 1}}", claims.ResourceENI)
	}
	manifest := strings.NewReplacer("CLUSTER_DOMAIN", clusterDomain, "DNS_ADDRESS", o.dnsServiceIP().String(), "IMAGE", ImageCoreDNS, "RESOURCES", limits).Replace(corednsManifest)
	return o.run(ctx, []byte(manifest), o.Bin("kubectl"), "apply", "-f", "-")
}

// run runs a client program on the cluster.
func (o *Options) run(ctx context.Context, stdin []byte, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = o.clientEnv()
	cmd.Stdin = bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return nil
}

// clientEnv is the environment of client programs.
func (o *Options) clientEnv() []string {
	return append(os.Environ(), "KUBECONFIG="+o.Kubeconfig(), "HELM_CACHE_HOME="+o.path("helm"), "HELM_CONFIG_HOME="+o.path("helm"), "HELM_DATA_HOME="+o.path("helm"))
}

// waitPods waits until every system pod is ready.
func waitPods(ctx context.Context, c kubernetes.Interface) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("not ready within three minutes"))
	defer cancel()
	err := eventually(ctx, 100*time.Millisecond, func() error {
		deployments, err := c.AppsV1().Deployments(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list Deployments: %w", err)
		}
		for _, d := range deployments.Items {
			if d.Status.ReadyReplicas < *d.Spec.Replicas {
				return fmt.Errorf("%d of %d pods of Deployment %s are ready", d.Status.ReadyReplicas, *d.Spec.Replicas, d.Name)
			}
		}
		sets, err := c.AppsV1().DaemonSets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list DaemonSets: %w", err)
		}
		for _, d := range sets.Items {
			if d.Status.DesiredNumberScheduled == 0 || d.Status.NumberReady < d.Status.DesiredNumberScheduled {
				return fmt.Errorf("%d of %d pods of DaemonSet %s are ready", d.Status.NumberReady, d.Status.DesiredNumberScheduled, d.Name)
			}
		}
		return nil
	})
	return withTroubles(c, err)
}

// podTroubles lists warnings of the cluster about pods.
func podTroubles(c kubernetes.Interface) string {
	events, err := c.CoreV1().Events("").List(context.Background(), metav1.ListOptions{FieldSelector: "type=" + corev1.EventTypeWarning})
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, e := range events.Items[max(0, len(events.Items)-12):] {
		fmt.Fprintf(&b, "  %s %s/%s: %s: %s\n", e.InvolvedObject.Kind, e.InvolvedObject.Namespace, e.InvolvedObject.Name, e.Reason, e.Message)
	}
	return b.String()
}
