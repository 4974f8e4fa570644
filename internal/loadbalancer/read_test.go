package loadbalancer

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

var cluster = Settings{PodBackends: true, Zones: []Zone{{"z-a", "vsw-a"}, {"z-b", "vsw-b"}}}

func service(class string, annotations map[string]string, ports ...corev1.ServicePort) *corev1.Service {
	s := &corev1.Service{}
	s.Name, s.Namespace, s.Annotations = "web", "shop", annotations
	s.Spec.Type, s.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, &class
	if s.Spec.Ports = ports; ports == nil {
		s.Spec.Ports = []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}
	}
	return s
}

func udp(port int32) corev1.ServicePort {
	return corev1.ServicePort{Port: port, Protocol: corev1.ProtocolUDP}
}
func tcp(port int32) corev1.ServicePort {
	return corev1.ServicePort{Port: port, Protocol: corev1.ProtocolTCP}
}

// parameters are all parameters of the load balancer and of its first listener.
func parameters(w *LoadBalancer) map[string]string {
	all := maps.Clone(w.Attributes)
	all["new"] = w.New.VSwitchID
	for _, z := range w.New.Zones {
		all["new"] += z.ID
	}
	maps.Copy(all, w.Listeners[0].Attributes)
	maps.Copy(all, w.Listeners[0].Group)
	return all
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, class string
		change      func(*corev1.Service)
		want        map[string]string
	}{
		{"defaults of CLB", ClassCLB, nil, map[string]string{"AddressType": "internet", "Scheduler": "wrr", "HealthCheckSwitch": "on", "PersistenceTimeout": "0", "VSwitchId": ""}},
		{"defaults of NLB", ClassNLB, nil, map[string]string{"AddressType": "Internet", "Scheduler": "Wrr", "HealthCheckConfig.HealthCheckEnabled": "true", "CrossZoneEnabled": "true", "new": "z-az-b"}},
		{"own zones of NLB", ClassNLB, func(s *corev1.Service) { s.Annotations[Prefix+"zone-maps"] = "z-c:vsw-c,z-d:vsw-d" }, map[string]string{"new": ""}},
		{"intranet CLB", ClassCLB, func(s *corev1.Service) { s.Annotations[Prefix+"address-type"] = "intranet" }, map[string]string{"AddressType": "intranet", "VSwitchId": "", "new": "vsw-a"}},
		{"former prefix", ClassCLB, func(s *corev1.Service) { s.Annotations[PrefixFormer+"scheduler"] = "wlc" }, map[string]string{"Scheduler": "wlc"}},
		{"the newer prefix wins", ClassCLB, func(s *corev1.Service) {
			s.Annotations[PrefixFormer+"scheduler"], s.Annotations[Prefix+"scheduler"] = "wlc", "rr"
		}, map[string]string{"Scheduler": "rr"}},
		{"empty is absent", ClassCLB, func(s *corev1.Service) {
			s.Annotations[PrefixFormer+"scheduler"], s.Annotations[Prefix+"scheduler"] = "wlc", ""
		}, map[string]string{"Scheduler": "wlc"}},
		{"switches of NLB", ClassNLB, func(s *corev1.Service) { s.Annotations[Prefix+"connection-drain"] = "on" }, map[string]string{"ConnectionDrainEnabled": "true", "ConnectionDrain": ""}},
		{"HTTP health check of NLB", ClassNLB, func(s *corev1.Service) {
			s.Annotations[Prefix+"health-check-type"], s.Annotations[Prefix+"health-check-method"] = "http", "head"
		}, map[string]string{"HealthCheckConfig.HealthCheckType": "HTTP", "HealthCheckConfig.HttpCheckMethod": "HEAD"}},
		{"HTTP listener", ClassCLB, func(s *corev1.Service) { s.Annotations[Prefix+"protocol-port"] = "http:80" }, map[string]string{"HealthCheck": "on", "HealthCheckSwitch": "", "StickySession": "off"}},
		{"affinity of CLB, TCP", ClassCLB, sticky, map[string]string{"PersistenceTimeout": "3600", "Scheduler": "wrr"}},
		{"affinity of CLB, UDP", ClassCLB, func(s *corev1.Service) { sticky(s); s.Spec.Ports[0] = udp(53) }, map[string]string{"Scheduler": "sch", "PersistenceTimeout": ""}},
		{"affinity of CLB, HTTP", ClassCLB, func(s *corev1.Service) { sticky(s); s.Annotations[Prefix+"protocol-port"] = "http:80" },
			map[string]string{"StickySession": "on", "StickySessionType": "insert", "CookieTimeout": "10800"}},
		{"an annotation that is gone leaves its default, NLB", ClassNLB, func(s *corev1.Service) { s.Annotations[Prefix+"health-check-type"] = "http" },
			map[string]string{"HealthCheckConfig.HealthCheckUrl": "/", "HealthCheckConfig.HealthCheckHttpCode": "http_2xx", "HealthCheckConfig.HealthCheckDomain": "$SERVER_IP",
				"HealthCheckConfig.HttpCheckMethod": "GET", "HealthCheckConfig.HealthCheckHttpVersion": "HTTP1.0", "Cps": "0"}},
		{"nothing of HTTP without HTTP checks, NLB", ClassNLB, nil, map[string]string{"HealthCheckConfig.HealthCheckUrl": "", "HealthCheckConfig.HttpCheckMethod": ""}},
		{"nothing of HTTP without HTTP checks, CLB", ClassCLB, nil, map[string]string{"HealthCheckURI": "", "HealthCheckDomain": "", "HealthCheckConnectPort": backendsPort}},
		{"nothing of checks without checks, CLB", ClassCLB, func(s *corev1.Service) { s.Annotations[Prefix+"health-check-switch"] = "off" },
			map[string]string{"HealthCheckSwitch": "off", "HealthyThreshold": "", "HealthCheckInterval": ""}},
		{"nothing of checks without checks, NLB", ClassNLB, func(s *corev1.Service) { s.Annotations[Prefix+"health-check-flag"] = "off" },
			map[string]string{"HealthCheckConfig.HealthCheckEnabled": "false", "HealthCheckConfig.UnhealthyThreshold": "", "Scheduler": "Wrr"}},
		{"drain", ClassCLB, func(s *corev1.Service) { s.Annotations[Prefix+"connection-drain"] = "on" }, map[string]string{"ConnectionDrainTimeout": "300"}},
		{"no drain", ClassCLB, nil, map[string]string{"ConnectionDrain": "off", "ConnectionDrainTimeout": ""}},
		{"name", ClassCLB, func(s *corev1.Service) { s.UID = "01234567-89ab-cdef-0123-456789abcdef" }, map[string]string{"LoadBalancerName": "a0123456789abcdef0123456789abcde"}},
		{"a specification is paid for", ClassCLB, func(s *corev1.Service) { s.Annotations[Prefix+"spec"] = "slb.s2.small" }, map[string]string{"InstanceChargeType": "PayBySpec", "LoadBalancerSpec": "slb.s2.small"}},
		{"capacity units have no specification", ClassCLB, nil, map[string]string{"InstanceChargeType": "PayByCLCU", "LoadBalancerSpec": "", "InternetChargeType": "paybytraffic"}},
		{"intranet has no traffic to pay for", ClassCLB, func(s *corev1.Service) { s.Annotations[Prefix+"address-type"] = "intranet" }, map[string]string{"InternetChargeType": ""}},
		{"a user's load balancer keeps its attributes", ClassCLB, func(s *corev1.Service) { s.Annotations[Prefix+"id"] = "lb-1" }, map[string]string{"LoadBalancerName": "", "AddressType": "", "Scheduler": "wrr"}},
		{"cookie of the server's", ClassCLB, func(s *corev1.Service) {
			sticky(s)
			for k, v := range map[string]string{"protocol-port": "http:80", "sticky-session": "on", "sticky-session-type": "server", "cookie": "c"} {
				s.Annotations[Prefix+k] = v
			}
		}, map[string]string{"StickySessionType": "server", "Cookie": "c", "CookieTimeout": ""}},
		{"affinity of NLB", ClassNLB, sticky, map[string]string{"Scheduler": "sch"}},
		{"UDP of NLB", ClassNLB, func(s *corev1.Service) { s.Spec.Ports[0] = udp(53) }, map[string]string{"HealthCheckConfig.HealthCheckType": "UDP"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := service(c.class, map[string]string{})
			if c.change != nil {
				c.change(s)
			}
			w, err := Read(s, cluster)
			if err != nil {
				t.Fatal(err)
			}
			got := parameters(w)
			for k, v := range c.want {
				if got[k] != v {
					t.Errorf("%s is %q, want %q", k, got[k], v)
				}
			}
		})
	}
}

