package checks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var samePod = verify.Check{
	Name:  "pod-to-pod-same-node",
	About: "pods on one node reach each other without the VPC; pods with exclusive ENIs reach each other through the VPC, without the node",
	Run: run(func(ctx context.Context, e *env) (string, error) {
		m := e.Lab.Machines[0]
		pods, err := e.PodOn(ctx, m, m)
		if err != nil {
			return "", err
		}
		a, b := pods[0], pods[1]
		if e.Exclusive(m.Name) {
			return e.sameNodeExclusive(ctx, m, a, b)
		}
		ports, err := e.ports(ctx, m)
		if err != nil {
			return "", err
		}
		before, podBefore, err := e.counters(ports, a)
		if err != nil {
			return "", err
		}
		c, err := instruments.Sniff(e.Lab.Cloud.FabricNS, ports...)
		if err != nil {
			return "", err
		}
		frames, err := e.talk(ctx, a, b, c)
		if err != nil {
			return "", err
		}
		after, podAfter, err := e.counters(ports, a)
		if err != nil {
			return "", err
		}
		crossed := between(frames, a, b)
		podPackets, eniPackets := podAfter-podBefore, after-before
		measured := fmt.Sprintf("%d requests %s → %s on %s: %d packets at the pod's eth0, %d of them at the ports of the %d interfaces in the fabric, whose counters rose by %d",
			requests, a.Status.PodIP, b.Status.PodIP, m.Name, podPackets, crossed, len(ports), eniPackets)
		if crossed > 0 {
			return measured, fmt.Errorf("%d packets between the two pods crossed an interface of the VPC", crossed)
		}
		if podPackets < 5*requests {
			return measured, fmt.Errorf("the pod's device counted %d packets for %d requests: the measurement is wrong", podPackets, requests)
		}
		// The node's own traffic with the API server continues.
		if eniPackets > podPackets/2 {
			return measured, fmt.Errorf("the counters of the interfaces rose by %d packets, as if the pods' %d had crossed them", eniPackets, podPackets)
		}
		return measured, nil
	}),
}

// ports returns the fabric's ports of a node's ENIs.
func (e *env) ports(ctx context.Context, m lab.Machine) ([]string, error) {
	devs, err := e.Interfaces(ctx, m)
	if err != nil {
		return nil, err
	}
	var ports []string
	for _, d := range devs {
		p, err := e.FabricPort(d)
		if err != nil {
			return nil, err
		}
		ports = append(ports, p)
	}
	slices.Sort(ports)
	return ports, nil
}

// counters returns the packet counts of the ports, and of a pod's eth0.
func (e *env) counters(ports []string, pod corev1.Pod) (inFabric, atPod uint64, err error) {
	netns, err := instruments.PodNetNS(pod)
	if err != nil {
		return 0, 0, err
	}
	fabric, err := instruments.Devices(e.Lab.Cloud.FabricNS)
	if err != nil {
		return 0, 0, err
	}
	inside, err := instruments.Devices(netns)
	if err != nil {
		return 0, 0, err
	}
	count := func(links []netlink.Link, names ...string) uint64 {
		found := map[string]netlink.LinkAttrs{}
		for _, l := range links {
			if slices.Contains(names, l.Attrs().Name) {
				found[l.Attrs().Name] = *l.Attrs()
			}
		}
		return instruments.Packets(found)
	}
	return count(fabric, ports...), count(inside, "eth0"), nil
}

const requests = 200

// talk makes a pod send requests to another during a capture, and returns the captured frames.
func (e *env) talk(ctx context.Context, a, b corev1.Pod, c *instruments.Capture) ([]instruments.Frame, error) {
	answer, err := e.Curl(ctx, a.Name, instruments.URL(b.Status.PodIP, instruments.HTTPPort, fmt.Sprintf("clientip?[1-%d]", requests)), "-o", "/dev/null", "-w", "%{http_code} ")
	frames, stopErr := c.Stop()
	if err := errors.Join(err, stopErr); err != nil {
		return nil, err
	}
	if ok := countWord(answer, "200"); ok != requests {
		return nil, fmt.Errorf("%d of %d requests were answered: %s", ok, requests, answer)
	}
	return frames, nil
}

// sameNodeExclusive is the check for exclusive ENIs: all packets pass the fabric, and none the
// pod's veth to the node.
func (e *env) sameNodeExclusive(ctx context.Context, m lab.Machine, a, b corev1.Pod) (string, error) {
	by, err := e.Carrier(ctx, m, a)
	if err != nil {
		return "", err
	}
	port, err := e.FabricPort(by.Dev)
	if err != nil {
		return "", err
	}
	node, err := instruments.Sniff(by.NetNS, "veth1")
	if err != nil {
		return "", err
	}
	fabric, err := instruments.Sniff(e.Lab.Cloud.FabricNS, port)
	if err != nil {
		return "", errors.Join(err, node.Close())
	}
	frames, err := e.talk(ctx, a, b, fabric)
	byNode, stopErr := node.Stop()
	if err := errors.Join(err, stopErr); err != nil {
		return "", err
	}
	crossed, seen := between(frames, a, b), between(byNode, a, b)
	measured := fmt.Sprintf("%d requests %s → %s on %s: the port of %s in the fabric saw %d packets of the two pods, the veth to the node %d",
		requests, a.Status.PodIP, b.Status.PodIP, m.Name, by.ENI.ID, crossed, seen)
	if crossed < 4*requests {
		return measured, fmt.Errorf("%d packets in the fabric are too few for %d requests: they went another way", crossed, requests)
	}
	if seen > 0 {
		return measured, fmt.Errorf("%d packets between the two pods passed the node", seen)
	}
	return measured, nil
}

// between counts the frames between two pods.
func between(frames []instruments.Frame, a, b corev1.Pod) (n int) {
	src, dst := netip.MustParseAddr(a.Status.PodIP), netip.MustParseAddr(b.Status.PodIP)
	for _, f := range frames {
		if f.Between(src, dst) {
			n++
		}
	}
	return n
}

func deviceNames(devs map[string]netlink.LinkAttrs) []string {
	var names []string
	for n := range devs {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
