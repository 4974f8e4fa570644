package node

import (
	"context"
	"errors"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/datapath/tracker"
	"terway.dev/terway/internal/netlinkx"
)

// CheckPod returns an error that names the first missing or wrong object of a pod. It changes
// nothing.
func (n *Node) CheckPod(ctx context.Context, want datapath.Node, pod datapath.Pod) error {
	if err := validate(pod); err != nil {
		return err
	}
	return n.forPod(ctx, pod, func(_ *tracker.Pod, site *object.Site) error {
		problem, err := n.firstProblem(site, want, pod)
		if err == nil && problem != "" {
			err = errors.New(problem)
		}
		return err
	})
}

func (n *Node) firstProblem(site *object.Site, want datapath.Node, pod datapath.Pod) (string, error) {
	ctx, h := site.Ctx, site.Node
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
	site.View = view
	if site.Pod, err = n.enterPod(pod.NetNS); err != nil {
		return "", err
	}
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
	if problem, err := routing.Problem(ctx, h, want, enis, view.ByIndex, view.Routes, routing.KeyOf(pod.ENI)); err != nil || problem != "" {
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