func sticky(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }

func TestReadRefuses(t *testing.T) {
	for _, c := range []struct {
		name, class, key, value string
		want                    string
		ports                   []corev1.ServicePort
	}{
		{"unknown word", ClassCLB, Prefix + "scheduler", "best", "want wrr, wlc", nil},
		{"out of range", ClassCLB, Prefix + "healthy-threshold", "11", "from 2 to 10", nil},
		{"no number", ClassNLB, Prefix + "healthy-threshold", "3s", "from 2 to 10", nil},
		{"TLS", ClassCLB, Prefix + "cert-id", "x", noTLS, nil},
		{"HTTP on NLB", ClassNLB, Prefix + "protocol-port", "http:80", noHTTPNLB, nil},
		{"https", ClassCLB, Prefix + "protocol-port", "https:80", noTLS, nil},
		{"port that is not there", ClassCLB, Prefix + "protocol-port", "http:81", "no port 81", nil},
		{"protocol of another kind", ClassCLB, Prefix + "protocol-port", "udp:80", "TCP port", nil},
		{"of one product only", ClassNLB, Prefix + "bandwidth", "5", onlyCLB, nil},
		{"misspelled", ClassNLB, Prefix + "schedular", "wrr", "no such annotation", nil},
		{"for no listener", ClassCLB, Prefix + "established-timeout", "10", "has none", []corev1.ServicePort{udp(53)}},
		{"scheduler of UDP only", ClassNLB, Prefix + "scheduler", "qch", "want wrr", nil},
		{"protocol without port", ClassCLB, Prefix + "protocol-port", "http:x", "each port once", nil},
		{"one zone", ClassNLB, Prefix + "zone-maps", "z-a:vsw-a", "two zones", nil},
		{"a zone twice", ClassNLB, Prefix + "zone-maps", "z-a:vsw-a,z-a:vsw-b", "each zone once", nil},
		{"tags", ClassNLB, Prefix + "additional-resource-tags", "a", "KEY=VALUE", nil},
		{"group without id", ClassCLB, Prefix + "vgroup-port", "rsp-x:80", "annotation id", nil},
		{"drain", ClassCLB, AnnotationDrainSeconds, "-1", "0 to 900", nil},
		{"backend type", ClassCLB, AnnotationBackendType, "ecs", "want eni", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Read(service(c.class, map[string]string{c.key: c.value}, c.ports...), cluster)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, part := range []string{c.key, fmt.Sprintf("%q", c.value), c.want} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not contain %q", err, part)
				}
			}
		})
	}
	if _, err := Read(service(ClassNLB, nil, tcp(80), udp(80)), cluster); err == nil || !strings.Contains(err.Error(), `spec.ports[1].protocol: "UDP"`) {
		t.Errorf("mixed protocols: %v", err)
	}
	http := func(more map[string]string) *corev1.Service {
		s := service(ClassCLB, map[string]string{Prefix + "protocol-port": "http:80", Prefix + "sticky-session": "on"})
		maps.Copy(s.Annotations, more)
		return s
	}
	for missing, s := range map[string]*corev1.Service{
		"sticky-session-type": http(nil),
		"cookie-timeout":      http(map[string]string{Prefix + "sticky-session-type": "insert"}),
		"cookie":              http(map[string]string{Prefix + "sticky-session-type": "server"}),
	} {
		if _, err := Read(s, cluster); err == nil || !strings.Contains(err.Error(), Prefix+missing+`: ""`) {
			t.Errorf("sticky session without %s: %v", missing, err)
		}
	}
	for _, a := range []map[string]string{
		{"spec": "slb.s1.small", "instance-charge-type": "PayByCLCU"}, {"bandwidth": "5"}, {"charge-type": "paybybandwidth", "bandwidth": "5"},
		{"charge-type": "paybybandwidth", "spec": "slb.s1.small"}, {"charge-type": "paybytraffic", "address-type": "intranet"}, {"id": "lb-1", "spec": "slb.s1.small"},
		{"id": "lb-1", "additional-resource-tags": "a=b"},
	} {
		s := service(ClassCLB, map[string]string{})
		for k, v := range a {
			s.Annotations[Prefix+k] = v
		}
		if _, err := Read(s, cluster); err == nil {
			t.Errorf("%v is accepted", a)
		}
	}
	for class, want := range map[string]string{ClassCLB: Prefix + "ip", ClassNLB: "vSwitches"} {
		s := service(class, nil)
		s.Spec.LoadBalancerIP = "192.168.0.9"
		if _, err := Read(s, cluster); err == nil || !strings.Contains(err.Error(), `spec.loadBalancerIP: "192.168.0.9": want none`) || !strings.Contains(err.Error(), want) {
			t.Errorf("an address on %s: %v", class, err)
		}
	}
	s := service(ClassNLB, map[string]string{Prefix + "scheduler": "rr"})
	sticky(s)
	if _, err := Read(s, cluster); err == nil || !strings.Contains(err.Error(), "sessionAffinity") {
		t.Errorf("affinity with rr: %v", err)
	}
}

