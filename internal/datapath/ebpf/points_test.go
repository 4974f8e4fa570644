package ebpf

import (
	"fmt"
	"net"
	"testing"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/exclusive"
	"terway.dev/terway/internal/datapath/node"
	"terway.dev/terway/internal/datapath/object"
)

// A pod is judged at the node's end of its pair if all its packets pass there, and where else they pass.
func TestHooksOf(t *testing.T) {
	host := claims.HostIfName("sandbox", "eth0")
	own := &datapath.ENI{MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, 0xff, 1}}
	for _, c := range []struct {
		kind  node.Kind
		inner string
		eni   *datapath.ENI
		want  string
	}{
		{node.Plain{KindName: claims.Route}, "eth0", nil, "[device " + host + "]"},
		{New(4096), "eth0", nil, "[]"},
		{exclusive.New(), claims.ExclusiveIfName, own, "[device " + host + " device eth0 of the pod]"},
	} {
		p := &node.Pod{
			Pod:  datapath.Pod{IfName: "eth0", Exclusive: c.eni},
			Host: object.Device{Name: host}, Inner: object.Device{Name: c.inner, InPod: true},
		}
		devices := []object.Device{}
		for _, at := range hooksOf(p, c.kind.Points(p)) {
			devices = append(devices, at.Device)
		}
		if got := fmt.Sprint(devices); got != c.want {
			t.Errorf("kind %s: %s, want %s", c.kind.Name(), got, c.want)
		}
	}
	// One program has both directions of an ENI, by the class.
	if hooks := ownHooks(own.MAC).Hooks; hooks[0].Class != 0x7f01 || hooks[1].Class != 0xff01 {
		t.Errorf("classes %#x and %#x", hooks[0].Class, hooks[1].Class)
	}
}
