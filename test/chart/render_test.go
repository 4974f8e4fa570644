package chart

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/datapath/claims"
)

// renderer is Helm's own library in a separate program (internal/lab/modules/helm/render),
// because Helm's modules are not among the product's.
type renderer struct {
	mu  sync.Mutex
	in  io.Writer
	out *bufio.Reader
}

var helm renderer

func TestMain(m *testing.M) {
	os.Exit(func() int {
		work, err := os.MkdirTemp("", "chart")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(work)
		bin := filepath.Join(work, "render")
		build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", bin, "./render")
		build.Dir = "../../internal/lab/modules/helm"
		if out, err := build.CombinedOutput(); err != nil {
			panic("build the renderer: " + string(out))
		}
		c := exec.Command(bin, dir)
		c.Stderr = os.Stderr
		in, err := c.StdinPipe()
		if err != nil {
			panic(err)
		}
		out, err := c.StdoutPipe()
		if err != nil {
			panic(err)
		}
		if err := c.Start(); err != nil {
			panic(err)
		}
		helm.in, helm.out = in, bufio.NewReader(out)
		code := m.Run()
		in.Close()
		if err := c.Wait(); err != nil {
			panic(err)
		}
		return code
	}())
}

// render returns the rendered templates, or Helm's error.
func (r *renderer) render(t *testing.T, values map[string]any) (map[string]string, string) {
	t.Helper()
	return r.renderIn(t, values)
}

// renderIn renders for a cluster with these objects.
func (r *renderer) renderIn(t *testing.T, values map[string]any, objects ...map[string]any) (map[string]string, string) {
	t.Helper()
	return r.ask(t, map[string]any{"values": values, "objects": objects})
}

// lint returns the warnings and errors of "helm lint" with these values.
func (r *renderer) lint(t *testing.T, values map[string]any) string {
	t.Helper()
	_, problems := r.ask(t, map[string]any{"values": values, "lint": true})
	return problems
}

func (r *renderer) ask(t *testing.T, question map[string]any) (map[string]string, string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := json.NewEncoder(r.in).Encode(question); err != nil {
		t.Fatal(err)
	}
	line, err := r.out.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Files map[string]string
		Error string
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Files, answer.Error
}

// objects returns the objects that the chart installs with these values, by kind and name. It
// fails for fields that a kind does not have.
func objects(t *testing.T, values map[string]any) map[string]*unstructured.Unstructured {
	t.Helper()
	files, problem := helm.render(t, values)
	if problem != "" {
		t.Fatalf("%v: %s", values, problem)
	}
	return parsed(t, files)
}

func parsed(t *testing.T, files map[string]string) map[string]*unstructured.Unstructured {
	t.Helper()
	out := map[string]*unstructured.Unstructured{}
	for name, text := range files {
		if strings.HasSuffix(name, "/NOTES.txt") {
			continue
		}
		for _, doc := range strings.Split(text, "\n---") {
			var o map[string]any
			if err := yaml.UnmarshalStrict([]byte(doc), &o); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, doc)
			}
			if len(o) == 0 {
				continue
			}
			u := &unstructured.Unstructured{Object: o}
			typed, err := scheme.Scheme.New(u.GroupVersionKind())
			if u.GroupVersionKind().Group == "monitoring.coreos.com" {
				// The Prometheus Operator's.
			} else if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if err := yaml.UnmarshalStrict([]byte(doc), typed); err != nil {
				t.Errorf("%s: %s %s: %v", name, u.GetKind(), u.GetName(), err)
			}
			key := u.GetKind() + " " + u.GetName()
			if out[key] != nil {
				t.Errorf("%s is there twice", key)
			}
			out[key] = u
		}
	}
	return out
}

// with returns the minimal values for a network, and the given ones by their paths.
func with(network string, paths map[string]any) map[string]any {
	conf := map[string]any{"cluster_id": "c", "region": "cn-hangzhou", "service_cidr": "172.21.0.0/20"}
	if network == "flannel" {
		conf["network"], conf["pod_cidr"] = "flannel", "172.20.0.0/16"
	} else {
		conf["vswitches"] = map[string]any{"cn-hangzhou-i": []any{"vsw-1"}}
	}
	values := map[string]any{"eniConfig": conf, "credentials": map[string]any{"existingSecret": "key"}}
	if source, ok := paths["credentials.source"]; ok && source != "secret" {
		values["credentials"] = map[string]any{}
	}
	for path, v := range paths {
		at := values
		words := strings.Split(path, ".")
		for _, w := range words[:len(words)-1] {
			next, ok := at[w].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[w] = next
			}
			at = next
		}
		at[words[len(words)-1]] = v
	}
	return values
}

