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

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/helm"
)

//go:embed manifests/coredns.yaml
var corednsManifest string

// instanceEndpoint is the simulated cloud's address inside its instances.
const instanceEndpoint = "http://100.100.100.201"

// chartValues returns the values that a user would set for this cluster.
func (s *State) chartValues() map[string]any {
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

// installTerway installs or upgrades the chart with the values of a state. It takes fields over that checks have changed.
func (o *Options) installTerway(ctx context.Context, s *State) error {
	return o.installChart(ctx, filepath.Join(o.Source, "deploy", "chart"), s.chartValues(), true)
}

// installChart installs a chart, or upgrades to it, as "terwayctl install" does; takeOver is its --force-conflicts.
func (o *Options) installChart(ctx context.Context, from string, values map[string]any, takeOver bool) error {
	b, err := yaml.Marshal(values)
	if err != nil {
		return fmt.Errorf("encode the chart's values: %w", err)
	}
	file := o.path("values.yaml")
	if err := writeFile(file, b, 0o600); err != nil {
		return err
	}
	all := map[string]any{} // as Helm reads the file
	if err := yaml.Unmarshal(b, &all); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	cfg, err := o.RESTConfig()
	if err != nil {
		return err
	}
	h, err := helm.New(cfg, metav1.NamespaceSystem)
	if err != nil {
		return err
	}
	chart, err := helm.Load(from)
	if err != nil {
		return err
	}
	now, err := h.Now()
	if err != nil {
		return err
	}
	if _, err := h.Apply(ctx, now, chart, all, helm.Options{ForceConflicts: takeOver && now.Revision > 0}); err != nil {
		return fmt.Errorf("install the chart %s: %w", from, err)
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
