package chart

import (
	"reflect"
	"slices"
	"testing"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"terway.dev/terway/internal/datapath/claims"
)

func podOf(t *testing.T, o *unstructured.Unstructured) corev1.PodTemplateSpec {
	t.Helper()
	var workload struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	into(t, o, &workload)
	return workload.Spec.Template
}

// The controller starts where there is no pod network yet, and leaves nodes that are drained or lost; an agent
// runs everywhere.
func TestTaints(t *testing.T) {
	all := objects(t, with("terway", nil))
	tolerates := func(pod corev1.PodTemplateSpec, taint corev1.Taint) bool {
		return slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
			return t.ToleratesTaint(logr.Discard(), &taint, false) && t.TolerationSeconds == nil
		})
	}
	controller, agent := podOf(t, all["Deployment terway-controller"]), podOf(t, all["DaemonSet terwayd"])
	for _, c := range []struct {
		key    string
		effect corev1.TaintEffect
		stays  bool
	}{
		{corev1.TaintNodeNotReady, corev1.TaintEffectNoSchedule, true},
		{corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute, true},
		{corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule, true},
		{claims.TaintNotReady, corev1.TaintEffectNoSchedule, true},
		{claims.TaintNotReady, corev1.TaintEffectNoExecute, true},
		{"node-role.kubernetes.io/control-plane", corev1.TaintEffectNoSchedule, true},
		{corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule, false},
		{corev1.TaintNodeUnreachable, corev1.TaintEffectNoSchedule, false},
		{corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute, false},
		{corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule, false},
		{"somebodys", corev1.TaintEffectNoSchedule, false},
		{"virtual-kubelet.io/provider", corev1.TaintEffectNoSchedule, false},
	} {
		taint := corev1.Taint{Key: c.key, Effect: c.effect}
		if got := tolerates(controller, taint); got != c.stays {
			t.Errorf("the controller tolerates %s:%s: %v, want %v", c.key, c.effect, got, c.stays)
		}
		if !tolerates(agent, taint) {
			t.Errorf("the agent does not tolerate %s:%s", c.key, c.effect)
		}
	}
}

// What spreads the controller's replicas, and what protects them from a drain, selects them.
func TestControllerIsSpread(t *testing.T) {
	all := objects(t, with("terway", nil))
	pod := podOf(t, all["Deployment terway-controller"])
	selects := func(s *metav1.LabelSelector) bool {
		for k, v := range s.MatchLabels {
			if pod.Labels[k] != v {
				return false
			}
		}
		return len(s.MatchLabels) > 0
	}
	spread := pod.Spec.TopologySpreadConstraints
	if len(spread) != 1 || spread[0].TopologyKey != corev1.LabelTopologyZone || spread[0].WhenUnsatisfiable != corev1.ScheduleAnyway || !selects(spread[0].LabelSelector) {
		t.Errorf("over zones: %+v", spread)
	}
	apart := pod.Spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	if len(apart) != 1 || apart[0].PodAffinityTerm.TopologyKey != corev1.LabelHostname || !selects(apart[0].PodAffinityTerm.LabelSelector) {
		t.Errorf("over nodes: %+v", apart)
	}
	var budget policyv1.PodDisruptionBudget
	into(t, all["PodDisruptionBudget terway-controller"], &budget)
	if !selects(budget.Spec.Selector) || budget.Spec.MaxUnavailable.IntValue() != 1 {
		t.Errorf("a drain: %+v", budget.Spec)
	}
	if objects(t, with("terway", map[string]any{"controller.podDisruptionBudget": nil}))["PodDisruptionBudget terway-controller"] != nil {
		t.Error("null leaves a PodDisruptionBudget")
	}
}

// Terms of the user's affinity are alternatives: each of them keeps pods off virtual nodes.
func TestAffinityOfTheUser(t *testing.T) {
	all := objects(t, ciValues(t)["scheduling-values.yaml"])
	own := podOf(t, all["DaemonSet terwayd"]).Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(own) != 1 || len(own[0].MatchExpressions) != 4 {
		t.Fatalf("without an affinity of the user's: %+v", own)
	}
	got := podOf(t, all["Deployment terway-controller"]).Spec.Affinity
	terms := got.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms) != 2 || got.PodAntiAffinity == nil {
		t.Fatalf("want both terms and the default anti-affinity: %+v", got)
	}
	user := corev1.NodeSelectorRequirement{Key: "pool", Operator: corev1.NodeSelectorOpIn, Values: []string{"system"}}
	if !reflect.DeepEqual(terms[0].MatchExpressions, append(slices.Clone(own[0].MatchExpressions), user)) {
		t.Errorf("the first term: %+v", terms[0])
	}
	if !reflect.DeepEqual(terms[1].MatchExpressions, own[0].MatchExpressions) || len(terms[1].MatchFields) != 1 {
		t.Errorf("the second term: %+v", terms[1])
	}
}

// Both programs get the image, the Secrets to pull it, the API server's address and what the user adds.
func TestPods(t *testing.T) {
	values := ciValues(t)["scheduling-values.yaml"]
	all := objects(t, values)
	const image = "registry.example/terway:v1.0.0@sha256:0000000000000000000000000000000000000000000000000000000000000000"
	for name, variable := range map[string]string{"Deployment terway-controller": "HTTPS_PROXY", "DaemonSet terwayd": "A"} {
		pod := podOf(t, all[name])
		c := pod.Spec.Containers[0]
		env := map[string]string{}
		for _, e := range c.Env {
			env[e.Name] = e.Value
		}
		if c.Image != image || !slices.Equal(pod.Spec.ImagePullSecrets, []corev1.LocalObjectReference{{Name: "registry"}}) {
			t.Errorf("%s: image %s, Secrets %v", name, c.Image, pod.Spec.ImagePullSecrets)
		}
		if env["KUBERNETES_SERVICE_HOST"] != "10.0.0.1" || env["KUBERNETES_SERVICE_PORT"] != "6443" || env[variable] == "" {
			t.Errorf("%s: environment %v", name, c.Env)
		}
		if pod.Labels["team"] != "net" || pod.Annotations["team"] != "net" {
			t.Errorf("%s: labels %v, annotations %v", name, pod.Labels, pod.Annotations)
		}
		if pod.Labels["helm.sh/chart"] != "" {
			t.Errorf("%s: a new version of the chart restarts pods", name)
		}
		for _, c := range pod.Spec.Containers {
			if c.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
				t.Errorf("%s: why container %s ended is in its log alone", name, c.Name)
			}
		}
	}
	if got := podOf(t, objects(t, with("terway", nil))["DaemonSet terwayd"]).Spec.Containers[0].Image; got != "terway.local/terway:dev" {
		t.Errorf("without a tag the image is %s, want the tag of the chart's appVersion", got)
	}
}
