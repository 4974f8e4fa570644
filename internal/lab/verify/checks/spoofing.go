package checks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var noSpoofing = verify.Check{
	Name:   "no-spoofing",
	About:  "packets of a pod with a foreign source address do not leave its node, and the VPC drops a node's frames with a foreign MAC or address",
	NotFor: map[string]string{lab.NetworkFlannel: "Flannel does not check what pods send: a pod with NET_ADMIN can take another's address"},
	Beside: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		spec := e.PodSpec(na.Name)
		spec.Containers[0].SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN", "NET_RAW"}}}
		if err := e.CreatePod(ctx, "thief", spec); err != nil {
			return "", err
		}
		others, err := e.PodOn(ctx, na, nb)
		if err != nil {
			return "", err
		}
		thief, err := e.Ready(ctx, "thief")
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
	}),
}

// spoofInPod sends from a pod with the address of another pod and with its node's. A pod with
// an exclusive ENI does so on the ENI and on its veth to the node.
func (e *env) spoofInPod(ctx context.Context, na, nb lab.Machine, thief, owner, far corev1.Pod) (string, error) {
	target := far.Status.PodIP
	forged := []string{owner.Status.PodIP, na.Address.String()}
	for _, src := range forged {
		if _, err := e.Exec(ctx, thief.Name, "ip", "addr", "add", src+"/32", "dev", "eth0"); err != nil {
			return "", err
		}
	}
	measured, err := e.sendForged(ctx, na, nb, thief, far, forged, "eth0")
	if err != nil {
		return measured, err
	}
	if e.Exclusive(na.Name) {
		if _, err := e.Exec(ctx, thief.Name, "ip", "route", "add", target+"/32", "via", "169.254.1.1", "dev", "veth1", "onlink"); err != nil {
			return measured, err
		}
		more, err := e.sendForged(ctx, na, nb, thief, far, forged, "veth1")
		if measured += "; " + more; err != nil {
			return measured, err
		}
		if _, err := e.Exec(ctx, thief.Name, "ip", "route", "del", target+"/32", "dev", "veth1"); err != nil {
			return measured, err
		}
	}
	if _, err := e.Curl(ctx, thief.Name, instruments.URL(target, instruments.HTTPPort, "clientip"), "--interface", thief.Status.PodIP); err != nil {
		return measured, fmt.Errorf("the pod's own address does not work any more: %w", err)
	}
	return measured, nil
}

// sendForged sends with forged sources and counts the packets that leave the pod by a device,
// that the node forwards, and that arrive.
func (e *env) sendForged(ctx context.Context, na, nb lab.Machine, thief, far corev1.Pod, forged []string, device string) (string, error) {
	target := far.Status.PodIP
	pod, err := instruments.PodNetNS(thief)
	if err != nil {
		return "", err
	}
	ifaces, err := e.Interfaces(ctx, na)
	if err != nil {
		return "", err
	}
	if e.Exclusive(na.Name) {
		// The other interfaces lead into pods.
		_, secondary, err := e.MACs(ctx, na)
		if err != nil {
			return "", err
		}
		maps.DeleteFunc(ifaces, func(_ string, l netlink.LinkAttrs) bool { return secondary[l.HardwareAddr.String()] })
	}
	by, err := e.Carrier(ctx, nb, far)
	if err != nil {
		return "", err
	}
	left, err := instruments.Sniff(pod, device)
	if err != nil {
		return "", err
	}
	wire, err := instruments.Sniff(na.NetNS, deviceNames(ifaces)...)
	if err != nil {
		return "", errors.Join(err, left.Close())
	}
	there, err := instruments.Sniff(by.NetNS, by.Dev.Name)
	if err != nil {
		return "", errors.Join(err, left.Close(), wire.Close())
	}
	var reached []string
	for _, src := range forged {
		if _, err := e.Curl(ctx, thief.Name, instruments.URL(target, instruments.HTTPPort, "clientip"), "--interface", src, "--max-time", "2"); err == nil {
			reached = append(reached, src)
		}
	}
	count := func(c *instruments.Capture) (n int, err error) {
		frames, err := c.Stop()
		for _, f := range frames {
			for _, src := range forged {
				if f.Src == netip.MustParseAddr(src) && f.Dst == netip.MustParseAddr(target) {
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

// spoofOnNode sends raw frames on an ENI of a node, as a compromised node could, also if the
// ENI is in a pod.
func (e *env) spoofOnNode(ctx context.Context, na, nb lab.Machine, owner, there corev1.Pod) (string, error) {
	own, target := owner.Status.PodIP, there.Status.PodIP
	near, err := e.Carrier(ctx, na, owner)
	if err != nil {
		return "", err
	}
	dev := near.Dev
	far, err := e.Carrier(ctx, nb, there)
	if err != nil {
		return "", err
	}
	foreign := netip.MustParseAddr("192.168.200.200")
	otherMAC := net.HardwareAddr{0x02, 0, 0, 0, 0, 0x01}
	ownIP, dst := netip.MustParseAddr(own), netip.MustParseAddr(target)
	const each = 20
	// The ports identify the kinds at the destination.
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
	c, err := instruments.Sniff(far.NetNS, far.Dev.Name)
	if err != nil {
		return "", err
	}
	var sendErrs []error
	for _, k := range kinds {
		frame := instruments.UDPFrame(k.mac, k.src, dst, k.port)
		for range each {
			sendErrs = append(sendErrs, instruments.SendFrame(near.NetNS, dev, frame))
		}
	}
	// The valid frames were sent first: when all of them have arrived, the others would have
	// too.
	frames, err := c.Stop()
	if err := errors.Join(append(sendErrs, err)...); err != nil {
		return "", err
	}
	got := map[uint16]int{}
	for _, f := range frames {
		if f.Dst == dst && f.Proto == unix.IPPROTO_UDP {
			got[f.DstPort]++
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
