package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/lab"
)

// account is what everybody says about the addresses of a node.
type account struct {
	node string
	// pods are the running pods with an address of their own.
	pods []string
	// used is what the agent says its pods hold.
	used []string
	// spec is what the controller lets the node use, cloud what the interfaces have.
	spec, cloud []string
	devices     int
	min, max    int
}

func (a *account) free() int { return len(a.cloud) - len(a.used) }

func (a *account) String() string {
	return fmt.Sprintf("%s %d addresses, %d used", a.node, len(a.cloud), len(a.used))
}

// wrong says what does not agree, or nothing.
func (a *account) wrong() string {
	switch {
	case !slices.Equal(a.pods, a.used):
		return fmt.Sprintf("%s: pods have %v, the agent says %v", a.node, a.pods, a.used)
	case !slices.Equal(a.spec, a.cloud):
		return fmt.Sprintf("%s: the controller lets it use %v, the cloud has %v", a.node, a.spec, a.cloud)
	case a.devices != len(a.pods):
		return fmt.Sprintf("%s: %d devices for %d pods", a.node, a.devices, len(a.pods))
	case a.free() > a.max:
		return fmt.Sprintf("%s: %d free addresses, at most %d are to stay", a.node, a.free(), a.max)
	case a.free() < a.min:
		return fmt.Sprintf("%s: %d free addresses, at least %d are to be there", a.node, a.free(), a.min)
	}
	return ""
}

// accounts asks cluster, agent, controller, cloud and kernel about every node.
func (e *Env) accounts(ctx context.Context) ([]*account, error) {
	pods, err := e.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	var all []*account
	for _, m := range e.Lab.Machines {
		nn, err := e.nodeNetwork(ctx, m.Name)
		if err != nil {
			return nil, err
		}
		a := &account{node: m.Name, min: nn.Spec.Pool.Min, max: nn.Spec.Pool.Max, spec: specAddresses(nn)}
		if e.exclusive(m.Name) {
			// Free ENIs, each with one address: one may stay after a pod's end.
			a.min, a.max = nn.Spec.Pool.WarmENIs, nn.Spec.Pool.WarmENIs+1
		}
		// A node that is nearly full cannot keep its reserve.
		a.min = min(a.min, max(0, nn.Spec.Limits.MaxPods-len(nn.Status.Used)))
		for _, p := range pods.Items {
			if p.Spec.NodeName == m.Name && !p.Spec.HostNetwork && p.Status.PodIP != "" &&
				p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
				a.pods = append(a.pods, p.Status.PodIP)
			}
		}
		for _, u := range nn.Status.Used {
			a.used = append(a.used, u.Address)
		}
		enis, err := e.Lab.Cloud.ENIs(ctx, m.InstanceID)
		if err != nil {
			return nil, err
		}
		for _, i := range enis {
			if i.Type != "Primary" {
				a.cloud = append(a.cloud, i.Addresses...)
			}
		}
		if a.devices, err = podDevices(m); err != nil {
			return nil, err
		}
		for _, l := range [][]string{a.pods, a.used, a.spec, a.cloud} {
			slices.Sort(l)
		}
		all = append(all, a)
	}
	return all, nil
}

// consistent waits until everybody agrees about every address, nothing is left over
// and the pools are within their marks.
func (e *Env) consistent(ctx context.Context) ([]*account, error) {
	var all []*account
	var wrong []string
	err := e.poll(ctx, "cluster, agents, controller, cloud and kernel to agree", func() (_ bool, err error) {
		if all, err = e.accounts(ctx); err != nil {
			return false, err
		}
		wrong = wrong[:0]
		for _, a := range all {
			if w := a.wrong(); w != "" {
				wrong = append(wrong, w)
			}
		}
		loose, err := e.looseENIs(ctx)
		if err != nil {
			return false, err
		}
		if len(loose) > 0 {
			wrong = append(wrong, fmt.Sprintf("interfaces attached to nothing: %v", loose))
		}
		return len(wrong) == 0, nil
	})
	if err != nil {
		return all, fmt.Errorf("%w: %s", err, strings.Join(wrong, "; "))
	}
	return all, nil
}

// looseENIs are secondary interfaces that no instance has.
func (e *Env) looseENIs(ctx context.Context) ([]string, error) {
	all, err := e.Lab.Cloud.ENIs(ctx, "")
	var loose []string
	for _, i := range all {
		if i.Type != "Primary" && i.Status == "Available" {
			loose = append(loose, i.ID)
		}
	}
	return loose, err
}

func total(all []*account) (n int) {
	for _, a := range all {
		n += len(a.cloud)
	}
	return n
}

func describe(all []*account) string {
	var parts []string
	for _, a := range all {
		parts = append(parts, a.String())
	}
	return strings.Join(parts, ", ")
}

// hostSide is the node's end of a pod.
func (e *Env) hostSide(ctx context.Context, m lab.Machine, p corev1.Pod) (netlink.LinkAttrs, error) {
	if e.Lab.Options.Network != lab.NetworkFlannel {
		return hostSide(m, p.Status.PodIP)
	}
	// A port of the bridge, which no route names: the pod's own device knows its peer.
	index, err := e.exec(ctx, p.Name, "cat", "/sys/class/net/eth0/iflink")
	if err != nil {
		return netlink.LinkAttrs{}, err
	}
	links, err := devices(m.NetNS)
	if err != nil {
		return netlink.LinkAttrs{}, err
	}
	for _, l := range links {
		if strconv.Itoa(l.Attrs().Index) == index {
			return *l.Attrs(), nil
		}
	}
	return netlink.LinkAttrs{}, fmt.Errorf("%s has no device %s, the other end of pod %s", m.Name, index, p.Name)
}

// hostSide is the node's end of a pod with Terway: the device to which the node routes its address.
func hostSide(m lab.Machine, addr string) (netlink.LinkAttrs, error) {
	ns, err := netns.GetFromPath(m.NetNS)
	if err != nil {
		return netlink.LinkAttrs{}, fmt.Errorf("open the network namespace of %s: %w", m.Name, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return netlink.LinkAttrs{}, fmt.Errorf("enter the network namespace of %s: %w", m.Name, err)
	}
	defer h.Close()
	routes, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	// A list that changed while it was read has the pod's route all the same: it is not
	// one of those that come and go.
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return netlink.LinkAttrs{}, fmt.Errorf("list the routes of %s: %w", m.Name, err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.String() != addr+"/32" || r.Type != unix.RTN_UNICAST {
			continue
		}
		l, err := h.LinkByIndex(r.LinkIndex)
		if err != nil {
			return netlink.LinkAttrs{}, fmt.Errorf("find the device of %s on %s: %w", addr, m.Name, err)
		}
		return *l.Attrs(), nil
	}
	return netlink.LinkAttrs{}, fmt.Errorf("%s has no route to the pod address %s", m.Name, addr)
}