// An affinity that is longer than a CLB can remember is told, and stops nothing.
func TestReadCapsAffinity(t *testing.T) {
	for _, c := range []struct {
		class, persistence string
		seconds            int32
		want               string // the parameter; "": it is not told
	}{
		{ClassCLB, "", 0, "10800"}, {ClassCLB, "", 3601, "3601"}, {ClassCLB, "", 3600, ""}, {ClassCLB, "60", 0, ""}, {ClassNLB, "", 0, ""},
	} {
		s := service(c.class, map[string]string{})
		sticky(s)
		if c.persistence != "" {
			s.Annotations[Prefix+"persistence-timeout"] = c.persistence
		}
		if c.seconds > 0 {
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &c.seconds}}
		}
		w, err := Read(s, cluster)
		if err != nil {
			t.Fatal(err)
		}
		if c.want == "" && w.Capped != nil || c.want != "" && (w.Capped == nil || !strings.Contains(w.Capped.Error(), `timeoutSeconds: "`+c.want+`"`)) {
			t.Errorf("%+v: %v", c, w.Capped)
		}
	}
}

// What is wrong is left out, and the rest is as it would be without it.
func TestReadKeepsWhatIsRight(t *testing.T) {
	read := func(class string, annotations map[string]string, ports ...corev1.ServicePort) *LoadBalancer {
		w, err := Read(service(class, annotations, ports...), cluster)
		if err == nil || w == nil {
			t.Fatalf("%v: %v, %v", annotations, w, err)
		}
		return w
	}
	w := read(ClassCLB, map[string]string{Prefix + "healthy-threshold": "11", Prefix + "scheduler": "wlc"})
	if a := w.Listeners[0].Attributes; a["Scheduler"] != "wlc" || a["HealthyThreshold"] != "" || w.Listeners[0].Wrong {
		t.Errorf("a wrong number: %+v", w)
	}
	w = read(ClassCLB, map[string]string{Prefix + "protocol-port": "https:443"}, tcp(80), tcp(443))
	if w.Listeners[0].Wrong || !w.Listeners[1].Wrong || w.Listeners[1].Protocol != TCP {
		t.Errorf("TLS of one port: %+v", w.Listeners)
	}
	if w = read(ClassCLB, map[string]string{Prefix + "protocol-port": "http"}); !w.Listeners[0].Wrong {
		t.Errorf("a list that cannot be read: %+v", w.Listeners)
	}
	w = read(ClassCLB, map[string]string{Prefix + "default-weight": "0", AnnotationDrainSeconds: "x"})
	if w.DefaultWeight != 100 || w.DrainSeconds != 15 {
		t.Errorf("weight and drain: %+v", w)
	}
	if w = read(ClassCLB, map[string]string{Prefix + "additional-resource-tags": "a=b,c"}); len(w.Tags) > 0 {
		t.Errorf("some of a list that cannot be read: %v", w.Tags)
	}
	w = read(ClassNLB, map[string]string{Prefix + "zone-maps": "z-a:vsw-a,z-b"})
	if len(w.Zones)+len(w.New.Zones) > 0 {
		t.Errorf("some zones of a list that cannot be read: %+v", w)
	}
	s := service(ClassCLB, nil)
	s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/33"}
	if w, err := Read(s, cluster); err == nil || !w.SourcesWrong || !w.Listeners[0].Wrong {
		t.Errorf("a wrong range: %+v, %v", w, err)
	}
}

