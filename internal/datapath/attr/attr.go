// Package attr reads netlink attributes and allocates nothing: there are thousands of them in
// what the kernel says of kube-proxy's rules.
package attr

import (
	"bytes"
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// Align is the place of what follows n bytes of a netlink message (NLMSG_ALIGN, NLA_ALIGN).
func Align(n int) int { return (n + 3) &^ 3 }

// Each are the attributes in b: of a message after its fixed part, or of a nested attribute.
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

// After is the message without its fixed part of that length.
func After(b []byte, fixed int) []byte { return b[min(len(b), Align(fixed)):] }

// Get is the first attribute that the path of kinds leads to, from attribute to nested
// attribute; nil if there is none.
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

// Text is a string as netlink has it.
func Text(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// Big is a number of four bytes in network order, as nftables has all; ok is false if b is none.
func Big(b []byte) (n uint32, ok bool) {
	if len(b) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}
