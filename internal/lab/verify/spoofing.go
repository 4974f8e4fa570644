package verify

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/lab"
)

var noSpoofing = Check{
	Name:   "no-spoofing",
	About:  "a pod's packets with another's address do not leave its node, and the VPC drops a node's frames with a foreign MAC or address",
	NotFor: map[string]string{lab.NetworkFlannel: "Flannel does not check what pods send: a pod with NET_ADMIN can take another's address"},
	Run: func(ctx context.Context, e *Env) (string, error) {
		na, nb, err := e.twoNodes()
		if err != nil {
			return "", err
		}
		spec := e.podSpec(na.Name)
		spec.Containers[0].SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN", "NET_RAW"}}}
		if err := e.pod(ctx, "thief", spec); err != nil {
			return "", err
		}
		others, err := e.podOn(ctx, na, nb)
		if err != nil {
			return "", err
		}
		thief, err := e.ready(ctx, "thief")
		if err != nil {
			return "", err
		}
		victim, target := others[0], others[1]
		inPod, err := e.spoofInPod(ctx, na, nb, thief[0], victim, target)
		if err != nil {
			return inPod, err
		}
		onNode, err := e.spoofOnNode(ctx, na, nb, victim, target)
		return inPod + "; " + onNode, err
	},
}

// spoofInPod sends from a pod with the address of another pod and with its node's. A pod
// with an ENI to itself does so by the ENI and by its veth to the node.
func (e *Env) spoofInPod(ctx context.Context, na, nb lab.Machine, thief, owner, far corev1.Pod) (string, error) {
	target := far.Status.PodIP
	forged := []string{owner.Status.PodIP, na.Address.String()}
	for _, src := range forged {
		if _, err := e.exec(ctx, thief.Name, "ip", "addr", "add", src+"/32", "dev", "eth0"); err != nil {
			return "", err
		}
	}
	measured, err := e.sendForged(ctx, na, nb, thief, far, forged, "eth0")
	if err != nil {
		return measured, err
	}
	if e.exclusive(na.Name) {
		if _, err := e.exec(ctx, thief.Name, "ip", "route", "add", target+"/32", "via", "169.254.1.1", "dev", "veth1", "onlink"); err != nil {
			return measured, err
		}
		more, err := e.sendForged(ctx, na, nb, thief, far, forged, "veth1")
		if measured += "; " + more; err != nil {
			return measured, err
		}
		if _, err := e.exec(ctx, thief.Name, "ip", "route", "del", target+"/32", "dev", "veth1"); err != nil {
			return measured, err
		}
	}
	if _, err := e.curl(ctx, thief.Name, url(target, httpPort, "clientip"), "--interface", thief.Status.PodIP); err != nil {
		return measured, fmt.Errorf("the pod's own address does not work any more: %w", err)
	}
	return measured, nil
}

// sendForged sends with forged sources and counts what leaves the pod by a device, what
// the node sends on, and what arrives.
func (e *Env) sendForged(ctx context.Context, na, nb lab.Machine, thief, far corev1.Pod, forged []string, device string) (string, error) {
	target := far.Status.PodIP
	pod, err := podNetNS(thief)
	if err != nil {
		return "", err
	}
	ifaces, err := e.interfaces(ctx, na)
	if err != nil {
		return "", err
	}
	if e.exclusive(na.Name) {
		// The others are on their way into pods.
		_, secondary, err := e.macs(ctx, na)
		if err != nil {
			return "", err
		}
		maps.DeleteFunc(ifaces, func(_ string, l netlink.LinkAttrs) bool { return secondary[l.HardwareAddr.String()] })
	}
	by, err := e.carrier(ctx, nb, far)
	if err != nil {
		return "", err
	}
	left, err := sniff(pod, device)
	if err != nil {
		return "", err
	}
	wire, err := sniff(na.NetNS, deviceNames(ifaces)...)
	if err != nil {
		return "", errors.Join(err, left.close())
	}
	there, err := sniff(by.netns, by.dev.Name)
	if err != nil {
		return "", errors.Join(err, left.close(), wire.close())
	}
	var reached []string
	for _, src := range forged {
		if _, err := e.curl(ctx, thief.Name, url(target, httpPort, "clientip"), "--interface", src, "--max-time", "2"); err == nil {
			reached = append(reached, src)
		}
	}
	count := func(c *capture) (n int, err error) {
		frames, err := c.stop()
		for _, f := range frames {
			for _, src := range forged {
				if f.src == netip.MustParseAddr(src) && f.dst == netip.MustParseAddr(target) {
					n++
				}
			}
		}
		return n, err
	}
	sent, err1 := count(left)
	crossed, err2 := count(wire)
	arrived, err3 := count(there)
	if err := errors.Join(err1, err2, err3); err != nil {
		return "", err
	}
	measured := fmt.Sprintf("a pod sent %d packets as %v by %s: %d crossed an interface of %s, %d arrived", sent, forged, device, crossed, na.Name, arrived)
	switch {
	case sent == 0:
		return measured, errors.New("no forged packet left the pod: nothing was tested")
	case crossed+arrived > 0 || len(reached) > 0:
		return measured, fmt.Errorf("forged packets got through; answers came to %v", reached)
	}
	return measured, nil
}

