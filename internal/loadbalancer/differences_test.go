package loadbalancer

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

func TestDifferences(t *testing.T) {
	type m = map[string]string
	for _, c := range []struct {
		name       string
		p          Product
		kind       Kind
		wanted, is m
		want       m
		err        string
	}{
		{"the same", CLB, OfLoadBalancer, m{"LoadBalancerName": "a"}, m{"LoadBalancerName": "a", "RegionId": "x"}, m{}, ""},
		{"a name has cases", CLB, OfLoadBalancer, m{"LoadBalancerName": "a"}, m{"LoadBalancerName": "A"}, m{"LoadBalancerName": "a"}, ""},
		{"a word has none", NLB, OfLoadBalancer, m{"AddressIpVersion": "ipv4", "AddressType": "Internet"}, m{"AddressIpVersion": "Ipv4", "AddressType": "internet"}, m{}, ""},
		{"address type of NLB", NLB, OfLoadBalancer, m{"AddressType": "Internet"}, m{"AddressType": "Intranet"}, m{"AddressType": "Internet"}, ""},
		{"address type of CLB", CLB, OfLoadBalancer, m{"AddressType": "intranet", "LoadBalancerName": "a"}, m{"AddressType": "internet", "LoadBalancerName": "b"}, m{"LoadBalancerName": "a"},
			Prefix + `address-type: "intranet": the load balancer has "internet", which cannot be changed`},
		{"not reported, so it cannot be compared", CLB, OfLoadBalancer, m{"VSwitchId": "vsw-a"}, m{}, m{}, ""},
		{"specification and charge", CLB, OfLoadBalancer, m{"InstanceChargeType": "PayBySpec", "LoadBalancerSpec": "slb.s1.small", "LoadBalancerName": "a"},
			m{"InstanceChargeType": "PayByCLCU", "LoadBalancerSpec": "slb.lcu.elastic", "LoadBalancerName": "a"}, m{"InstanceChargeType": "PayBySpec", "LoadBalancerSpec": "slb.s1.small"}, ""},
		{"specification alone", CLB, OfLoadBalancer, m{"InstanceChargeType": "PayBySpec", "LoadBalancerSpec": "slb.s1.small", "InternetChargeType": "paybytraffic"},
			m{"InstanceChargeType": "PayBySpec", "LoadBalancerSpec": "slb.s2.small", "InternetChargeType": "paybytraffic"}, m{"LoadBalancerSpec": "slb.s1.small"}, ""},
		{"charge and traffic", CLB, OfLoadBalancer, m{"InstanceChargeType": "PayByCLCU", "InternetChargeType": "paybytraffic"},
			m{"InstanceChargeType": "PayBySpec", "InternetChargeType": "paybytraffic"}, m{"InstanceChargeType": "PayByCLCU", "InternetChargeType": "paybytraffic"}, ""},
		{"bandwidth", CLB, OfLoadBalancer, m{"InternetChargeType": "paybybandwidth", "Bandwidth": "5"}, m{"InternetChargeType": "paybybandwidth", "Bandwidth": "6"},
			m{"InternetChargeType": "paybybandwidth", "Bandwidth": "5"}, ""},
		{"the backends' port", CLB, OfListener, m{"HealthCheckConnectPort": backendsPort}, m{}, m{}, ""},
		{"the backends' port, as 0", CLB, OfListener, m{"HealthCheckConnectPort": backendsPort}, m{"HealthCheckConnectPort": "0"}, m{}, ""},
		{"the backends' port again", CLB, OfListener, m{"HealthCheckConnectPort": backendsPort}, m{"HealthCheckConnectPort": "8080"}, m{"HealthCheckConnectPort": backendsPort}, ""},
		{"another port, where none was", CLB, OfListener, m{"HealthCheckConnectPort": "8080"}, m{}, m{"HealthCheckConnectPort": "8080"}, ""},
		{"a listener of CLB is set as a whole", CLB, OfListener, m{"Scheduler": "wrr", "HealthyThreshold": "3"}, m{"Scheduler": "rr", "HealthyThreshold": "3"}, m{"Scheduler": "wrr", "HealthyThreshold": "3"}, ""},
		{"a list has no order", CLB, OfListener, m{"HealthCheckHttpCode": "http_2xx,http_3xx"}, m{"HealthCheckHttpCode": "http_3xx,http_2xx"}, m{}, ""},
		{"a health check of NLB is set as a whole", NLB, OfGroup, m{"Scheduler": "Wrr", "HealthCheckConfig.HealthCheckType": "HTTP", "HealthCheckConfig.HealthCheckUrl": "/"},
			m{"Scheduler": "Wrr", "HealthCheckConfig.HealthCheckType": "TCP"}, m{"HealthCheckConfig.HealthCheckType": "HTTP", "HealthCheckConfig.HealthCheckUrl": "/"}, ""},
		{"no limit of connections", NLB, OfListener, m{"Cps": "0"}, m{}, m{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			set, err := Differences(c.p, c.kind, c.wanted, c.is)
			if !maps.Equal(set, c.want) {
				t.Errorf("%v, want %v", set, c.want)
			}
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v, want %q", err, c.err)
			}
		})
	}
}

// What any Service wants is reached by one change, from what any other one wanted, but for what only a new load
// balancer gets; and to take back all annotations is a change back to the defaults.
func TestDifferencesReachWhatIsWanted(t *testing.T) {
	draw := func(t *rapid.T, class string) *LoadBalancer {
		s := service(class, map[string]string{}, tcp(80))
		for range rapid.IntRange(0, 4).Draw(t, "annotations") {
			a := rapid.SampledFrom(Annotations).Draw(t, "annotation")
			s.Annotations[Prefix+a.Name] = rapid.SampledFrom([]string{"on", "off", "http", "true", "5", "11", "30", "sch", "/x", "http_2xx,http_3xx", "get", "http:80", "insert", "intranet", "PayBySpec", "text"}).Draw(t, "value")
		}
		if rapid.Bool().Draw(t, "affinity") {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		}
		w, _ := Read(s, cluster)
		return w
	}
	rapid.Check(t, func(t *rapid.T) {
		class := rapid.SampledFrom([]string{ClassCLB, ClassNLB}).Draw(t, "class")
		old, next := draw(t, class), draw(t, class)
		for kind, of := range map[Kind]func(*LoadBalancer) map[string]string{
			OfLoadBalancer: func(w *LoadBalancer) map[string]string { return w.Attributes },
			OfListener:     func(w *LoadBalancer) map[string]string { return w.Listeners[0].Attributes },
			OfGroup:        func(w *LoadBalancer) map[string]string { return w.Listeners[0].Group },
		} {
			is := maps.Clone(of(old))
			set, _ := Differences(next.Product, kind, of(next), is)
			maps.Copy(is, set)
			if again, _ := Differences(next.Product, kind, of(next), is); len(again) > 0 {
				t.Fatalf("%v is still to be set, after %v", again, set)
			}
			for name, v := range of(next) {
				if is[name] != v && is[name] != "" && !strings.Contains(fmt.Sprint(fixed[next.Product]), name) && !annotationOf(next.Product, kind, name).same(v, is[name]) {
					t.Fatalf("%s is %q, want %q", name, is[name], v)
				}
			}
		}
	})
}
