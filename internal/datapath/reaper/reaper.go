// Package reaper deletes the devices of deleted pods in the background. DEL moves a device to a
// group that must not send (Retire), and answers; a deletion waits 26 ms for RCU however many
// devices it deletes, so it deletes all devices of the group.
//
// It must not delete a device that is not a pod's.
package reaper

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

// Reaper works for one node. A goroutine runs only while there is something to delete; a failure is
// logged, and tried again after the next Kick, by a caller that finds devices by their group. It is
// safe for concurrent use.
type Reaper struct {
	ns   netns.NsHandle
	lock sync.Locker
	log  *slog.Logger
	list func(*netlink.Handle) ([]netlink.Link, error)

	mu    sync.Mutex
	again bool
	// more are functions to run once, beside the deletion.
	more []func() error
	// done is closed when the running goroutine ends; nil while none runs.
	done chan struct{}
}

// New returns the reaper of the node with this namespace; netns.None() is the process's own. It
// holds the lock while it deletes.
func New(ns netns.NsHandle, lock sync.Locker, log *slog.Logger) *Reaper {
	return &Reaper{ns: ns, lock: lock, log: log, list: (*netlink.Handle).LinkList}
}

// Retire moves a pod's device on the node to the group of devices that must not send and are
// deleted together, in the background. h is a socket in the node's namespace.
func (r *Reaper) Retire(h *netlink.Handle, link netlink.Link) error {
	if err := h.LinkSetGroup(link, claims.GroupDying); err != nil && !netlinkx.Gone(err) {
		return fmt.Errorf("move device %s to the group of dying devices: %w", link.Attrs().Name, err)
	}
	r.Kick()
	return nil
}

// Kick starts a deletion.
func (r *Reaper) Kick() { r.start(func() { r.again = true }) }

// Later runs a function once, in the background.
func (r *Reaper) Later(f func() error) { r.start(func() { r.more = append(r.more, f) }) }

func (r *Reaper) start(note func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	note()
	if r.done == nil {
		r.done = make(chan struct{})
		go r.run()
	}
}

func (r *Reaper) run() {
	for {
		r.mu.Lock()
		again, more := r.again, r.more
		r.more = nil
		if !again && len(more) == 0 {
			close(r.done)
			r.done = nil
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		for _, f := range more {
			if err := f(); err != nil {
				r.log.Warn("a deleted pod's device still exists; it is deleted with the pod's namespace", "error", err)
			}
		}
		if !again {
			continue
		}
		if err := r.deleteDying(); err != nil {
			r.log.Warn("devices of deleted pods still exist; the next Sync tries again", "error", err)
		}
	}
}

// Wait returns when nothing is being deleted.
func (r *Reaper) Wait(ctx context.Context) error {
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

// deleteDying deletes the devices of the dying group: together if all are ours, one by one if
// somebody else put a device into it. One list of the node's devices serves for all that were retired
// until the lock was free.
func (r *Reaper) deleteDying() error {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.mu.Lock()
	r.again = false
	r.mu.Unlock()
	h, err := netlinkx.Open(r.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := netlinkx.List(context.Background(), "devices", func() ([]netlink.Link, error) { return r.list(h) })
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
	if !foreign {
		return DeleteRetired(r.ns)
	}
	for _, l := range ours {
		if err := h.LinkDel(l); err != nil && !netlinkx.Gone(err) {
			return fmt.Errorf("delete device %s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// DeleteRetired deletes all devices of the dying group of a namespace, which must all be ours, with
// one request: the kernel waits for RCU (26 ms) once for all of them.
func DeleteRetired(ns netns.NsHandle) error {
	b, err := netlinkx.NewBatch(ns)
	if err != nil {
		return err
	}
	defer b.Close()
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(claims.GroupDying)))
	refused, err := b.Do([]*nl.NetlinkRequest{req})
	if err == nil {
		err = refused[0]
	}
	if err != nil && !netlinkx.Gone(err) {
		return fmt.Errorf("delete devices of group %#x: %w", claims.GroupDying, err)
	}
	return nil
}
