package netlinkx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Batch is a route netlink socket by which several requests are sent at once: the kernel works
// at them in order, and the caller changes over to it once and not for each.
// It is safe for concurrent use.
type Batch struct {
	socket *nl.NetlinkSocket
	mu     sync.Mutex
	last   uint32 // sequence number; mu guards it, and whose answers are read
}

// NewBatch opens one in a namespace; netns.None() is the caller's own.
func NewBatch(ns netns.NsHandle) (*Batch, error) {
	s, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink socket: %w", err)
	}
	if err := s.SetExtAck(true); err != nil { // why a request is refused, in words
		s.Close()
		return nil, fmt.Errorf("set up route netlink socket: %w", err)
	}
	return &Batch{socket: s}, nil
}

// Close lets go of the socket.
func (b *Batch) Close() { b.socket.Close() }

// Do sends the requests and returns what the kernel refused of each, nil if nothing. Those after
// one that is refused are carried out too. An error says that it is not known.
func (b *Batch) Do(requests []*nl.NetlinkRequest) (refused []error, err error) {
	if len(requests) == 0 {
		return nil, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.last
	for i, r := range requests {
		r.Flags |= unix.NLM_F_REQUEST
		if i == len(requests)-1 {
			r.Flags |= unix.NLM_F_ACK // of the others the kernel answers what it refuses
		}
	}
	if err := b.send(requests); err != nil {
		return nil, err
	}
	refused = make([]error, len(requests))
	for left := true; left; {
		messages, err := b.receive()
		if err != nil {
			return nil, fmt.Errorf("answers to %d requests: %w", len(requests), err)
		}
		for _, m := range messages {
			i := int(int32(m.Header.Seq - before - 1))
			if m.Header.Type != unix.NLMSG_ERROR || i < 0 || i >= len(requests) {
				continue // to a request of before, whose answers nobody took
			}
			if refused[i], err = refusal(m); err != nil {
				return nil, err
			}
			left = left && i < len(requests)-1
		}
	}
	return refused, nil
}

// Ask sends one request and returns the first message of the kernel's answer.
func (b *Batch) Ask(r *nl.NetlinkRequest) ([]byte, error) {
	r.Flags |= unix.NLM_F_REQUEST
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.send([]*nl.NetlinkRequest{r}); err != nil {
		return nil, err
	}
	for {
		messages, err := b.receive()
		if err != nil {
			return nil, fmt.Errorf("the answer to a request: %w", err)
		}
		for _, m := range messages {
			if m.Header.Seq != r.Seq {
				continue
			}
			if m.Header.Type != unix.NLMSG_ERROR {
				return m.Data, nil
			}
			refused, err := refusal(m)
			return nil, errors.Join(refused, err)
		}
	}
}

// send numbers the requests and sends them; the caller holds mu.
func (b *Batch) send(requests []*nl.NetlinkRequest) error {
	var message []byte
	for _, r := range requests {
		b.last++
		r.Seq = b.last
		message = append(message, r.Serialize()...) // each is padded: its length is a multiple of 4
	}
	if err := unix.Sendto(b.socket.GetFd(), message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send %d requests: %w", len(requests), err)
	}
	return nil
}

// receive takes one datagram of answers. The kernel works at requests while they are sent, so it
// is there. An answer to a request that is refused has the request in it. The caller holds mu.
func (b *Batch) receive() ([]syscall.NetlinkMessage, error) {
	buffer := make([]byte, 8192)
	for {
		n, _, err := unix.Recvfrom(b.socket.GetFd(), buffer, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("receive: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return nil, fmt.Errorf("read what was received: %w", err)
		}
		return messages, nil
	}
}

// refusal is what a message of type NLMSG_ERROR says (struct nlmsgerr): an errno, 0 if all is
// well, then the request or only its header, then attributes, of which one may be words.
func refusal(m syscall.NetlinkMessage) (refused, err error) {
	const errno = 4
	if len(m.Data) < errno+unix.SizeofNlMsghdr {
		return nil, fmt.Errorf("an answer of %d bytes: must have %d at least", len(m.Data), errno+unix.SizeofNlMsghdr)
	}
	code := int32(binary.NativeEndian.Uint32(m.Data))
	if code == 0 {
		return nil, nil
	}
	refused = unix.Errno(-code)
	if m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 {
		return refused, nil
	}
	request := unix.SizeofNlMsghdr
	if m.Header.Flags&unix.NLM_F_CAPPED == 0 {
		request = int(binary.NativeEndian.Uint32(m.Data[errno:]))
	}
	words := m.Data[min(len(m.Data), errno+(request+3)&^3):]
	attrs, _ := nl.ParseRouteAttr(words) // without them the number says what it can
	for _, a := range attrs {
		if a.Attr.Type == unix.NLMSGERR_ATTR_MSG {
			return fmt.Errorf("%w: %s", refused, unix.ByteSliceToString(a.Value)), nil
		}
	}
	return refused, nil
}