func TestSources(t *testing.T) {
	for _, class := range []string{ClassCLB, ClassNLB} {
		for ranges, want := range map[string]string{
			"192.0.2.7/24,10.0.0.0/8,192.0.2.0/24": "[10.0.0.0/8 192.0.2.0/24]", "10.0.0.0/8,0.0.0.0/0": "[]",
		} {
			s := service(class, nil)
			s.Spec.LoadBalancerSourceRanges = strings.Split(ranges, ",")
			if w, err := Read(s, cluster); err != nil || fmt.Sprint(w.Sources) != want {
				t.Errorf("%s: %v, %v; want %s", ranges, w, err, want)
			}
		}
		for annotations, ok := range map[string]bool{"": true, "id": false, "id,force-override-listeners": class == ClassCLB, "security-group-ids": class == ClassCLB} {
			s := service(class, map[string]string{})
			s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"}
			for name := range strings.SplitSeq(annotations, ",") {
				if value := map[string]string{"id": "lb-1", "force-override-listeners": "true", "security-group-ids": "sg-1"}[name]; value != "" {
					s.Annotations[Prefix+name] = value
				}
			}
			w, err := Read(s, cluster)
			if refused := err != nil && strings.Contains(err.Error(), "spec.loadBalancerSourceRanges"); refused == ok || ok && len(w.Sources) != 1 || len(w.SecurityGroups) > 0 {
				t.Errorf("%s with %s: %+v, %v", class, annotations, w, err)
			}
		}
		s := service(class, nil)
		s.Spec.LoadBalancerSourceRanges = []string{"2001:db8::/32"}
		if _, err := Read(s, cluster); err == nil || !strings.Contains(err.Error(), `[0]: "2001:db8::/32"`) {
			t.Errorf("IPv6: %v", err)
		}
	}
}