// leaves returns the paths of all values with a default; objects without a fixed structure
// count as one value.
func leaves(values map[string]any, prefix string) []string {
	var out []string
	for k, v := range values {
		path := prefix + k
		m, isMap := v.(map[string]any)
		if isMap && len(m) > 0 && !slices.Contains([]string{"resources", "affinity", "updateStrategy"}, k) {
			out = append(out, leaves(m, path+".")...)
			continue
		}
		out = append(out, path)
	}
	return out
}

// Each value changes what is installed, or is refused by its name: none is ignored. "off" is a
// network in which the value has no effect.
func TestEachValueCounts(t *testing.T) {
	const terway, flannel = "terway", "flannel"
	resources := map[string]any{"requests": map[string]any{"cpu": "7m"}}
	env := []any{map[string]any{"name": "A", "value": "b"}}
	label := map[string]any{"a": "b"}
	volume, mount := []any{map[string]any{"name": "v", "emptyDir": map[string]any{}}}, []any{map[string]any{"name": "v", "mountPath": "/v"}}
	type change struct {
		to   any
		base map[string]any // what else is set, so that the value counts, where it does
		off  string
		same string // a network in which it is always so
	}
	changes := map[string]change{
		"log.format":                                          {to: "json"},
		"log.level":                                           {to: "debug"},
		"image.repository":                                    {to: "r.example/terway"},
		"image.tag":                                           {to: "v9"},
		"image.digest":                                        {to: "sha256:" + strings.Repeat("0", 64)},
		"image.pullPolicy":                                    {to: "Always"},
		"image.pullSecrets":                                   {to: []any{"registry"}},
		"kinds.install":                                       {to: false},
		"uninstall.force":                                     {to: true},
		"uninstall.withoutCloud":                              {to: true},
		"uninstall.timeout":                                   {to: "1h"},
		"apiServer.host":                                      {to: "10.0.0.1"},
		"apiServer.port":                                      {to: 443, base: map[string]any{"apiServer.host": "10.0.0.1"}},
		"credentials.source":                                  {to: "ecs-role"},
		"credentials.existingSecret":                          {to: "mine"},
		"credentials.accessKeyID":                             {to: "id", base: map[string]any{"credentials.existingSecret": "", "credentials.accessKeyID": "x", "credentials.accessKeySecret": "s"}},
		"credentials.accessKeySecret":                         {to: "s", base: map[string]any{"credentials.existingSecret": "", "credentials.accessKeyID": "id", "credentials.accessKeySecret": "x"}},
		"credentials.role":                                    {to: "r", base: map[string]any{"credentials.source": "ecs-role"}},
		"credentials.roleARN":                                 {to: "acs:ram::1:role/r", base: map[string]any{"credentials.source": "rrsa", "credentials.oidcProviderARN": "acs:ram::1:oidc-provider/p", "credentials.roleARN": "acs:ram::1:role/x"}},
		"credentials.oidcProviderARN":                         {to: "acs:ram::1:oidc-provider/p", base: map[string]any{"credentials.source": "rrsa", "credentials.roleARN": "acs:ram::1:role/r", "credentials.oidcProviderARN": "acs:ram::1:oidc-provider/x"}},
		"controller.replicas":                                 {to: 3},
		"controller.ecsEndpoint":                              {to: "ecs.example"},
		"controller.vpcEndpoint":                              {to: "vpc.example"},
		"controller.slbEndpoint":                              {to: "slb.example"},
		"controller.nlbEndpoint":                              {to: "nlb.example"},
		"controller.stsEndpoint":                              {to: "sts.example", base: map[string]any{"credentials.source": "rrsa", "credentials.roleARN": "acs:ram::1:role/r", "credentials.oidcProviderARN": "acs:ram::1:oidc-provider/p"}},
		"controller.endpointNetwork":                          {to: "public"},
		"controller.sweepPeriod":                              {to: "5m", off: flannel},
		"controller.nodeGoneDelay":                            {to: "7m", off: flannel},
		"controller.surplusAfter":                             {to: "7m", off: flannel},
		"controller.cloudLimits":                              {to: map[string]any{"DescribeInstances": 800}},
		"controller.extraArgs":                                {to: []any{"--verbose"}},
		"controller.nodeSelector":                             {to: map[string]any{"a": "b"}},
		"controller.healthPort":                               {to: 10369},
		"agent.seLinuxOptions":                                {to: map[string]any{"type": "spc_t"}},
		"controller.resources":                                {to: resources},
		"controller.extraEnv":                                 {to: env},
		"controller.extraVolumes":                             {to: volume},
		"controller.extraVolumeMounts":                        {to: mount},
		"controller.startupProbe.periodSeconds":               {to: 5},
		"controller.startupProbe.failureThreshold":            {to: 5},
		"controller.livenessProbe.timeoutSeconds":             {to: 4},
		"controller.livenessProbe.failureThreshold":           {to: 4},
		"controller.readinessProbe.periodSeconds":             {to: 5},
		"controller.securityContext.allowPrivilegeEscalation": {to: true},
		"controller.securityContext.readOnlyRootFilesystem":   {to: false},
		"controller.securityContext.seccompProfile.type":      {to: "Unconfined"},
		"controller.securityContext.capabilities.drop":        {to: []any{}},
		"controller.securityContext.runAsNonRoot":             {to: false},
		"controller.securityContext.runAsUser":                {to: 1000},
		"controller.podAnnotations":                           {to: label},
		"controller.podLabels":                                {to: label},
		"controller.affinity":                                 {to: map[string]any{"podAffinity": map[string]any{"requiredDuringSchedulingIgnoredDuringExecution": []any{map[string]any{"topologyKey": "a"}}}}},
		"controller.tolerations":                              {to: []any{}},
		"controller.updateStrategy":                           {to: map[string]any{"rollingUpdate": map[string]any{"maxUnavailable": 2}}},

		"controller.topologySpreadConstraints":  {to: []any{}},
		"controller.serviceAccount.annotations": {to: label},
		"controller.podDisruptionBudget":        {to: map[string]any{"maxUnavailable": "50%"}},

		"admission.enabled": {to: false, same: flannel},
		"admission.port":    {to: 10366, off: flannel},
		"policy.enabled":    {to: true, off: flannel},
		"policy.port":       {to: 10368, base: map[string]any{"policy.enabled": true}, off: flannel},

		"policy.installClusterNetworkPolicy": {to: false, base: map[string]any{"policy.enabled": true}, off: flannel},

		"metrics.enabled":           {to: false},
		"metrics.agentPort":         {to: 10368, off: flannel},
		"metrics.rules.enabled":     {to: true},
		"metrics.rules.labels":      {to: label, base: map[string]any{"metrics.rules.enabled": true}},
		"metrics.dashboard.enabled": {to: true},

		"metrics.dashboard.labels.grafana_dashboard": {to: "2", base: map[string]any{"metrics.dashboard.enabled": true}},
		"metrics.serviceMonitor.enabled":             {to: true},
		"metrics.serviceMonitor.interval":            {to: "1m", base: map[string]any{"metrics.serviceMonitor.enabled": true}},
		"metrics.serviceMonitor.labels":              {to: label, base: map[string]any{"metrics.serviceMonitor.enabled": true}},

		"flannel.image.repository":                       {to: "r.example/flannel", off: terway},
		"flannel.image.tag":                              {to: "v9", off: terway},
		"flannel.nftables":                               {to: false, off: terway},
		"flannel.extraArgs":                              {to: []any{"--v=3"}, off: terway},
		"flannel.resources":                              {to: resources, off: terway},
		"agent.cniConfDir":                               {to: "/etc/cni/other"},
		"agent.cniBinDir":                                {to: "/opt/cni/other"},
		"agent.kubeletDir":                               {to: "/data/kubelet", off: flannel},
		"agent.netnsDir":                                 {to: "/run/netns", off: flannel},
		"agent.hostDropIns":                              {to: false, off: flannel},
		"agent.extraVolumes":                             {to: volume},
		"agent.extraVolumeMounts":                        {to: mount},
		"agent.startupProbe.periodSeconds":               {to: 5},
		"agent.startupProbe.failureThreshold":            {to: 5},
		"agent.livenessProbe.timeoutSeconds":             {to: 4},
		"agent.livenessProbe.failureThreshold":           {to: 4},
		"agent.readinessProbe.periodSeconds":             {to: 5},
		"agent.securityContext.allowPrivilegeEscalation": {to: true, off: flannel},
		"agent.securityContext.readOnlyRootFilesystem":   {to: false, off: flannel},
		"agent.securityContext.seccompProfile.type":      {to: "Unconfined", off: flannel},
		"agent.securityContext.capabilities.drop":        {to: []any{}, off: flannel},
		"agent.securityContext.appArmorProfile.type":     {to: "RuntimeDefault", off: flannel},
		"agent.securityContext.capabilities.add":         {to: []any{"NET_ADMIN"}, off: flannel},
		"agent.extraArgs":                                {to: []any{"--cni-version=1.0.0"}},
		"agent.extraEnv":                                 {to: env},
		"agent.podAnnotations":                           {to: label},
		"agent.podLabels":                                {to: label},
		"agent.nodeSelector":                             {to: label},
		"agent.affinity":                                 {to: map[string]any{"podAffinity": map[string]any{"requiredDuringSchedulingIgnoredDuringExecution": []any{map[string]any{"topologyKey": "a"}}}}},
		"agent.tolerations":                              {to: []any{map[string]any{"key": "a", "operator": "Exists"}}},
		"agent.updateStrategy":                           {to: map[string]any{"rollingUpdate": map[string]any{"maxUnavailable": 2}}},

		"agent.serviceAccount.annotations": {to: label},

		"agent.resources": {to: resources, off: flannel},
	}
	var defaults map[string]any
	read(t, dir+"values.yaml", func(b []byte, v any) error { return yaml.Unmarshal(b, v) }, &defaults)
	delete(defaults, "eniConfig") // the controller checks its keys
	for _, path := range leaves(defaults, "") {
		c, ok := changes[path]
		if !ok {
			t.Errorf("%s: this test does not know it", path)
			continue
		}
		delete(changes, path)
		for _, network := range []string{terway, flannel} {
			beside := c.base
			if network == c.off {
				beside = nil
			}
			base := with(network, beside)
			set := maps.Clone(beside)
			if set == nil {
				set = map[string]any{}
			}
			set[path] = c.to
			before, problem := helm.render(t, base)
			if problem != "" {
				t.Fatalf("%s: %v: %s", network, c.base, problem)
			}
			after, problem := helm.render(t, with(network, set))
			switch {
			case network == c.off:
				if !strings.Contains(problem, "/"+strings.ReplaceAll(path, ".", "/")+"'") {
					t.Errorf("%s: %s does nothing there and is not refused by its name: %q", network, path, problem)
				}
			case problem != "":
				t.Errorf("%s: %s: %s", network, path, problem)
			case maps.Equal(before, after) && network != c.same:
				t.Errorf("%s: %s changes nothing and is not refused", network, path)
			}
		}
	}
	for path := range changes {
		t.Errorf("values.yaml has no %s", path)
	}
}

