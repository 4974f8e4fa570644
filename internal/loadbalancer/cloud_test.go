package loadbalancer_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/loadbalancer"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/state"
)

// What a Service wants is what the cloud then reports: nothing is left to be set. Each row changes the load
// balancer of the row before, so annotations come and go.
func TestTheCloudReportsWhatIsWanted(t *testing.T) {
	sim, err := vpcsim.New(vpcsim.Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	write := func(change func(state.API) error) {
		t.Helper()
		if err := sim.Write(t.Context(), change); err != nil {
			t.Fatal(err)
		}
	}
	vpc, vswitches := "", map[string]string{}
	write(func(a state.API) error {
		v, err := a.CreateVpc(state.CreateVpcRequest{CidrBlock: "192.168.0.0/16"})
		if err == nil {
			vpc = v.VpcId
		}
		return err
	})
	var settings loadbalancer.Settings
	settings.PodBackends = true
	for zone, cidr := range map[string]string{"cn-hangzhou-i": "192.168.0.0/19", "cn-hangzhou-h": "192.168.32.0/19"} {
		write(func(a state.API) (err error) {
			vswitches[zone], err = a.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc, ZoneId: zone, CidrBlock: cidr})
			return err
		})
		settings.Zones = append(settings.Zones, loadbalancer.Zone{ID: zone, VSwitch: vswitches[zone]})
	}
	account := sim.Account()
	client, err := alibaba.New(alibaba.Config{Region: sim.Region(), ECSEndpoint: sim.Endpoint(), VPCEndpoint: sim.Endpoint(),
		SLBEndpoint: sim.Endpoint(), NLBEndpoint: sim.Endpoint(), Attempts: 2, Credentials: alibaba.StaticCredentials(account.AccessKeyID, account.AccessKeySecret)})
	if err != nil {
		t.Fatal(err)
	}

	type m = map[string]string
	for class, rows := range map[string][]m{
		loadbalancer.ClassCLB: {
			{},
			{"health-check-type": "http", "health-check-domain": "example.com", "health-check-uri": "/x", "health-check-httpcode": "http_3xx,http_2xx", "health-check-method": "get"},
			{"health-check-connect-port": "8080", "connection-drain": "on", "connection-drain-timeout": "30", "spec": "slb.s2.small", "name": "other"},
			{"health-check-switch": "off", "scheduler": "wlc", "established-timeout": "100", "delete-protection": "off", "modification-protection": "NonProtection"},
			{"charge-type": "paybybandwidth", "bandwidth": "7", "spec": "slb.s2.small", "persistence-timeout": "60"},
			{"affinity": "on"},
			{"protocol-port": "http:80", "sticky-session": "on", "sticky-session-type": "server", "cookie": "c", "idle-timeout": "20", "xforwardedfor-proto": "on"},
			{"protocol-port": "http:80", "affinity": "on", "health-check-flag": "off"},
			{"protocol-port": "http:80", "request-timeout": "7", "health-check-timeout": "3"},
			{},
			{"udp": "on", "unhealthy-threshold": "9"},
		},
		loadbalancer.ClassNLB: {
			{},
			{"health-check-type": "http", "health-check-domain": "example.com", "health-check-uri": "/x", "health-check-httpcode": "http_3xx,http_2xx", "health-check-method": "head", "health-check-http-version": "HTTP1.1"},
			{"health-check-connect-port": "8080", "connection-drain": "on", "connection-drain-timeout": "30", "cross-zone-enabled": "off", "address-type": "intranet", "name": "other"},
			{"health-check-flag": "off", "scheduler": "wlc", "established-timeout": "100", "delete-protection": "off", "preserve-client-ip": "off", "cps": "5"},
			{"affinity": "on", "modification-protection": "NonProtection"},
			{},
			{"udp": "on", "scheduler": "qch"},
		},
	} {
		t.Run(class, func(t *testing.T) {
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			ctx, api := t.Context(), client.CLB()
			if class == loadbalancer.ClassNLB {
				api = client.NLB()
			}
			id := ""
			for _, row := range rows {
				svc := &corev1.Service{}
				svc.UID, svc.Annotations = "01234567-89ab-cdef-0123-456789abcdef", m{}
				svc.Spec.Type, svc.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, &class
				svc.Spec.Ports = []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}
				for name, v := range row {
					switch name {
					case "affinity":
						svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
					case "udp":
						svc.Spec.Ports[0].Protocol = corev1.ProtocolUDP
					default:
						svc.Annotations[loadbalancer.Prefix+name] = v
					}
				}
				w, err := loadbalancer.Read(svc, settings)
				must(err)
				l := w.Listeners[0]
				name := loadbalancer.Name(svc.UID, l)
				if id == "" {
					want := cloud.NewBalancer{Token: "t", VPC: vpc, Tags: m{"s": "1"}, Settings: maps.Clone(w.Attributes)}
					if w.Product == loadbalancer.NLB {
						want.Zones = vswitches
					}
					id, err = api.CreateBalancer(ctx, want)
					must(err)
				}
				get := func() *cloud.Balancer {
					b, err := api.DescribeBalancer(ctx, id)
					must(err)
					for ; !b.Ready; b, err = api.DescribeBalancer(ctx, id) {
						must(err)
						time.Sleep(10 * time.Millisecond)
					}
					return b
				}
				set := func(kind loadbalancer.Kind, wanted m, is func() m, change func(m) error) {
					t.Helper()
					diff, err := loadbalancer.Differences(w.Product, kind, wanted, is())
					must(err)
					if len(diff) > 0 {
						must(change(diff))
					}
					now := is()
					if left, err := loadbalancer.Differences(w.Product, kind, wanted, now); err != nil || len(left) > 0 {
						t.Errorf("%v: %v is still to be set, of %v; the cloud says %v; %v", row, left, wanted, now, err)
					}
				}
				set(loadbalancer.OfLoadBalancer, w.Attributes, func() m { return get().Settings }, func(s m) error { return api.SetBalancer(ctx, id, s) })

				group := func() *cloud.Group {
					all, err := api.ListGroups(ctx, id, "s", "1")
					must(err)
					for i := range all {
						if all[i].Name == name {
							return &all[i]
						}
					}
					return nil
				}
				if group() == nil {
					protocol := "TCP"
					if l.Protocol == loadbalancer.UDP {
						protocol = "UDP"
					}
					_, err := api.CreateGroup(ctx, id, cloud.NewGroup{Token: name, Name: name, Protocol: protocol, VPC: vpc, Tags: m{"s": "1"}, Settings: l.Group})
					must(err)
				}
				set(loadbalancer.OfGroup, l.Group, func() m { return group().Settings }, func(s m) error { return api.SetGroup(ctx, group().ID, s) })

				listener := func() *cloud.Listener {
					all, err := api.ListListeners(ctx, id)
					must(err)
					at := slices.IndexFunc(all, func(x cloud.Listener) bool { return x.Protocol == string(l.Protocol) })
					for i := range all {
						if i != at {
							must(api.DeleteListener(ctx, all[i]))
						}
					}
					if at < 0 {
						return nil
					}
					return &all[at]
				}
				if listener() == nil {
					must(api.CreateListener(ctx, id, cloud.Listener{Balancer: id, Port: 80, Protocol: string(l.Protocol), Group: group().ID, Description: name, Settings: l.Attributes}))
				}
				set(loadbalancer.OfListener, l.Attributes, func() m { return listener().Settings }, func(s m) error { return api.SetListener(ctx, *listener(), s) })
			}
		})
	}
}
