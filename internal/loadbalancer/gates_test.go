package loadbalancer

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func lbService(name, class string, selector map[string]string, drain string) corev1.Service {
	s := corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Selector: selector}}
	if class != "" {
		s.Spec.LoadBalancerClass = &class
	}
	if drain != "" {
		s.Annotations = map[string]string{AnnotationDrainSeconds: drain}
	}
	return s
}

func TestNeedsOfAPod(t *testing.T) {
	web := map[string]string{"app": "web"}
	none := lbService("cluster-ip", ClassCLB, web, "")
	none.Spec.Type = corev1.ServiceTypeClusterIP
	going := lbService("going", ClassCLB, web, "")
	going.DeletionTimestamp = &metav1.Time{}
	for name, c := range map[string]struct {
		services []corev1.Service
		settings Settings
		gates    []corev1.PodConditionType
		sleep    int
	}{
		"two products": {[]corev1.Service{lbService("z", ClassNLB, web, ""), lbService("a", ClassCLB, web, "")}, Settings{PodBackends: true},
			[]corev1.PodConditionType{Gate("a"), Gate("z")}, 15},
		"the longest drain counts": {[]corev1.Service{lbService("a", ClassCLB, web, "0"), lbService("b", ClassCLB, web, "40"), lbService("c", ClassCLB, web, "3")}, Settings{PodBackends: true},
			[]corev1.PodConditionType{Gate("a"), Gate("b"), Gate("c")}, 40},
		"drain off":           {[]corev1.Service{lbService("a", ClassCLB, web, "0")}, Settings{PodBackends: true}, []corev1.PodConditionType{Gate("a")}, 0},
		"a wrong drain":       {[]corev1.Service{lbService("a", ClassCLB, web, "1m")}, Settings{PodBackends: true}, []corev1.PodConditionType{Gate("a")}, 15},
		"not selected":        {[]corev1.Service{lbService("a", ClassCLB, map[string]string{"app": "db"}, "")}, Settings{PodBackends: true}, nil, 0},
		"no selector":         {[]corev1.Service{lbService("a", ClassCLB, nil, "")}, Settings{PodBackends: true}, nil, 0},
		"no load balancer":    {[]corev1.Service{none, going}, Settings{PodBackends: true}, nil, 0},
		"of others":           {[]corev1.Service{lbService("a", "", web, ""), lbService("b", "alibabacloud.com/nlb", web, "")}, Settings{PodBackends: true}, nil, 0},
		"of others, taken":    {[]corev1.Service{lbService("a", "", web, "")}, Settings{PodBackends: true, Classes: map[string]Product{"": CLB}}, []corev1.PodConditionType{Gate("a")}, 15},
		"by way of NodePorts": {[]corev1.Service{lbService("a", ClassCLB, web, "")}, Settings{}, nil, 0},
	} {
		n := NeedsOf(c.services, map[string]string{"app": "web", "x": "y"}, c.settings)
		if !slices.Equal(n.Gates, c.gates) || n.Sleep != c.sleep {
			t.Errorf("%s: %+v, want %v and %d", name, n, c.gates, c.sleep)
		}
	}
}

func TestNeedlessGates(t *testing.T) {
	web, s := map[string]string{"app": "web"}, Settings{PodBackends: true}
	ours, other, going := lbService("a", ClassCLB, web, ""), lbService("a", "other", web, ""), lbService("a", ClassCLB, web, "")
	going.DeletionTimestamp = &metav1.Time{}
	for want, svc := range map[string]*corev1.Service{"": &ours, GateServiceGone: nil, GateNotLoadBalancer: &other} {
		if reason, message, ok := Needless("a", svc, web, s); reason != want || ok != (want != "") || ok != (message != "") {
			t.Errorf("%s (%s), want %q", reason, message, want)
		}
	}
	if reason, _, _ := Needless("a", &going, web, s); reason != GateNotLoadBalancer {
		t.Errorf("being deleted: %q", reason)
	}
	if reason, _, _ := Needless("a", &ours, map[string]string{"app": "db"}, s); reason != GateNotSelected {
		t.Errorf("not selected: %q", reason)
	}
}

func TestGatesOfAPod(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{ReadinessGates: []corev1.PodReadinessGate{{ConditionType: "other/a"}, {ConditionType: Gate("b")}, {ConditionType: Gate("a")}}},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: Gate("a"), Status: corev1.ConditionTrue}, {Type: Gate("b"), Status: corev1.ConditionFalse}}}}
	if got := GatesOf(pod); !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("gates of %v", got)
	}
	if !IsOpen(pod, "a") || IsOpen(pod, "b") || IsOpen(pod, "c") {
		t.Error("want the gate of a to be open, and no other")
	}
}

func TestHasPort(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		Containers:     []corev1.Container{{}, {Ports: []corev1.ContainerPort{{Name: "dns", Protocol: corev1.ProtocolUDP}, {Name: "web"}}}},
		InitContainers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "init"}}}, {Ports: []corev1.ContainerPort{{Name: "sidecar"}}, RestartPolicy: &always}},
	}}
	for name, want := range map[string]bool{"web": true, "sidecar": true, "dns": false, "init": false, "": false, "80": false} {
		if is := HasPort(pod, &corev1.ServicePort{TargetPort: intstr.FromString(name), Protocol: corev1.ProtocolTCP}); is != want {
			t.Errorf("port %q: %v", name, is)
		}
	}
	if !HasPort(pod, &corev1.ServicePort{TargetPort: intstr.FromString("dns"), Protocol: corev1.ProtocolUDP}) || !HasPort(pod, &corev1.ServicePort{TargetPort: intstr.FromInt32(81)}) ||
		!HasPort(pod, &corev1.ServicePort{Port: 81}) {
		t.Error("want its UDP port, and all numbers")
	}
}