// The controller's replicas do not run on nodes that Terway ignores, like the agents.
func TestControllerKeepsOffNodesLeftAlone(t *testing.T) {
	got := objects(t, with("terway", nil))
	affinity := func(name string) any {
		o := got[name]
		if o == nil {
			t.Fatalf("no %s; there are %v", name, keys(got))
		}
		a, _, err := unstructured.NestedFieldNoCopy(o.Object, "spec", "template", "spec", "affinity", "nodeAffinity")
		if err != nil || a == nil {
			t.Fatalf("%s: nodeAffinity %v, %v", name, a, err)
		}
		return a
	}
	if c, a := affinity("Deployment terway-controller"), affinity("DaemonSet terwayd"); !reflect.DeepEqual(c, a) {
		t.Errorf("the controller's %v, the agents' %v", c, a)
	}
	agents, err := json.Marshal(affinity("DaemonSet terwayd"))
	if err != nil {
		t.Fatal(err)
	}
	policy, err := json.Marshal(got["ValidatingAdmissionPolicy terway-ignore-labels"])
	if err != nil {
		t.Fatal(err)
	}
	for label, value := range map[string]string{claims.LabelIgnore: "true", claims.LabelOtherIgnore: "true", claims.LabelNodeType: claims.VirtualNode} {
		if !strings.Contains(string(agents), fmt.Sprintf(`{"key":%q,"operator":"NotIn","values":[%q]}`, label, value)) {
			t.Errorf("agents run on nodes with label %s=%s: %s", label, value, agents)
		}
		if !strings.Contains(string(policy), fmt.Sprintf("['%s', '%s']", label, value)) {
			t.Errorf("a kubelet may set label %s=%s: %s", label, value, policy)
		}
	}
}

