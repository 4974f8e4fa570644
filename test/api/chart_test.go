//go:build e2e

package api

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/lab"
)

// rendered returns what "helm template" prints with these values, which knows nothing of the cluster.
func rendered(t *testing.T, values map[string]any) (out []*unstructured.Unstructured) {
	t.Helper()
	question, err := json.Marshal(map[string]any{"values": values})
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("go", "run", "-trimpath", "-buildvcs=false", "./render", "../../../../deploy/chart")
	c.Dir, c.Stdin, c.Stderr = "../../internal/lab/modules/helm", strings.NewReader(string(question)), os.Stderr
	b, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Files map[string]string
		Error string
	}
	if err := json.Unmarshal(b, &answer); err != nil || answer.Error != "" {
		t.Fatal(err, answer.Error)
	}
	for name, text := range answer.Files {
		if strings.HasSuffix(name, ".txt") {
			continue
		}
		for doc := range strings.SplitSeq("\n"+text, "\n---") {
			var o map[string]any
			if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if len(o) > 0 {
				out = append(out, &unstructured.Unstructured{Object: o})
			}
		}
	}
	return out
}

// A cluster that has one network does not get the other one, also without Helm, which would ask the cluster; and
// the network that it has may be applied again, and made again after it was deleted.
func TestOneNetwork(t *testing.T) {
	kube, _ := server(t)
	conf := map[string]any{"cluster_id": "c", "region": "cn-hangzhou", "service_cidr": "172.21.0.0/20"}
	credentials := map[string]any{"existingSecret": "key"}
	conf["vswitches"] = map[string]any{"cn-hangzhou-i": []any{"vsw-1"}}
	terway := rendered(t, map[string]any{"eniConfig": conf, "credentials": credentials})
	delete(conf, "vswitches")
	conf["network"], conf["pod_cidr"] = "flannel", "172.20.0.0/16"
	flannel := rendered(t, map[string]any{"eniConfig": conf, "credentials": credentials})

	apply := func(o *unstructured.Unstructured) error {
		o = o.DeepCopy()
		o.SetManagedFields(nil)
		return kube.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("kubectl"), client.ForceOwnership)
	}
	daemonSet := func(of []*unstructured.Unstructured, name string) *unstructured.Unstructured {
		t.Helper()
		for _, o := range of {
			if o.GetKind() == "DaemonSet" && o.GetName() == name {
				return o
			}
		}
		t.Fatalf("there is no DaemonSet %s", name)
		return nil
	}
	for _, o := range terway {
		if err := apply(o); err != nil {
			t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	// The API server starts to enforce a policy some time after it was made.
	const refusal = "the cluster's pods use another network (DaemonSet terwayd exists)"
	second := daemonSet(flannel, "kube-flannel")
	var got error
	if err := lab.Poll(t.Context(), 100*time.Millisecond, func() (bool, error) {
		if got = apply(second); got == nil {
			return false, client.IgnoreNotFound(kube.Delete(t.Context(), second.DeepCopy()))
		}
		return strings.Contains(got.Error(), refusal), nil
	}); err != nil {
		t.Fatalf("%v; the API server says of the second network: %v", err, got)
	}
	first := daemonSet(terway, "terwayd")
	if err := apply(first); err != nil {
		t.Errorf("the network that is there: %v", err)
	}
	if err := kube.Delete(t.Context(), first.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	// It sees only some time later that the first network is gone.
	if err := lab.Poll(t.Context(), 100*time.Millisecond, func() (bool, error) {
		got = apply(second)
		return got == nil, nil
	}); err != nil {
		t.Fatalf("%v; without the first network the API server says of the second: %v", err, got)
	}
	if err := lab.Poll(t.Context(), 100*time.Millisecond, func() (bool, error) {
		got = apply(first)
		return got != nil && strings.Contains(got.Error(), "(DaemonSet kube-flannel exists)"), client.IgnoreNotFound(kube.Delete(t.Context(), first.DeepCopy()))
	}); err != nil {
		t.Fatalf("%v; the API server says of the first network: %v", err, got)
	}
}

// What the chart takes the API server takes too, whatever values are set beside the defaults: it refuses some pairs of fields, of which
// one may be a default.
func TestTheAPIServerTakesIt(t *testing.T) {
	kube, _ := server(t)
	values := func(changes string) map[string]any {
		v := map[string]any{}
		text := "eniConfig: {cluster_id: c, region: cn-hangzhou, service_cidr: 172.21.0.0/20, vswitches: {cn-hangzhou-i: [vsw-1]}}\ncredentials: {existingSecret: key}\n"
		for _, text := range []string{text, changes} {
			if err := yaml.Unmarshal([]byte(text), &v); err != nil {
				t.Fatal(err)
			}
		}
		return v
	}
	all := map[string]map[string]any{}
	for _, changes := range []string{
		"controller: {podDisruptionBudget: {minAvailable: 1}}",
		"controller: {podDisruptionBudget: null}",
		"controller: {updateStrategy: {type: Recreate}}",
		"controller: {updateStrategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}}",
		"agent: {updateStrategy: {type: OnDelete}}",
		"agent: {updateStrategy: {rollingUpdate: {maxUnavailable: 100%}}}",
		"agent: {securityContext: {privileged: true}}",
		"controller: {podLabels: {team: net}, podAnnotations: {team: net}}",
		"uninstall: {force: true, timeout: 1h}",
	} {
		all[changes] = values(changes)
	}
	files, err := filepath.Glob("../../deploy/chart/ci/*-values.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		v := map[string]any{}
		if err := yaml.Unmarshal(b, &v); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		all[filepath.Base(f)] = v
	}
	taken := 0
	for name, v := range all {
		for _, o := range rendered(t, v) {
			err := kube.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("kubectl"), client.ForceOwnership, client.DryRunAll)
			switch {
			case meta.IsNoMatchError(err): // of the Prometheus Operator
			case err != nil:
				t.Errorf("%s: %s %s: %v", name, o.GetKind(), o.GetName(), err)
			default:
				taken++
			}
		}
	}
	if taken < 10*len(all) {
		t.Errorf("the API server has taken %d objects of %d installations", taken, len(all))
	}
}
