package loadbalancer

import (
	"reflect"
	"testing"

	"terway.dev/terway/internal/config"
	lb "terway.dev/terway/internal/loadbalancer"
)

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       lb.Settings
	}{
		{"pods are backends", `{cluster_id: c1, region: cn-hangzhou, service_cidr: 172.21.0.0/20, vswitches: {cn-hangzhou-i: [vsw-1, vsw-2], cn-hangzhou-h: [vsw-3]}}`,
			lb.Settings{PodBackends: true, Classes: map[string]lb.Product{}, Zones: []lb.Zone{{ID: "cn-hangzhou-h", VSwitch: "vsw-3"}, {ID: "cn-hangzhou-i", VSwitch: "vsw-1"}}}},
		{"classes, Flannel", `{cluster_id: c1, region: cn-hangzhou, network: flannel, pod_cidr: 172.20.0.0/16, service_cidr: 172.21.0.0/20, load_balancer_classes: {"": CLB, alibabacloud.com/nlb: NLB}}`,
			lb.Settings{Classes: map[string]lb.Product{"": lb.CLB, "alibabacloud.com/nlb": lb.NLB}}},
	} {
		cfg, err := config.Parse([]byte(c.text))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := Settings(cfg); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestClassOfNoProduct(t *testing.T) {
	_, err := config.Parse([]byte(`{cluster_id: c1, region: cn-hangzhou, network: flannel, pod_cidr: 172.20.0.0/16, service_cidr: 172.21.0.0/20, load_balancer_classes: {x: ALB}}`))
	if err == nil || err.Error() != `load_balancer_classes: class "x": "ALB": want CLB or NLB` {
		t.Error(err)
	}
}
