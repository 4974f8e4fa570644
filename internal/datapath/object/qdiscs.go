package object

import (
	"context"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/netlinkx"
)

// Qdiscs returns the queueing disciplines of a device with an index. The kernel lists those of all
// devices of a namespace: those of the node's are listed once for each View, and the pod's once for
// each Site.
func (s *Site) Qdiscs(d Device, index int) ([]netlink.Qdisc, error) {
	if d.InPod {
		return s.qdiscs(&s.inPod, s.Pod.Handle, index)
	}
	if s.View != nil {
		return s.qdiscs(&s.View.qdiscs, s.node, index)
	}
	var once map[int][]netlink.Qdisc
	return s.qdiscs(&once, s.node, index)
}

func (s *Site) node() (*netlink.Handle, error) { return s.Node, nil }

func (s *Site) qdiscs(known *map[int][]netlink.Qdisc, handle func() (*netlink.Handle, error), index int) ([]netlink.Qdisc, error) {
	if *known == nil {
		h, err := handle()
		if err != nil {
			return nil, err
		}
		all, err := Qdiscs(s.Ctx, h)
		if err != nil {
			return nil, err
		}
		*known = all
	}
	return (*known)[index], nil
}

// Qdiscs returns the queueing disciplines of all devices of a namespace, by index.
func Qdiscs(ctx context.Context, h *netlink.Handle) (map[int][]netlink.Qdisc, error) {
	list, err := netlinkx.List(ctx, "queueing disciplines", func() ([]netlink.Qdisc, error) { return h.QdiscList(nil) })
	if err != nil {
		return nil, err
	}
	all := map[int][]netlink.Qdisc{}
	for _, q := range list {
		all[q.Attrs().LinkIndex] = append(all[q.Attrs().LinkIndex], q)
	}
	return all, nil
}
