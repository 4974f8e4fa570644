package node

import (
	"context"
	"errors"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/netlinkx"
)

// CheckPod returns an error that names the first missing or wrong object of a pod. It changes
// nothing.
func (n *Node) CheckPod(ctx context.Context, want datapath.Node, pod datapath.Pod) error {
	if err := validate(pod); err != nil {
		return err
	}
	_, release := n.pods.Acquire(claims.HostIfName(pod.Sandbox, pod.IfName))
	defer release()
	h, err := n.host()
	if err != nil {
		return podError(pod, err)
	}
	defer n.giveBack(h)
	problem, err := n.firstProblem(ctx, h, want, pod)
	if err == nil && problem != "" {
		err = errors.New(problem)
	}
	if err != nil {
		return podError(pod, err)
	}
	return nil
}

func (n *Node) firstProblem(ctx context.Context, h *netlink.Handle, want datapath.Node, pod datapath.Pod) (string, error) {
	view, err := n.look(ctx, h)
	if err != nil {
		return "", err
	}
	// Errors of other ENIs do not concern this pod: describe reports only its own.
	enis, eniErr := routing.Assign(want, view.Links, view.Routes, n.state().enis, n.receivers)
	p, err := n.describe(nodeState{enis: enis}, want, pod)
	if err != nil {
		return "", errors.Join(err, eniErr)
	}
	site := n.site(ctx, h)
	site.View = view
	if site.Pod, err = n.enterPod(pod.NetNS); err != nil {
		return "", err
	}
	defer site.Close()
	list := n.objects(p)
	if err := view.ReadSysctls(n.procSys, n.ns, list); err != nil {
		return "", err
	}
	for _, o := range list {
		if problem, err := o.Have(site); err != nil || problem != "" {
			return problem, err
		}
	}
	if problem, err := p.kind.ENIProblem(h, p.ENI); err != nil || problem != "" {
		return problem, err
	}
	return n.nodeProblem(ctx, h, want, enis, view, routing.KeyOf(pod.ENI))
}

// nodeProblem names the first missing node-wide object that a pod of an ENI needs.
func (n *Node) nodeProblem(ctx context.Context, h *netlink.Handle, want datapath.Node, enis map[string]routing.ENI, v *object.View, mac string) (string, error) {
	if problem, err := routing.Problem(ctx, h, want, enis, v.ByIndex, v.Routes, mac); err != nil || problem != "" {
		return problem, err
	}
	rs, err := nft.NewRuleset(want)
	if err != nil {
		return "", err
	}
	return n.tables.Differs(rs)
}

// look reads the node's kernel now.
func (n *Node) look(ctx context.Context, h *netlink.Handle) (*object.View, error) {
	links, err := netlinkx.List(ctx, "devices", h.LinkList)
	if err != nil {
		return nil, err
	}
	routes, err := routing.OwnRoutes(ctx, h)
	if err != nil {
		return nil, err
	}
	elems, err := n.tables.Read()
	if err != nil {
		return nil, err
	}
	return object.Look(ctx, h, links, routes, elems)
}
