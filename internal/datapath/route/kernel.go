package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/netlinkx"
)

// Netlink and /proc helpers that know nothing of pods.

// delGroup deletes every device of a group with one request: the kernel then
// waits for RCU once for all of them, not once for each (26 ms).
func delGroup(ns netns.NsHandle, group uint32) error {
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

// sysctl is one file below /proc/sys/net and the value it should have.
type sysctl struct {
	path  string
	value string
}

// setSysctls is writeSysctls in a namespace.
func setSysctls(procSys string, ns netns.NsHandle, list []sysctl) (changed []string, err error) {
	err = kernel.InNS(ns, func() error {
		var err error
		changed, err = writeSysctls(procSys, list)
		return err
	})
	return changed, err
}

// writeSysctls writes values that differ, and returns the ones it wrote. A file that does
// not exist (a kernel without IPv6) is passed over; one that fails keeps none of the others
// from being written.
func writeSysctls(procSys string, list []sysctl) ([]string, error) {
	var changed []string
	var errs []error
	for _, s := range list {
		was, err := s.set(procSys)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			errs = append(errs, fmt.Errorf("set sysctl net/%s to %s: %w", s.path, s.value, err))
		case was != s.value:
			changed = append(changed, fmt.Sprintf("set sysctl net/%s from %s to %s", s.path, was, s.value))
		}
	}
	return changed, errors.Join(errs...)
}

// set writes the value if it differs from what was. It is called several times for each
// pod, so it makes as few system calls as it can.
func (s sysctl) set(procSys string) (was string, err error) {
	path := filepath.Join(procSys, "net", s.path)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EROFS) {
		// What is right already need not be written.
		old, readErr := os.ReadFile(path)
		if was = strings.TrimSpace(string(old)); readErr != nil || was == s.value {
			return was, readErr
		}
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	old := make([]byte, 64) // every sysctl here is a small number
	n, err := unix.Read(fd, old)
	if err != nil {
		return "", err
	}
	if was = strings.TrimSpace(string(old[:n])); was == s.value {
		return was, nil
	}
	_, err = unix.Pwrite(fd, []byte(s.value), 0)
	return was, err
}

// differing says whether a sysctl exists with another value.
func differing(procSys string, ns netns.NsHandle, s sysctl) (bool, error) {
	differs := false
	err := kernel.InNS(ns, func() error {
		old, err := os.ReadFile(filepath.Join(procSys, "net", s.path))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read sysctl net/%s: %w", s.path, err)
		}
		differs = strings.TrimSpace(string(old)) != s.value
		return nil
	})
	return differs, err
}

var bothFamilies = []int{netlink.FAMILY_V4, netlink.FAMILY_V6}

// noFamily says that a listing failed because the kernel has no IPv6.
func noFamily(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

func defaultNet(family int) *net.IPNet {
	if family == netlink.FAMILY_V4 {
		return netipx.PrefixIPNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	}
	return netipx.PrefixIPNet(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func familyName(family int) string {
	if family == netlink.FAMILY_V4 {
		return "IPv4"
	}
	return "IPv6"
}

// addrFrom is the address in a netlink answer, or the zero Addr.
func addrFrom(ip net.IP) netip.Addr {
	a, _ := netipx.FromStdIP(ip)
	return a
}

// hostRouteDst is the address a host route leads to, or the zero Addr.
func hostRouteDst(r netlink.Route) netip.Addr {
	if r.Dst == nil {
		return netip.Addr{}
	}
	if ones, bits := r.Dst.Mask.Size(); ones != bits {
		return netip.Addr{}
	}
	return addrFrom(r.Dst.IP)
}

// sameDst compares destinations; the kernel leaves out that of a default route.
func sameDst(a, b netlink.Route) bool {
	if isDefault(a) || isDefault(b) {
		return isDefault(a) && isDefault(b)
	}
	return a.Dst.String() == b.Dst.String()
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}
