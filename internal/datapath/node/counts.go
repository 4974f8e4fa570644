package node

import (
	"context"
	"errors"
	"fmt"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/object"
	"terway.dev/terway/internal/netlinkx"
)

// Counts returns what objects of pods have counted, by the pod's place in the list. It goes on after a
// pod that cannot be read.
func (n *Node) Counts(ctx context.Context, pods []datapath.Pod) (counts [][]object.Counts, err error) {
	counts = make([][]object.Counts, len(pods))
	h, err := n.host()
	if err != nil {
		return counts, err
	}
	defer n.giveBack(h)
	links, err := netlinkx.List(ctx, "devices", h.LinkList)
	if err != nil {
		return counts, err
	}
	view, err := object.Look(ctx, h, links, nil, nil)
	if err != nil {
		return counts, err
	}
	var errs []error
	for i, pod := range pods {
		if counts[i], err = n.countsOf(ctx, view, pod); err != nil {
			errs = append(errs, podError(pod, fmt.Errorf("read counters: %w", err)))
		}
	}
	return counts, errors.Join(errs...)
}

func (n *Node) countsOf(ctx context.Context, view *object.View, pod datapath.Pod) (list []object.Counts, err error) {
	h, err := n.host()
	if err != nil {
		return nil, err
	}
	defer n.giveBack(h)
	site := n.site(ctx, h)
	site.View = view
	defer site.Close()
	if site.Pod, err = n.enterPod(pod.NetNS); err != nil {
		if netlinkx.Gone(err) {
			return nil, nil
		}
		return nil, err
	}
	p, _ := n.describe(n.state(), datapath.Node{}, pod) // of an ENI that is gone nothing is counted
	for _, o := range n.objects(p) {
		if counting, is := o.(object.Counting); is {
			c, ok, err := counting.Counts(site)
			if err != nil {
				return list, err
			}
			if ok {
				list = append(list, c)
			}
		}
	}
	return list, nil
}
