package fabric_test

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/testutil"
)

// A container network may move an ENI into a pod's namespace; when that namespace is destroyed,
// a real card returns to the instance.
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
	w.apply() // an ENI that a guest has moved stays where it is
	pod.Run("ping", "-c1", "-W5", "10.1.0.2")
	if len(lost) != 0 {
		t.Error("a device counts as lost that is not")
	}

	pod.Remove()
	await(t, lost, "that the ENI's device is gone")
	w.apply()
	if out := w.run(1, "ip", "-o", "link", "show", "eth1"); !strings.Contains(out, "00:16:3e:00:00:09") {
		t.Errorf("the ENI's device is not back: %s", out)
	}
}

func await(t *testing.T, lost <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-lost:
	case <-time.After(30 * time.Second):
		t.Fatalf("lost was not called: %s", what)
	}
}

// The kernel breaks the socket of a reader that is too slow. The missed changes are found, and
// later ones are received.
func TestWatchingGoesOnAfterABrokenSocket(t *testing.T) {
	w := newWorld(t, nil)
	lost := make(chan struct{}, 16)
	w.f.Notify(func() { lost <- struct{}{} })
	in := w.instance(1)
	in.Ports = append(in.Ports, w.eni(9, false))
	w.apply()
	pod := testutil.NewNS(t, "pod")
	w.run(1, "ip", "link", "set", "eth1", "netns", pod.Name)

	if n := narrowLinkSockets(t); n == 0 {
		t.Fatal("no socket listens to devices")
	}
	deadline := time.Now().Add(30 * time.Second)
	for len(lost) == 0 && time.Now().Before(deadline) {
		err := kernel.InNSAt("/run/netns/"+w.opts.Prefix+"fabric", func() error {
			v := netlink.NewVeth(netlink.LinkAttrs{Name: "burst", TxQLen: -1})
			v.PeerName = "burst2"
			if err := netlink.LinkAdd(v); err != nil {
				return err
			}
			return netlink.LinkDel(v)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	await(t, lost, "that the socket broke")
	if len(lost) != 0 {
		t.Error("the new socket broke too")
	}
	pod.Remove()
	await(t, lost, "by the new socket that the ENI's device is gone")
}

// narrowLinkSockets sets the smallest possible buffer on this process's netlink sockets that
// watch devices, and returns their number.
func narrowLinkSockets(t *testing.T) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range fds {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		address, _ := unix.Getsockname(fd) // most are not sockets
		socket, ok := address.(*unix.SockaddrNetlink)
		if !ok || socket.Groups&(1<<(unix.RTNLGRP_LINK-1)) == 0 {
			continue
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}
