package fabric_test

import (
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/testutil"
)

// A container network may move an ENI into a pod's namespace; when that namespace is
// destroyed a real card is back in the instance.
func TestAnENIComesBackFromADestroyedNamespace(t *testing.T) {
	w := newWorld(t, nil)
	lost := make(chan struct{}, 16)
	w.f.Notify(func() { lost <- struct{}{} })
	in := w.instance(1)
	in.Ports = append(in.Ports, w.eni(9, false))
	w.instance(2)
	w.apply()

	pod := testutil.NewNS(t, "pod")
	w.run(1, "ip", "link", "set", "eth1", "netns", pod.Name)
	pod.IP("link set eth1 up")
	pod.IP("addr add 10.1.0.9/32 dev eth1")
	pod.IP("route add default via 10.1.0.253 dev eth1 onlink")
	pod.Run("ping", "-c1", "-W5", "10.1.0.2")
	w.apply() // an ENI that a guest has moved is left where it is
	pod.Run("ping", "-c1", "-W5", "10.1.0.2")
	if len(lost) != 0 {
		t.Error("a device counts as lost that is not")
	}

	pod.Remove()
	select {
	case <-lost:
	case <-time.After(30 * time.Second):
		t.Fatal("nobody was told that the ENI's device is gone")
	}
	w.apply()
	if out := w.run(1, "ip", "-o", "link", "show", "eth1"); !strings.Contains(out, "00:16:3e:00:00:09") {
		t.Errorf("the ENI's device is not back: %s", out)
	}
}
