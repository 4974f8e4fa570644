package eniconfig

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"terway.dev/terway/internal/config"
)

const before = `cluster_id: shop
region: cn-hangzhou
service_cidr: 172.21.0.0/20
security_groups: [sg-1]
max_pool_size: 12
vswitches:
  cn-hangzhou-i: [vsw-1]
`

func TestAddVSwitch(t *testing.T) {
	for zone, want := range map[string]string{"cn-hangzhou-i": "vsw-1 vsw-2", "cn-hangzhou-j": "vsw-2"} {
		out, changed, err := AddVSwitch([]byte(before), zone, "vsw-2")
		if err != nil || !changed {
			t.Fatal(changed, err)
		}
		c, err := config.Parse(out)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(c.VSwitches[zone], " "); got != want {
			t.Errorf("%s has %q, want %q", zone, got, want)
		}
		if c.MaxPoolSize != 12 || c.VSwitches["cn-hangzhou-i"][0] != "vsw-1" || c.SecurityGroups[0] != "sg-1" {
			t.Errorf("something else has changed: %s", out)
		}
		again, changed, err := AddVSwitch(out, zone, "vsw-2")
		if err != nil || changed || string(again) != string(out) {
			t.Errorf("the second time: %t, %v, %s", changed, err, again)
		}
	}
}

func TestAddVSwitchRefuses(t *testing.T) {
	for want, c := range map[string]struct{ data, zone, id string }{
		"not valid as it is":         {"vswitchs: {}", "cn-hangzhou-i", "vsw-2"},
		"listed under cn-hangzhou-i": {before, "cn-hangzhou-j", "vsw-1"},
		"lb-1":                       {before, "cn-hangzhou-i", "lb-1"},
	} {
		if out, _, err := AddVSwitch([]byte(c.data), c.zone, c.id); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %q, %v, want an error with %q", c, out, err, want)
		}
	}
}

func TestAdopt(t *testing.T) {
	c := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: config.ConfigMapName, Namespace: "kube-system"},
		Data: map[string]string{config.ConfigMapKey: before, "other": "x"}})
	for i, want := range []bool{true, false} {
		changed, err := Adopt(t.Context(), c, "kube-system", "cn-hangzhou-i", "vsw-2")
		if err != nil || changed != want {
			t.Errorf("time %d: changed %t, %v", i+1, changed, err)
		}
	}
	m, err := c.CoreV1().ConfigMaps("kube-system").Get(t.Context(), config.ConfigMapName, metav1.GetOptions{})
	if err != nil || !strings.Contains(m.Data[config.ConfigMapKey], "vsw-2") || m.Data["other"] != "x" {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := Adopt(t.Context(), c, "elsewhere", "cn-hangzhou-i", "vsw-2"); err == nil || !strings.Contains(err.Error(), "elsewhere/eni-config") {
		t.Errorf("%v: want an error that names the ConfigMap", err)
	}
}

// A vSwitch must not get into the configuration of another cluster.
func TestCluster(t *testing.T) {
	for want, c := range map[string]struct {
		namespace, region, data string
		vswitches               []string
	}{
		"":                               {"kube-system", "cn-hangzhou", before, []string{"vsw-0", "vsw-1"}},
		"in region cn-hangzhou":          {"kube-system", "cn-beijing", before, []string{"vsw-1"}},
		"has no vSwitch of the plan's":   {"kube-system", "cn-hangzhou", before, []string{"vsw-0"}},
		"but []: is it":                  {"kube-system", "r", "{cluster_id: f, region: r, network: flannel, pod_cidr: 10.0.0.0/16, service_cidr: 172.21.0.0/20}", []string{"vsw-1"}},
		`"vswitchs" is not a key`:        {"kube-system", "cn-hangzhou", "vswitchs: {}", nil},
		"read ConfigMap else/eni-config": {"else", "cn-hangzhou", before, nil},
	} {
		client := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: config.ConfigMapName, Namespace: "kube-system"},
			Data: map[string]string{config.ConfigMapKey: c.data}})
		cluster, err := Cluster(t.Context(), client, c.namespace, c.region, c.vswitches, func(string) {})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
		if err == nil && (strings.Join(cluster.VSwitches, " ") != "vsw-1" || len(cluster.Services) != 1 || cluster.Services[0].String() != "172.21.0.0/20") {
			t.Errorf("the cluster is %+v", cluster)
		}
	}
}

// Whatever the ConfigMap contains, the result is a configuration with one more vSwitch and no other
// difference.
func FuzzAddVSwitch(f *testing.F) {
	f.Add([]byte(before), "cn-hangzhou-i", "vsw-2")
	f.Add([]byte("{cluster_id: c, region: r, network: flannel, pod_cidr: 10.0.0.0/16, service_cidr: 172.21.0.0/20}"), "z", "vsw-1")
	f.Add([]byte("vswitches: {z: [vsw-1], z: []}"), "z", "vsw-1")
	f.Fuzz(func(t *testing.T, data []byte, zone, id string) {
		out, changed, err := AddVSwitch(data, zone, id)
		if err != nil {
			return
		}
		was, err := config.Parse(data)
		if err != nil {
			t.Fatalf("%q was no configuration: %v", data, err)
		}
		is, err := config.Parse(out)
		if err != nil {
			t.Fatalf("%q is none: %v", out, err)
		}
		for _, d := range config.Diff(was, is) {
			if d.Key != "vswitches" {
				t.Errorf("%s", d)
			}
		}
		if n := len(was.VSwitches[zone]); changed && (len(is.VSwitches[zone]) != n+1 || is.VSwitches[zone][n] != id) {
			t.Errorf("zone %q has %v, had %v", zone, is.VSwitches[zone], was.VSwitches[zone])
		}
	})
}
