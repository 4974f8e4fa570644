package verify

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/lab"
)

var samePod = Check{
	Name:  "pod-to-pod-same-node",
	About: "pods of one node reach each other without a packet crossing an interface of the VPC; those with an ENI each through the VPC, without the node",
	Run: func(ctx context.Context, e *Env) (string, error) {
		m := e.Lab.Machines[0]
		pods, err := e.podOn(ctx, m, m)
		if err != nil {
			return "", err
		}
		a, b := pods[0], pods[1]
		if e.exclusive(m.Name) {
			return e.sameNodeOwn(ctx, m, a, b)
		}
		ports, err := e.ports(ctx, m)
		if err != nil {
			return "", err
		}
		before, podBefore, err := e.counters(ports, a)
		if err != nil {
			return "", err
		}
		c, err := sniff(e.Lab.Cloud.FabricNS, ports...)
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
		// The node's own talk with the API server goes on meanwhile.
		if eniPackets > podPackets/2 {
			return measured, fmt.Errorf("the counters of the interfaces rose by %d packets, as if the pods' %d had crossed them", eniPackets, podPackets)
		}
		return measured, nil
	},
}

// ports are those of a node's interfaces in the fabric.
func (e *Env) ports(ctx context.Context, m lab.Machine) ([]string, error) {
	devs, err := e.interfaces(ctx, m)
	if err != nil {
		return nil, err
	}
	var ports []string
	for _, d := range devs {
		p, err := e.fabricPort(d)
		if err != nil {
			return nil, err
		}
		ports = append(ports, p)
	}
	slices.Sort(ports)
	return ports, nil
}

// counters are how many packets have passed the ports, and a pod's eth0.
func (e *Env) counters(ports []string, pod corev1.Pod) (inFabric, atPod uint64, err error) {
	netns, err := podNetNS(pod)
	if err != nil {
		return 0, 0, err
	}
	fabric, err := devices(e.Lab.Cloud.FabricNS)
	if err != nil {
		return 0, 0, err
	}
	inside, err := devices(netns)
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
		return packets(found)
	}
	return count(fabric, ports...), count(inside, "eth0"), nil
}

const requests = 200

// talk has a pod make requests to another while a capture runs, and returns what that saw.
func (e *Env) talk(ctx context.Context, a, b corev1.Pod, c *capture) ([]frame, error) {
	answer, err := e.curl(ctx, a.Name, url(b.Status.PodIP, httpPort, fmt.Sprintf("clientip?[1-%d]", requests)), "-o", "/dev/null", "-w", "%{http_code} ")
	frames, stopErr := c.stop()
	if err := errors.Join(err, stopErr); err != nil {
		return nil, err
	}
	if ok := countWord(answer, "200"); ok != requests {
		return nil, fmt.Errorf("%d of %d requests were answered: %s", ok, requests, answer)
	}
	return frames, nil
}

// sameNodeOwn is the check for pods with an ENI each: everything passes the fabric, and
// nothing the pod's veth to the node.
func (e *Env) sameNodeOwn(ctx context.Context, m lab.Machine, a, b corev1.Pod) (string, error) {
	by, err := e.carrier(ctx, m, a)
	if err != nil {
		return "", err
	}
	port, err := e.fabricPort(by.dev)
	if err != nil {
		return "", err
	}
	node, err := sniff(by.netns, "veth1")
	if err != nil {
		return "", err
	}
	fabric, err := sniff(e.Lab.Cloud.FabricNS, port)
	if err != nil {
		return "", errors.Join(err, node.close())
	}
	frames, err := e.talk(ctx, a, b, fabric)
	byNode, stopErr := node.stop()
	if err := errors.Join(err, stopErr); err != nil {
		return "", err
	}
	crossed, seen := between(frames, a, b), between(byNode, a, b)
	measured := fmt.Sprintf("%d requests %s → %s on %s: the port of %s in the fabric saw %d packets of the two pods, the veth to the node %d",
		requests, a.Status.PodIP, b.Status.PodIP, m.Name, by.eni.ID, crossed, seen)
	if crossed < 4*requests {
		return measured, fmt.Errorf("%d packets in the fabric are too few for %d requests: they went another way", crossed, requests)
	}
	if seen > 0 {
		return measured, fmt.Errorf("%d packets between the two pods passed the node", seen)
	}
	return measured, nil
}

// between counts the frames of two pods.
func between(frames []frame, a, b corev1.Pod) (n int) {
	src, dst := netip.MustParseAddr(a.Status.PodIP), netip.MustParseAddr(b.Status.PodIP)
	for _, f := range frames {
		if f.between(src, dst) {
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
