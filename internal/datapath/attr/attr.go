// Package attr reads netlink attributes without allocations: a dump of kube-proxy's rules has many
// thousands of them.
package attr

import (
	"bytes"
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// Align is the offset of what follows n bytes of a netlink message (NLMSG_ALIGN, NLA_ALIGN).
func Align(n int) int { return (n + 3) &^ 3 }

// Each returns the attributes in b: of a message after its fixed part, or of a nested attribute.
func Each(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			n := int(binary.NativeEndian.Uint16(b))
			if n < unix.SizeofNlAttr || n > len(b) {
				return
			}
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(kind, b[unix.SizeofNlAttr:n]) {
				return
			}
			b = b[min(len(b), Align(n)):]
		}
	}
}

// After returns the message without its fixed part of that length.
func After(b []byte, fixed int) []byte { return b[min(len(b), Align(fixed)):] }

// Get returns the first attribute at a path of kinds, from attribute to nested attribute; nil if
// there is none.
func Get(b []byte, path ...uint16) []byte {
	for _, kind := range path {
		b = first(b, kind)
	}
	return b
}

func first(b []byte, kind uint16) []byte {
	for k, v := range Each(b) {
		if k == kind {
			return v
		}
	}
	return nil
}

// Text returns a string in netlink's form.
func Text(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// Big returns a number of four bytes in network order, which all nftables numbers are; ok is false
// if b is none.
func Big(b []byte) (n uint32, ok bool) {
	if len(b) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}
