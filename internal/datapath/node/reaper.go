package node

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/linkkind"
	"terway.dev/terway/internal/netlinkx"
)

// reaper deletes retired devices behind DEL's back. A deletion waits 26 ms for
// RCU however many devices it takes, so it takes all that are there. A goroutine
// runs only while there is something to delete; a failure is logged and tried
// again by the next Sync, which finds the devices by their group.
type reaper struct {
	delete func() error
	log    *slog.Logger

	mu    sync.Mutex
	again bool
	// more is to be done once, beside delete.
	more []func() error
	// done is closed when the running goroutine ends; nil while none runs.
	done chan struct{}
}

// kick says that there is something to delete.
func (r *reaper) kick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.again = true
	if r.done == nil {
		r.done = make(chan struct{})
		go r.run()
	}
}

// later has one more thing done.
func (r *reaper) later(f func() error) {
	r.mu.Lock()
	r.more = append(r.more, f)
	r.mu.Unlock()
	r.kick()
}

func (r *reaper) run() {
	for {
		r.mu.Lock()
		if !r.again {
			close(r.done)
			r.done = nil
			r.mu.Unlock()
			return
		}
		r.again = false
		more := r.more
		r.more = nil
		r.mu.Unlock()
		for _, f := range more {
			if err := f(); err != nil {
				r.log.Warn("a deleted pod's device is still there; it goes with the pod's namespace", "error", err)
			}
		}
		if err := r.delete(); err != nil {
			r.log.Warn("devices of deleted pods are still there; the next sync tries again", "error", err)
		}
	}
}

// wait returns when nothing is being deleted.
func (r *reaper) wait(ctx context.Context) error {
	for {
		r.mu.Lock()
		done := r.done
		r.mu.Unlock()
		if done == nil {
			return nil
		}
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("wait for devices of deleted pods to go: %w", context.Cause(ctx))
		}
	}
}

// deleteDying deletes the devices of the dying group: together if all are ours,
// one by one if somebody put a device of theirs into it.
func (n *Node) deleteDying() error {
	h, err := n.host()
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := netlinkx.List(context.Background(), "devices", h.LinkList)
	if err != nil {
		return err
	}
	var ours []netlink.Link
	foreign := false
	for _, l := range links {
		switch {
		case l.Attrs().Group != claims.GroupDying:
		case linkkind.IsPodDevice(l):
			ours = append(ours, l)
		default:
			foreign = true
		}
	}
	if len(ours) == 0 {
		return nil
	}
	n.linkMu.Lock()
	defer n.linkMu.Unlock()
	if !foreign {
		return deleteGroup(n.ns, claims.GroupDying)
	}
	for _, l := range ours {
		if err := h.LinkDel(l); err != nil && !netlinkx.Gone(err) {
			return fmt.Errorf("delete device %s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// deleteGroup deletes every device of a group with one request: the kernel then
// waits for RCU once for all of them, not once for each (26 ms).
func deleteGroup(ns netns.NsHandle, group uint32) error {
	socket, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open route netlink socket: %w", err)
	}
	defer socket.Close()
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil && !netlinkx.Gone(err) {
		return fmt.Errorf("delete devices of group %#x: %w", group, err)
	}
	return nil
}

// DeleteRetired deletes what Retire, or a kind, put into the group of dying devices in a
// namespace where all of that group are ours.
func DeleteRetired(ns netns.NsHandle) error { return deleteGroup(ns, claims.GroupDying) }
