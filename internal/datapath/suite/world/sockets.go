package world

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/testutil"
)

// SetOption sets an IP option of a socket, by family.
func SetOption(t testing.TB, conn any, is4 bool, v4, v6, value int) {
	t.Helper()
	if is4 {
		setOption(t, conn, unix.IPPROTO_IP, v4, value)
	} else {
		setOption(t, conn, unix.IPPROTO_IPV6, v6, value)
	}
}

// SetPriority sets the priority of the packets that a connection sends (SO_PRIORITY).
func SetPriority(t testing.TB, conn any, value uint32) {
	t.Helper()
	setOption(t, conn, unix.SOL_SOCKET, unix.SO_PRIORITY, int(value))
}

func setOption(t testing.TB, conn any, level, option, value int) {
	t.Helper()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var opt error
	if err := raw.Control(func(fd uintptr) { opt = unix.SetsockoptInt(int(fd), level, option, value) }); err != nil || opt != nil {
		t.Fatal(err, opt)
	}
}

// Fails sends datagrams until one fails with an error from an ICMP message.
func Fails(t testing.TB, conn net.Conn, size int, want ...error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(Patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		_, err = conn.Write(make([]byte, size))
		if slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) }) {
			return
		}
	}
	t.Errorf("%s → %s: %d bytes: the sender never got %q (last error %v)", conn.LocalAddr(), conn.RemoteAddr(), size, want, err)
}

// Established returns a UDP connection in which several packets were sent both ways.
func Established(t testing.TB, from *Pod, to netip.Addr) net.Conn {
	t.Helper()
	conn, err := from.Dial("udp", "", At(to, 7), Patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	for range 3 {
		if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 8)); err != nil {
			t.Fatalf("%s → %s: %v", from.Name, to, err)
		}
	}
	return conn
}

// Answered sends until there is an answer.
func Answered(t testing.TB, conn net.Conn) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(Patience); time.Now().Before(deadline); {
		if err = conn.SetDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err = conn.Write([]byte("ping")); err != nil {
			continue
		}
		if _, err = conn.Read(make([]byte, 8)); err == nil {
			return
		}
	}
	t.Errorf("%s → %s: no answer: %v", conn.LocalAddr(), conn.RemoteAddr(), err)
}

func Reflect(inbox net.PacketConn) {
	buf := make([]byte, 65536)
	for {
		n, from, err := inbox.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		if _, err := inbox.WriteTo(buf[:n], from); err != nil {
			return
		}
	}
}

// Send sends a datagram from one socket to another.
func Send(t testing.TB, from, to net.PacketConn, text string) {
	t.Helper()
	if _, err := from.WriteTo([]byte(text), to.LocalAddr()); err != nil {
		t.Fatal(err)
	}
}

// Received reads packets until a text arrives, which must, and returns all that has arrived.
func Received(t testing.TB, inbox net.PacketConn, text string) string {
	t.Helper()
	if err := inbox.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for buf := make([]byte, 2048); !strings.Contains(all.String(), text); {
		n, _, err := inbox.ReadFrom(buf)
		if err != nil {
			t.Errorf("%q did not arrive at %s: %v", text, inbox.LocalAddr(), err)
			break
		}
		all.Write(buf[:n])
	}
	return all.String()
}

// Hops returns the TTL or hop limit of the next datagram as received.
func Hops(t testing.TB, inbox *net.UDPConn) int {
	t.Helper()
	if err := inbox.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	oob := make([]byte, 64)
	_, n, _, _, err := inbox.ReadMsgUDP(make([]byte, 8), oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatal(messages, err)
	}
	return int(binary.NativeEndian.Uint32(messages[0].Data))
}

// Ping sends echo requests and expects as many answers.
func Ping(t testing.TB, from *testutil.NS, to netip.Addr) {
	t.Helper()
	network, request := "ip4:icmp", byte(8)
	if to.Is6() {
		network, request = "ip6:ipv6-icmp", 128
	}
	conn, err := from.Dial(network, "", to.String(), Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	for sequence := range byte(4) {
		message := []byte{request, 0, 0, 0, 0x12, 0x34, 0, sequence}
		if to.Is4() { // the kernel fills in ICMPv6's
			binary.BigEndian.PutUint16(message[2:], ^(uint16(request)<<8 + 0x1234 + uint16(sequence)))
		}
		if _, err := conn.Write(message); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 256)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				t.Errorf("%s: ping %s: no answer to packet %d: %v", from.Name, to, sequence, err)
				return
			}
			reply := buf[:n]
			if to.Is4() && n > 20 {
				reply = reply[20:] // after the IP header
			}
			// An echo reply of either family.
			if len(reply) >= 8 && (reply[0] == 0 || reply[0] == 129) && reply[4] == 0x12 && reply[7] == sequence {
				break
			}
		}
	}
}
