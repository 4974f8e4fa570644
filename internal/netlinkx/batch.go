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

// Batch is a route netlink socket that sends several requests with one system call; the kernel
// processes them in order. It is safe for concurrent use.
type Batch struct {
	socket *nl.NetlinkSocket
	mu     sync.Mutex
	last   uint32 // sequence number; mu guards it and the reading of answers
}

// NewBatch opens a Batch in a namespace; netns.None() means the caller's own.
func NewBatch(ns netns.NsHandle) (*Batch, error) {
	s, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink socket: %w", err)
	}
	if err := s.SetExtAck(true); err != nil { // the text of the kernel's errors
		s.Close()
		return nil, fmt.Errorf("set up route netlink socket: %w", err)
	}
	return &Batch{socket: s}, nil
}

// Close closes the socket.
func (b *Batch) Close() { b.socket.Close() }

// Do sends the requests and returns the kernel's error for each, or nil if there is none.
// Requests after a refused one are executed too. An error means that the results are unknown.
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
			r.Flags |= unix.NLM_F_ACK // for the others the kernel sends only errors
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
				continue // an answer to an earlier request, which was not read
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

// send numbers and sends the requests. The caller holds mu.
func (b *Batch) send(requests []*nl.NetlinkRequest) error {
	var message []byte
	for _, r := range requests {
		b.last++
		r.Seq = b.last
		message = append(message, r.Serialize()...) // each is padded to a multiple of 4 bytes
	}
	if err := unix.Sendto(b.socket.GetFd(), message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send %d requests: %w", len(requests), err)
	}
	return nil
}

// receive reads one datagram of answers. The kernel executes requests during send, so it does
// not block. The answer to a refused request contains the request. The caller holds mu.
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

// refusal parses a message of type NLMSG_ERROR (struct nlmsgerr): an errno, 0 for success, then
// the request or only its header, then attributes, one of which may be an error text.
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
	attrs, _ := nl.ParseRouteAttr(words) // without them the errno is enough
	for _, a := range attrs {
		if a.Attr.Type == unix.NLMSGERR_ATTR_MSG {
			return fmt.Errorf("%w: %s", refused, unix.ByteSliceToString(a.Value)), nil
		}
	}
	return refused, nil
}