// spoofOnNode sends raw frames on an interface of a node, as a broken-into node could, also
// where the interface is in a pod.
func (e *Env) spoofOnNode(ctx context.Context, na, nb lab.Machine, owner, there corev1.Pod) (string, error) {
	own, target := owner.Status.PodIP, there.Status.PodIP
	near, err := e.carrier(ctx, na, owner)
	if err != nil {
		return "", err
	}
	dev := near.dev
	far, err := e.carrier(ctx, nb, there)
	if err != nil {
		return "", err
	}
	foreign := netip.MustParseAddr("192.168.200.200")
	otherMAC := net.HardwareAddr{0x02, 0, 0, 0, 0, 0x01}
	ownIP, dst := netip.MustParseAddr(own), netip.MustParseAddr(target)
	const each = 20
	// The ports tell the kinds apart at the far end.
	kinds := []struct {
		name string
		mac  net.HardwareAddr
		src  netip.Addr
		port uint16
		want int
	}{
		{"its own MAC and address", dev.HardwareAddr, ownIP, 40001, each},
		{"a foreign address", dev.HardwareAddr, foreign, 40002, 0},
		{"a foreign MAC", otherMAC, ownIP, 40003, 0},
	}
	c, err := sniff(far.netns, far.dev.Name)
	if err != nil {
		return "", err
	}
	var sendErrs []error
	for _, k := range kinds {
		frame := udpFrame(k.mac, k.src, dst, k.port)
		for range each {
			sendErrs = append(sendErrs, sendFrame(near.netns, dev, frame))
		}
	}
	// The good frames were sent first, in order; when they are all there, so would the others be.
	frames, err := c.stop()
	if err := errors.Join(append(sendErrs, err)...); err != nil {
		return "", err
	}
	got := map[uint16]int{}
	for _, f := range frames {
		if f.dst == dst && f.proto == unix.IPPROTO_UDP {
			got[f.dstPort]++
		}
	}
	measured := fmt.Sprintf("of %d frames each from %s of %s", each, dev.Name, na.Name)
	var wrong []error
	for _, k := range kinds {
		measured += fmt.Sprintf(", %d with %s arrived", got[k.port], k.name)
		if got[k.port] != k.want {
			wrong = append(wrong, fmt.Errorf("%d frames with %s arrived, want %d", got[k.port], k.name, k.want))
		}
	}
	return measured, errors.Join(wrong...)
}

// vpcMAC is the virtual MAC that a VPC answers for every address.
var vpcMAC = net.HardwareAddr{0xee, 0xff, 0xff, 0xff, 0xff, 0xff}

// udpFrame is an Ethernet frame with an empty UDP datagram.
func udpFrame(mac net.HardwareAddr, src, dst netip.Addr, port uint16) []byte {
	b := append(append([]byte{}, vpcMAC...), mac...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], 28)
	s, d := src.As4(), dst.As4()
	copy(ip[12:], s[:])
	copy(ip[16:], d[:])
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
	b = append(b, ip...)
	b = binary.BigEndian.AppendUint16(b, 40000) // source port
	b = binary.BigEndian.AppendUint16(b, port)
	b = binary.BigEndian.AppendUint16(b, 8) // length
	return binary.BigEndian.AppendUint16(b, 0)
}

func sendFrame(path string, dev netlink.LinkAttrs, frame []byte) error {
	return kernel.InNSAt(path, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a packet socket: %w", err)
		}
		defer unix.Close(fd)
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index}); err != nil {
			return fmt.Errorf("send on %s: %w", dev.Name, err)
		}
		return nil
	})
}
