package instruments

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/lab"
)

// MACs returns the MACs of an instance's ENIs in the cloud.
func (c *Cluster) MACs(ctx context.Context, m lab.Machine) (all, secondary map[string]bool, err error) {
	list, err := c.Lab.Cloud.ENIs(ctx, m.InstanceID)
	if err != nil {
		return nil, nil, err
	}
	all, secondary = map[string]bool{}, map[string]bool{}
	for _, i := range list {
		mac, err := net.ParseMAC(i.MAC)
		if err != nil {
			return nil, nil, fmt.Errorf("interface %s: %w", i.ID, err)
		}
		all[mac.String()] = true
		if i.Type != "Primary" {
			secondary[mac.String()] = true
		}
	}
	return all, secondary, nil
}

// Interfaces returns the node's devices of the instance's ENIs.
func (c *Cluster) Interfaces(ctx context.Context, m lab.Machine) (map[string]netlink.LinkAttrs, error) {
	all, _, err := c.MACs(ctx, m)
	if err != nil {
		return nil, err
	}
	return enis(m.NetNS, all)
}

// Carrier is the ENI by which packets enter the VPC: its description in the cloud, its device,
// and the device's network namespace.
type Carrier struct {
	ENI   lab.ENI
	Dev   netlink.LinkAttrs
	NetNS string
}

// Holder returns the ENI with an address.
func (c *Cluster) Holder(ctx context.Context, m lab.Machine, addr string) (lab.ENI, error) {
	list, err := c.Lab.Cloud.ENIs(ctx, m.InstanceID)
	if err != nil {
		return lab.ENI{}, err
	}
	for _, i := range list {
		if slices.Contains(i.Addresses, addr) {
			return i, nil
		}
	}
	return lab.ENI{}, fmt.Errorf("the cloud has %s on no interface of %s (%s)", addr, m.Name, m.InstanceID)
}

// Carrier returns the Carrier of a pod: the ENI with the pod's address; with Flannel the node's
// own. The device is in the node, or in the pod if the ENI is exclusive.
func (c *Cluster) Carrier(ctx context.Context, m lab.Machine, pod corev1.Pod) (by Carrier, err error) {
	addr := pod.Status.PodIP
	by.NetNS = m.NetNS
	if c.Lab.Options.Network == lab.NetworkFlannel {
		addr = m.Address.String()
	}
	if by.ENI, err = c.Holder(ctx, m, addr); err != nil {
		return by, err
	}
	if c.Exclusive(m.Name) {
		if by.NetNS, err = PodNetNS(pod); err != nil {
			return by, err
		}
	}
	devs, err := enis(by.NetNS, map[string]bool{strings.ToLower(by.ENI.MAC): true})
	for _, d := range devs { // exactly one: the MAC belongs to the ENI
		by.Dev = d
	}
	return by, err
}

// FabricPort returns the other end of an ENI's device: its port in the fabric's namespace.
func (c *Cluster) FabricPort(dev netlink.LinkAttrs) (string, error) {
	links, err := Devices(c.Lab.Cloud.FabricNS)
	if err != nil {
		return "", err
	}
	for _, l := range links {
		if l.Attrs().Index == dev.ParentIndex {
			return l.Attrs().Name, nil
		}
	}
	return "", fmt.Errorf("the fabric has no port with index %d, the other end of %s", dev.ParentIndex, dev.Name)
}

// NodeNetwork reads a node's NodeNetwork.
func (c *Cluster) NodeNetwork(ctx context.Context, node string) (*v1alpha1.NodeNetwork, error) {
	nn := &v1alpha1.NodeNetwork{}
	if err := c.Objects.Get(ctx, client.ObjectKey{Name: node}, nn); err != nil {
		return nil, fmt.Errorf("read NodeNetwork %s: %w", node, err)
	}
	return nn, nil
}

// specAddresses returns the addresses that the controller has given to a node.
func specAddresses(nn *v1alpha1.NodeNetwork) []string {
	var all []string
	for _, eni := range nn.Spec.ENIs {
		for _, a := range eni.Addresses {
			all = append(all, a.Address)
		}
	}
	return all
}

// podDevices counts the host ends of pods on a node.
func podDevices(m lab.Machine) (int, error) {
	links, err := Devices(m.NetNS)
	n := 0
	for _, l := range links {
		if linkkind.IsPodDevice(l) {
			n++
		}
	}
	return n, err
}

// HTTPFrom makes a request from a namespace that is no pod's, and returns the body of the
// answer.
func HTTPFrom(ctx context.Context, netns, addr string, port uint16, path string) (string, error) {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return "", err
	}
	return lab.HTTPGet(ctx, netns, netip.AddrPortFrom(ip, port), path)
}

// Kill kills every process with that name on the given machines, and returns how many there
// were.
func Kill(name string, machines ...lab.Machine) (int, error) {
	n := 0
	for _, m := range machines {
		ps, err := lab.ProcessesIn(m.NetNS, name)
		if err != nil {
			return n, err
		}
		for _, p := range ps {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				return n, fmt.Errorf("kill %s (pid %d) on %s: %w", name, p.PID, m.Name, err)
			}
			n++
		}
	}
	if n == 0 {
		return 0, fmt.Errorf("no process %s runs on the nodes", name)
	}
	return n, nil
}
