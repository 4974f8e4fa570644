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

// nftables does not show the tables of iptables-legacy. They are read by getsockopt, as
// iptables-legacy does. They are not written: a write replaces the whole table, and the lock that
// programs share for it is a file of the host.

// From linux/netfilter_ipv4/ip_tables.h and …_ipv6/ip6_tables.h; the numbers are the same in both.
const (
	soGetInfo    = 64
	soGetEntries = 65
)

// legacyForm has the offsets of fields in a family's structs (64-bit).
type legacyForm struct {
	names   string // the file that names the tables in use
	program string
	domain  int
	level   int

	iniface, outiface int  // in struct ipt_entry
	flags             int  // u8: of struct ipt_ip
	isGoto            byte // the flag of a jump that does not return
	target            int  // u16: offset of the target
	size              int  // of the entry
}

var legacyForms = []legacyForm{
	{names: "ip_tables_names", program: "iptables-legacy", domain: unix.AF_INET, level: unix.SOL_IP,
		iniface: 16, outiface: 32, flags: 82, isGoto: 0x02, target: 88, size: 112},
	{names: "ip6_tables_names", program: "ip6tables-legacy", domain: unix.AF_INET6, level: unix.SOL_IPV6,
		iniface: 64, outiface: 80, flags: 131, isGoto: 0x04, target: 140, size: 168},
}

// legacyInfo is struct ipt_getinfo; the arrays are indexed by hook.
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
			// Reading a table that nobody uses would make the kernel load it.
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
					"pods may not reach each other. Terway does not write tables of %[1]s; run: %[1]s %[4]s FORWARD -i %[2]s+ -j ACCEPT; %[1]s %[4]s FORWARD -o %[2]s+ -j ACCEPT",
					form.program, claims.DevicePrefix, how, where))
			}
		}
		return nil
	})
	return obstacles, err
}

// read reads the table, again if it changes meanwhile.
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
	return info, nil, errors.New("it keeps changing")
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

// blocks returns how FORWARD drops or rejects what none of its other rules accepts, and the command
// that adds a rule before that; empty if it does not, or if a rule names pods' devices.
func (f legacyForm) blocks(info legacyInfo, entries []byte) (how, where string) {
	const forward = unix.NF_INET_FORWARD
	if info.ValidHooks&(1<<forward) == 0 {
		return "", ""
	}
	for at := 0; at+f.size <= len(entries); {
		for _, name := range []int{f.iniface, f.outiface} {
			if bytes.HasPrefix(entries[at+name:at+name+unix.IFNAMSIZ], []byte(claims.DevicePrefix)) {
				return "", ""
			}
		}
		next := f.next(entries[at:])
		if next == 0 {
			break
		}
		at += next
	}
	switch at, rejects := f.rejectsAll(entries, int(info.HookEntry[forward]), map[int]bool{}); {
	case !rejects:
		return "", ""
	case at == int(info.Underflow[forward]): // the policy is an entry
		return policyDrops, "-A"
	}
	return ruleRejects, "-I"
}

// next returns the length of an entry.
func (f legacyForm) next(entry []byte) int {
	return int(binary.NativeEndian.Uint16(entry[f.target+2:])) // next_offset follows target_offset
}

// Verdicts of the standard target; from 0 on they are the offset of an entry to jump to.
const (
	legacyDrop     = -1 // -NF_DROP - 1
	legacyAccept   = -2 // -NF_ACCEPT - 1
	legacyContinue = -6 // no verdict has this number
)

// rejectsAll reports whether the chain that begins at an offset drops or rejects whatever reaches it,
// by its own entry (which it returns) or by one of a chain to which it jumps. A chain that was already
// visited does not.
func (f legacyForm) rejectsAll(entries []byte, at int, seen map[int]bool) (by int, rejects bool) {
	if seen[at] {
		return 0, false
	}
	seen[at] = true
	for at >= 0 && at+f.size <= len(entries) {
		entry, next := entries[at:], f.next(entries[at:])
		switch verdict, leaves := f.always(entry); {
		case next == 0:
			return 0, false
		case verdict == legacyDrop:
			return at, true
		case verdict == legacyContinue, verdict == at+next: // a rule without a target continues with the next
		case verdict < 0: // accept, return, queue: no packet goes on
			return 0, false
		default:
			if _, rejects := f.rejectsAll(entries, verdict, seen); rejects || leaves {
				return at, rejects
			}
		}
		at += next
	}
	return 0, false
}

// always returns the verdict that an entry has for every packet, and whether a jump does not
// return. It is legacyContinue where the entry compares the packet's header or has a match other
// than a comment. Rejecting counts as dropping.
func (f legacyForm) always(entry []byte) (verdict int, leaves bool) {
	const (
		nfcache      = 4  // before target_offset, after the header match
		revision     = 31 // in struct xt_entry_match and xt_entry_target: a size, and a name of 29 bytes
		targetHeader = 32 // struct xt_entry_target
	)
	name := func(at int) string {
		name, _, _ := bytes.Cut(entry[at+2:at+revision], []byte{0})
		return string(name)
	}
	target := int(binary.NativeEndian.Uint16(entry[f.target:]))
	if len(entry) < target+targetHeader+4 {
		return legacyContinue, false
	}
	leaves = entry[f.flags]&f.isGoto != 0
	header := bytes.Clone(entry[:f.target-nfcache])
	header[f.flags] &^= f.isGoto
	if len(bytes.Trim(header, "\x00")) > 0 {
		return legacyContinue, false
	}
	for at := f.size; at < target; {
		size := int(binary.NativeEndian.Uint16(entry[at:]))
		if size < targetHeader || name(at) != "comment" {
			return legacyContinue, false
		}
		at += size
	}
	switch name(target) {
	case "": // the standard target
		return int(int32(binary.NativeEndian.Uint32(entry[target+targetHeader:]))), leaves
	case "REJECT":
		return legacyDrop, false
	case "ERROR": // the head of the next chain, or the table's end
		return legacyAccept, false
	}
	return legacyContinue, false
}
