package checks

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/datapath/claims"
)

// What nodes print, with Terway and without.
func TestTraces(t *testing.T) {
	for name, c := range map[string]struct {
		ours    func(string) bool
		with    string
		without string
	}{
		"device": {ourDevice, "7: tw0123456789a@if2: <BROADCAST,MULTICAST,UP> mtu 1500", "2: eth0: <BROADCAST> mtu 1500\n1: lo: <LOOPBACK>\n"},
		"rule":   {ourRule, "500:\tfrom all lookup 5000\n600:\tfrom all fwmark 0x100000/0xfff00000 lookup 5001", "0:\tfrom all lookup local\n32766:\tfrom all lookup main\n32767:\tfrom all lookup default\n"},
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
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{claims.AnnotationMaxPods: "9", "other": ""}},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: claims.TaintNotReady}, {Key: "other"}}}}
	if got := marks(n); got != 2 {
		t.Errorf("%d marks, want 2", got)
	}
}
