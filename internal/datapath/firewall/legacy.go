package firewall

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

	"terway.dev/terway/internal/datapath/claims"
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
			if how, where := form.blocks(info, entries); how != "" {
				obstacles = append(obstacles, fmt.Sprintf("%[1]s: chain FORWARD %[3]s, and no rule of table filter names pods' devices (%[2]s*): "+
					"pods may not reach each other. Terway does not write tables of %[1]s; do so with: %[1]s %[4]s FORWARD -i %[2]s+ -j ACCEPT; %[1]s %[4]s FORWARD -o %[2]s+ -j ACCEPT",
					form.program, claims.DevicePrefix, how, where))
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

// blocks says how FORWARD drops or rejects what none of its other rules accepts, and by which
// command a rule gets before that; nothing if it does not, or a rule names pods' devices.
func (f legacyForm) blocks(info legacyInfo, entries []byte) (how, where string) {
	const forward = unix.NF_INET_FORWARD
	if info.ValidHooks&(1<<forward) == 0 {
		return "", ""
	}
	first, policy := int(info.HookEntry[forward]), int(info.Underflow[forward]) // the policy is an entry of its own
	for at := 0; at+f.size <= len(entries); {
		for _, name := range []int{f.iniface, f.outiface} {
			if bytes.HasPrefix(entries[at+name:at+name+unix.IFNAMSIZ], []byte(claims.DevicePrefix)) {
				return "", ""
			}
		}
		switch {
		case how != "" || at < first || at > policy || !f.rejects(entries[at:]):
		case at == policy:
			how, where = policyDrops, "-A"
		default:
			how, where = ruleRejects, "-I"
		}
		next := int(binary.NativeEndian.Uint16(entries[at+f.target+2:])) // next_offset follows target_offset
		if next == 0 {
			break
		}
		at += next
	}
	return how, where
}

// rejects reports whether an entry drops or rejects whatever reaches it: it asks nothing of
// the packet's header and has no match.
func (f legacyForm) rejects(entry []byte) bool {
	const (
		nfcache      = 4  // before target_offset, behind what is asked of the header
		revision     = 31 // in struct xt_entry_target: a size, and a name of 29 bytes
		targetHeader = 32 // struct xt_entry_target
		standardDrop = -1 // -NF_DROP - 1
	)
	target := int(binary.NativeEndian.Uint16(entry[f.target:]))
	if target != f.size || len(entry) < target+targetHeader+4 || len(bytes.Trim(entry[:f.target-nfcache], "\x00")) > 0 {
		return false
	}
	switch name, _, _ := bytes.Cut(entry[target+2:target+revision], []byte{0}); string(name) {
	case "": // the standard target: a verdict, or a jump
		return int32(binary.NativeEndian.Uint32(entry[target+targetHeader:])) == standardDrop
	case "REJECT":
		return true
	}
	return false
}
