package route

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/kernel"
)

// iptables-legacy keeps its tables where nftables does not see them. They are read by
// getsockopt, as the program does; they are not written: who writes replaces the whole table,
// and the lock that programs share for it is a file of the host.

// From linux/netfilter_ipv4/ip_tables.h and …_ipv6/ip6_tables.h; the two have the same numbers.
const (
	soGetInfo    = 64
	soGetEntries = 65
)

// legacyForm is where a family's structs have their fields (64-bit).
type legacyForm struct {
	names   string // the file that names the tables in use
	program string
	domain  int
	level   int

	iniface, outiface int // in struct ipt_entry
	target            int // u16: offset of the target
	size              int // of the entry
}

var legacyForms = []legacyForm{
	{names: "ip_tables_names", program: "iptables-legacy", domain: unix.AF_INET, level: unix.SOL_IP,
		iniface: 16, outiface: 32, target: 88, size: 112},
	{names: "ip6_tables_names", program: "ip6tables-legacy", domain: unix.AF_INET6, level: unix.SOL_IPV6,
		iniface: 64, outiface: 80, target: 140, size: 168},
}

// legacyInfo is struct ipt_getinfo; the arrays are by hook.
type legacyInfo struct {
	Name       [32]byte
	ValidHooks uint32
	HookEntry  [5]uint32
	Underflow  [5]uint32
	NumEntries uint32
	Size       uint32
}

func legacyObstacles(ns netns.NsHandle) (obstacles []string, err error) {
	err = kernel.InNS(ns, func() error {
		for _, form := range legacyForms {
			// Asking the kernel for a table that nobody uses would load it.
			names, err := os.ReadFile("/proc/thread-self/net/" + form.names)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if !slices.Contains(strings.Fields(string(names)), "filter") {
				continue
			}
			info, entries, err := form.read()
			if err != nil {
				return fmt.Errorf("read table filter of %s: %w", form.program, err)
			}
			if form.drops(info, entries) {
				obstacles = append(obstacles, fmt.Sprintf("%[1]s: chain FORWARD drops by policy, and no rule of table filter names pods' devices (%[2]s*): "+
					"pods may not reach each other. Terway does not write tables of %[1]s; do so with: %[1]s -A FORWARD -i %[2]s+ -j ACCEPT; %[1]s -A FORWARD -o %[2]s+ -j ACCEPT",
					form.program, podDevices))
			}
		}
		return nil
	})
	return obstacles, err
}

// read gets the table. One that changes meanwhile is read again.
func (f legacyForm) read() (info legacyInfo, entries []byte, err error) {
	fd, err := unix.Socket(f.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return info, nil, err
	}
	defer unix.Close(fd)
	for range 10 {
		buf := make([]byte, binary.Size(info))
		copy(buf, "filter")
		if err := f.get(fd, soGetInfo, buf); err != nil {
			return info, nil, err
		}
		if _, err := binary.Decode(buf, binary.NativeEndian, &info); err != nil {
			return info, nil, err
		}
		const header = 40 // struct ipt_get_entries: name, size, and four bytes before the entries
		buf = make([]byte, header+int(info.Size))
		copy(buf, "filter")
		binary.NativeEndian.PutUint32(buf[32:], info.Size)
		switch err := f.get(fd, soGetEntries, buf); {
		case err == nil:
			return info, buf[header:], nil
		case !errors.Is(err, unix.EAGAIN):
			return info, nil, err
		}
	}
	return info, nil, errors.New("it does not stop changing")
}

func (f legacyForm) get(fd, option int, buf []byte) error {
	size := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(f.level), uintptr(option),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// drops reports whether the policy of FORWARD is DROP and no rule names pods' devices.
func (f legacyForm) drops(info legacyInfo, entries []byte) bool {
	const (
		forward       = unix.NF_INET_FORWARD
		targetHeader  = 32 // struct xt_entry_target
		standardDrop  = -1 // -NF_DROP - 1
		nextAfterFrom = 2  // next_offset follows target_offset
	)
	if info.ValidHooks&(1<<forward) == 0 {
		return false
	}
	at := int(info.Underflow[forward]) // the policy is an entry of its own
	if at < 0 || at+f.size > len(entries) {
		return false
	}
	verdict := at + int(binary.NativeEndian.Uint16(entries[at+f.target:])) + targetHeader
	if verdict+4 > len(entries) || int32(binary.NativeEndian.Uint32(entries[verdict:])) != standardDrop {
		return false
	}
	for at := 0; at+f.size <= len(entries); {
		for _, name := range []int{f.iniface, f.outiface} {
			if bytes.HasPrefix(entries[at+name:at+name+unix.IFNAMSIZ], []byte(podDevices)) {
				return false
			}
		}
		next := int(binary.NativeEndian.Uint16(entries[at+f.target+nextAfterFrom:]))
		if next == 0 {
			break
		}
		at += next
	}
	return true
}
