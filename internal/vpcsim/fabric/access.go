package fabric

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/kernel"
)

// cloudServices is the range of the cloud's services (metadata, DNS, …) for guests.
var cloudServices = netip.MustParsePrefix("100.100.100.0/24")

// NetNSPath returns the mount path of the instance's namespace.
func (f *Fabric) NetNSPath(instance string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pathOf(instance)
}

func (f *Fabric) pathOf(instance string) (string, error) {
	path, ok := f.namespaces[instance]
	if !ok {
		return "", fmt.Errorf("fabric: instance %s has no namespace: it is not in the last topology", instance)
	}
	return path, nil
}

// PortDevice returns where to capture an ENI's traffic: the path of the switch's namespace and
// the name of the port. The port shows the frames that the guest sends. Frames to the guest are
// redirected to its device directly; they appear on the ports of their senders and on the
// guest's device.
func (f *Fabric) PortDevice(eni string) (netnsPath, device string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, ok := f.devices[eni]
	if !ok {
		return "", "", fmt.Errorf("fabric: ENI %s has no port: it is not attached", eni)
	}
	return f.switchPath(), d.name, nil
}

// Listen opens a listener in the instance. It first makes an address of 100.100.100.0/24 local
// there. Accept fails when the instance stops or is deleted.
func (f *Fabric) Listen(instance, network, address string) (net.Listener, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path, err := f.pathOf(instance)
	if err != nil {
		return nil, err
	}
	ap, err := addrPort(network, address)
	if err != nil {
		return nil, err
	}
	if cloudServices.Contains(ap.Addr()) {
		if err := addLocal(path, ap.Addr()); err != nil {
			return nil, fmt.Errorf("fabric: make %s local in instance %s: %w", ap.Addr(), instance, err)
		}
	}
	var inner net.Listener
	err = kernel.InNSAt(path, func() (err error) {
		inner, err = net.Listen(network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("fabric: listen in instance %s: %w", instance, err)
	}
	if f.listeners[instance] == nil {
		f.listeners[instance] = map[net.Listener]bool{}
	}
	l := &listener{Listener: inner, fabric: f, instance: instance}
	f.listeners[instance][l] = true
	return l, nil
}

// Dial connects from the instance.
func (f *Fabric) Dial(ctx context.Context, instance, network, address string) (net.Conn, error) {
	path, err := f.NetNSPath(instance)
	if err != nil {
		return nil, err
	}
	// A name would be resolved on another thread, which is in another namespace.
	if _, err := addrPort(network, address); err != nil {
		return nil, err
	}
	var conn net.Conn
	err = kernel.InNSAt(path, func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("fabric: dial from instance %s: %w", instance, err)
	}
	return conn, nil
}

// DialAt connects to an IPv4 address from the namespace at path. Unlike Dial it needs no Fabric,
// waits for no Apply, and holds no thread while it waits. network is tcp or udp.
func DialAt(ctx context.Context, path, network string, to netip.AddrPort) (net.Conn, error) {
	kind := unix.SOCK_STREAM
	if network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd := -1
	err := kernel.InNSAt(path, func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("fabric: open a socket in %s: %w", path, err)
	}
	begun := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	file := os.NewFile(uintptr(fd), to.String()) // not blocking: the runtime polls it
	defer file.Close()
	if errors.Is(begun, unix.EINPROGRESS) {
		begun = connected(ctx, file)
	}
	if begun != nil {
		return nil, fmt.Errorf("fabric: connect to %s %s from %s: %w", network, to, path, begun)
	}
	return net.FileConn(file)
}

// connected waits until a socket is connected.
func connected(ctx context.Context, file *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			result = err
		case code != 0:
			result = unix.Errno(code)
		default:
			_, err := unix.Getpeername(int(fd))
			return err == nil
		}
		return true
	})
	if ctx.Err() != nil && result == nil {
		return ctx.Err()
	}
	return errors.Join(result, err)
}

func addrPort(network, address string) (netip.AddrPort, error) {
	if !strings.HasPrefix(network, "tcp") && !strings.HasPrefix(network, "udp") {
		return netip.AddrPort{}, fmt.Errorf("fabric: network %q must be a form of tcp or udp", network)
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return ap, fmt.Errorf("fabric: address %q must be IP:port: %w", address, err)
	}
	return ap, nil
}

// addLocal adds the address to lo with scope host, so that masquerading never selects it as a
// source.
func addLocal(path string, a netip.Addr) error {
	return withHandle(path, func(h *netlink.Handle, _ netns.NsHandle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo: %w", err)
		}
		return h.AddrReplace(lo, &netlink.Addr{
			IPNet: netipx.AddrIPNet(a),
			Scope: unix.RT_SCOPE_HOST,
		})
	})
}

type listener struct {
	net.Listener
	fabric   *Fabric
	instance string
}

// Close also removes the listener from the list.
func (l *listener) Close() error {
	l.fabric.mu.Lock()
	delete(l.fabric.listeners[l.instance], l)
	l.fabric.mu.Unlock()
	return l.Listener.Close()
}

func (f *Fabric) closeListeners(instance string) error {
	var errs []error
	for l := range f.listeners[instance] {
		if err := l.(*listener).Listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	delete(f.listeners, instance)
	return errors.Join(errs...)
}
