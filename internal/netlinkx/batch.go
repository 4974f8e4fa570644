package netlinkx

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Batch is a route netlink socket by which several requests are sent at once: the kernel works
// at them in order, and the caller changes over to it once and not for each.
// It is not safe for concurrent use.
type Batch struct {
	socket *nl.NetlinkSocket
	last   uint32 // sequence number
}

// NewBatch opens one in a namespace; netns.None() is the caller's own.
func NewBatch(ns netns.NsHandle) (*Batch, error) {
	s, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink socket: %w", err)
	}
	return &Batch{socket: s}, nil
}

// Close lets go of the socket.
func (b *Batch) Close() { b.socket.Close() }

// Do sends the requests and returns the kernel's answer to each. Those after one that fails are
// carried out too. An error says that not all were answered.
func (b *Batch) Do(requests []*nl.NetlinkRequest) (answers []error, err error) {
	var message []byte
	before := b.last
	for _, r := range requests {
		b.last++
		r.Seq, r.Flags = b.last, r.Flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK
		message = append(message, r.Serialize()...) // each is padded: its length is a multiple of 4
	}
	if err := unix.Sendto(b.socket.GetFd(), message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("send %d requests: %w", len(requests), err)
	}
	answers = make([]error, len(requests))
	buffer := make([]byte, 4096) // an answer has the request in it, if it is an error
	for left := len(requests); left > 0; {
		// The kernel works at requests while they are sent, so the answers are there.
		n, _, err := unix.Recvfrom(b.socket.GetFd(), buffer, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("receive the answers to %d requests: %w", left, err)
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return nil, fmt.Errorf("read the answers to requests: %w", err)
		}
		for _, m := range messages {
			i := int(m.Header.Seq - before - 1)
			if m.Header.Type != unix.NLMSG_ERROR || len(m.Data) < 4 || i < 0 || i >= len(requests) {
				continue // to a request of before, whose answers nobody took
			}
			if code := int32(binary.NativeEndian.Uint32(m.Data)); code != 0 {
				answers[i] = unix.Errno(-code)
			}
			left--
		}
	}
	return answers, nil
}