func TestProductOf(t *testing.T) {
	none := service("", nil)
	none.Spec.LoadBalancerClass = nil
	if _, ok := ProductOf(none, cluster); ok {
		t.Error("a Service without class is ours without being told")
	}
	if p, ok := ProductOf(none, Settings{Classes: map[string]Product{"": NLB}}); !ok || p != NLB {
		t.Errorf("%v, %v", p, ok)
	}
	if _, ok := ProductOf(service("alibabacloud.com/nlb", nil), cluster); ok {
		t.Error("the existing manager's class is ours without being told")
	}
	other := service(ClassNLB, nil)
	if other.Spec.Type = corev1.ServiceTypeNodePort; true {
		if _, ok := ProductOf(other, cluster); ok {
			t.Error("a Service of type NodePort is ours")
		}
	}
}

// Each row of the table is done or refused for each product, and a refused annotation is an error.
func TestAnnotationsTable(t *testing.T) {
	if !slices.IsSortedFunc(Annotations, func(a, b Annotation) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("the rows are not sorted by name")
	}
	for i, a := range Annotations {
		if i > 0 && Annotations[i-1].Name == a.Name {
			t.Errorf("%s has two rows", a.Name)
		}
		for class, e := range map[string]effect{ClassCLB: a.clb, ClassNLB: a.nlb} {
			if (e.kind == none) != (e.refused != "") {
				t.Errorf("%s of %s is neither done nor refused, or both", a.Name, class)
			}
			if e.unset != "" {
				continue
			}
			_, err := Read(service(class, map[string]string{Prefix + a.Name: "1"}), cluster)
			if e.refused != "" && (err == nil || !strings.Contains(err.Error(), e.refused)) {
				t.Errorf("%s of %s: %v, want it refused", a.Name, class, err)
			}
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, a := range Annotations {
		f.Add(true, a.Name, "on", "10.0.0.0/8", true)
	}
	f.Add(false, "protocol-port", "http:80,tcp:443", "::/0", false)
	f.Add(false, "zone-maps", "a:b,c:d", "", true)
	f.Fuzz(func(t *testing.T, clb bool, name, value, sources string, affinity bool) {
		class := ClassNLB
		if clb {
			class = ClassCLB
		}
		s := service(class, map[string]string{Prefix + name: value}, tcp(80), tcp(443))
		s.Spec.LoadBalancerSourceRanges = []string{sources}
		if affinity {
			sticky(s)
		}
		w, err := Read(s, cluster)
		if err != nil {
			return
		}
		if len(w.Listeners) != 2 || w.Product == NLB && w.ID == "" && max(len(w.Zones), len(w.New.Zones)) < 2 || w.DefaultWeight < 1 || w.DefaultWeight > 100 {
			t.Errorf("%+v", w)
		}
		for _, l := range w.Listeners {
			if l.Protocol != TCP && (l.Protocol != HTTP || w.Product == NLB) {
				t.Errorf("listener %+v", l)
			}
		}
	})
}
