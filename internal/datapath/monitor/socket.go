package monitor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/attr"
	"terway.dev/terway/internal/kernel"
)

var native = binary.NativeEndian

// receiveBuffer holds unread messages of the kernel: as many as kube-proxy's change of some ten
// thousand rules causes.
const receiveBuffer = 4 << 20

// message is the most that the kernel sends at once: a page or NLMSG_GOODSIZE, and the element
// lists of one nftables transaction (64 KiB for an attribute).
const message = 128 << 10

// socket is a netlink socket that is subscribed to groups. The netlink library has one too, but it
// allocates a buffer for each message, which is too much for kube-proxy's changes.
type socket struct {
	file *os.File
	raw  syscall.RawConn
	buf  []byte
}

func listenTo(ns netns.NsHandle, protocol int, groups ...uint) (*socket, error) {
	var s *socket
	err := kernel.InNS(ns, func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
		if err != nil {
			return fmt.Errorf("open netlink socket: %w", err)
		}
		file := os.NewFile(uintptr(fd), "netlink")
		// Without the permission to force it, as much as net.core.rmem_max allows.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer); err != nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
			if err != nil {
				return errors.Join(fmt.Errorf("set the netlink socket's buffer: %w", err), file.Close())
			}
		}
		addr := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
		for _, g := range groups {
			addr.Groups |= 1 << (g - 1)
		}
		if err := unix.Bind(fd, addr); err != nil {
			return errors.Join(fmt.Errorf("subscribe to netlink groups %v: %w", groups, err), file.Close())
		}
		raw, err := file.SyscallConn()
		if err != nil {
			return errors.Join(err, file.Close())
		}
		s = &socket{file: file, raw: raw, buf: make([]byte, message)}
		return nil
	})
	return s, err
}

// each passes every message to f, which must not keep it, until ctx is done or reading fails.
func (s *socket) each(ctx context.Context, f func(h syscall.NlMsghdr, data []byte)) error {
	stop := context.AfterFunc(ctx, func() { s.file.Close() })
	defer func() {
		if stop() {
			s.file.Close()
		}
	}()
	for {
		n, err := s.read()
		if err != nil {
			return fmt.Errorf("read netlink messages: %w", err)
		}
		for rest := s.buf[:n]; len(rest) >= unix.NLMSG_HDRLEN; {
			h := syscall.NlMsghdr{
				Len:  native.Uint32(rest),
				Type: native.Uint16(rest[4:]), Flags: native.Uint16(rest[6:]),
				Seq: native.Uint32(rest[8:]), Pid: native.Uint32(rest[12:]),
			}
			if h.Len < unix.NLMSG_HDRLEN || int(h.Len) > len(rest) {
				break // truncated: it was longer than the buffer
			}
			f(h, rest[unix.NLMSG_HDRLEN:h.Len])
			rest = rest[min(len(rest), attr.Align(int(h.Len))):]
		}
	}
}

func (s *socket) read() (n int, err error) {
	waitErr := s.raw.Read(func(fd uintptr) bool {
		for {
			var from unix.Sockaddr
			n, from, err = unix.Recvfrom(int(fd), s.buf, 0)
			if err == unix.EINTR {
				continue
			}
			// Any process in the namespace may send to our port; only the kernel's port is 0.
			if sender, ok := from.(*unix.SockaddrNetlink); err == nil && (!ok || sender.Pid != 0) {
				continue
			}
			return err != unix.EAGAIN
		}
	})
	if waitErr != nil {
		return 0, waitErr
	}
	return n, err
}

// ask sends a dump request; the answer arrives between other messages.
func (s *socket) ask(kind uint16, body []byte) error {
	req := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(body))
	native.PutUint32(req, uint32(unix.NLMSG_HDRLEN+len(body)))
	native.PutUint16(req[4:], kind)
	native.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	var err error
	writeErr := s.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), append(req, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return err != unix.EAGAIN
	})
	return errors.Join(writeErr, err)
}