// The controller has the resources that it needs for 5,000 nodes, and no more. No container has system calls that it
// does not need; a privileged one would have no profile, so none is privileged.
func TestContainersAreConfined(t *testing.T) {
	containers := func(network, name string) []corev1.Container {
		t.Helper()
		var template struct {
			Spec struct {
				Template corev1.PodTemplateSpec `json:"template"`
			} `json:"spec"`
		}
		into(t, objects(t, with(network, nil))[name], &template)
		if len(template.Spec.Template.Spec.Containers) == 0 {
			t.Fatalf("%s has no containers", name)
		}
		return template.Spec.Template.Spec.Containers
	}
	for network, names := range map[string][]string{
		"terway":  {"Deployment terway-controller", "DaemonSet terwayd", "Job terway-uninstall"},
		"flannel": {"Deployment terway-controller", "DaemonSet kube-flannel", "Job terway-uninstall"},
	} {
		for _, name := range names {
			for _, c := range containers(network, name) {
				s := c.SecurityContext
				if c.Name == "kube-flannel" {
					continue // upstream's, which has its own program for NAT
				}
				confined := s.SeccompProfile != nil && s.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault && s.Privileged == nil &&
					s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation && s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem &&
					slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"})
				if !confined {
					t.Errorf("%s, %s, container %s: %+v", network, name, c.Name, s)
				}
				var want []corev1.Capability
				switch c.Name {
				case "cni":
					want = []corev1.Capability{"DAC_OVERRIDE"}
				case "terwayd":
					want = []corev1.Capability{"DAC_OVERRIDE", "NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_RESOURCE"}
				}
				if !slices.Equal(s.Capabilities.Add, want) {
					t.Errorf("%s, %s, container %s: capabilities %v, want %v", network, name, c.Name, s.Capabilities.Add, want)
				}
			}
		}
	}
	memory := containers("terway", "Deployment terway-controller")[0].Resources
	for what, c := range map[string]struct {
		list corev1.ResourceList
		want string
	}{"request": {memory.Requests, "128Mi"}, "limit": {memory.Limits, "1Gi"}} {
		if got := c.list[corev1.ResourceMemory]; got.Cmp(resource.MustParse(c.want)) != 0 {
			t.Errorf("memory %s %s, want %s", what, &got, c.want)
		}
	}
}

// A busy node answers every probe late, and restarting containers makes it busier: so a
// liveness probe has a longer timeout than Kubernetes' default of a second, and is repeated.
func TestLivenessIsPatient(t *testing.T) {
	for _, network := range []string{"terway", "flannel"} {
		probes := 0
		for name, o := range objects(t, with(network, nil)) {
			if o.GetKind() != "Deployment" && o.GetKind() != "DaemonSet" {
				continue
			}
			var template struct {
				Spec struct {
					Template corev1.PodTemplateSpec `json:"template"`
				} `json:"spec"`
			}
			into(t, o, &template)
			for _, c := range template.Spec.Template.Spec.Containers {
				if c.LivenessProbe == nil {
					continue
				}
				probes++
				if n := c.LivenessProbe.TimeoutSeconds; n < 5 {
					t.Errorf("%s: %s: a liveness probe may take %d s, want 5", network, name, n)
				}
			}
		}
		if probes < 2 {
			t.Errorf("%s: %d liveness probes, want those of controller and agent", network, probes)
		}
	}
}
