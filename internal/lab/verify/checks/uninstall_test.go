package checks

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/datapath/claims"
)

// The check runs what the page says.
func TestTeardownIsThePages(t *testing.T) {
	page, err := os.ReadFile("../../../../docs/uninstall.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{teardown, teardownFlannel} {
		if !strings.Contains(string(page), "\n"+command+"\n") {
			t.Errorf("docs/uninstall.md does not have the line %q", command)
		}
	}
}

// What nodes print, with Terway and without.
func TestTraces(t *testing.T) {
	for name, c := range map[string]struct {
		ours    func(string) bool
		with    string
		without string
	}{
		"device": {ourDevice, "7: tw0123456789a@if2: <BROADCAST,MULTICAST,UP> mtu 1500", "2: eth0: <BROADCAST> mtu 1500\n1: lo: <LOOPBACK>\n"},
		"address": {func(l string) bool { return ourAddress(l, netip.MustParseAddr("192.168.0.5")) }, "3: eth1    inet 192.168.1.7/20 scope global eth1\n4: tw0    inet6 2001:db8::1/128 scope global",
			"1: lo    inet 127.0.0.1/8 scope host lo\n1: lo    inet6 ::1/128 scope host\n2: eth0    inet 192.168.0.5/20 brd 192.168.15.255 scope global eth0\n2: eth0    inet6 fe80::1/64 scope link"},
		"IPv6 rule":  {ourRule, "500:\tfrom all lookup 5000", "0:\tfrom all lookup local\n32766:\tfrom all lookup main"},
		"IPv6 route": {ourRoute, "default via fe80::1 dev eth1 table 5001 proto 84 metric 1024 pref medium", "::1 dev lo proto kernel metric 256 pref medium\nlocal ::1 dev lo table local proto kernel metric 0 pref medium\nmulticast ff00::/8 dev eth0 table local proto kernel metric 256 pref medium"},
		"rule":       {ourRule, "500:\tfrom all lookup 5000\n600:\tfrom all fwmark 0x100000/0xfff00000 lookup 5001", "0:\tfrom all lookup local\n32766:\tfrom all lookup main\n32767:\tfrom all lookup default\n"},
		"route": {ourRoute, "default via 192.168.0.253 dev eth1 table 5001\n192.168.1.7 dev tw0123456789a scope link",
			"default via 192.168.0.253 dev eth0\nlocal 127.0.0.1 dev lo table local proto kernel\n192.168.0.0/20 dev eth0 proto kernel scope link"},
	} {
		for _, line := range strings.Split(c.with, "\n") {
			if !c.ours(line) {
				t.Errorf("%s: %q is not seen", name, line)
			}
		}
		for _, line := range strings.Split(c.without, "\n") {
			if c.ours(line) {
				t.Errorf("%s: %q is taken for Terway's", name, line)
			}
		}
	}
	for name, want := range map[string]bool{"terwayd": true, "terway-webhook": true, "nodenetworks.network.terway.dev": true, "networkpolicies.projectcalico.org": false,
		"sh.helm.release.v1.terway.v1": false, "coredns": false, "kube-root-ca.crt": false} {
		if got := ofChart(&metav1.ObjectMeta{Name: name}); got != want {
			t.Errorf("%s: of the chart: %v", name, got)
		}
	}
	if !ofChart(&metav1.ObjectMeta{Name: "eni-config", Labels: map[string]string{"app.kubernetes.io/part-of": "terway"}}) {
		t.Error("the label is not seen")
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{claims.AnnotationMaxPods: "9", "other": ""}},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: claims.TaintNotReady}, {Key: "other"}}}}
	if got := marks(n); len(got) != 2 {
		t.Errorf("marks %q, want 2", got)
	}
}
