package policed

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	stdnet "net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/suite/world"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/testutil"
)

// Datagrams in fragments arrive if they are allowed, and not if they are not.
func fragments(t *testing.T, e *env) {
	client, near, far := e.pod(e.n0, "client"), e.pod(e.n0, "near"), e.pod(e.n1, "far")
	for _, to := range []netip.Addr{near.V4, near.V6, far.V4, far.V6} {
		e.apply(t, outOf("client", app("near"), app("far")), into("near", app("client")), into("far", app("client")))
		conn, err := client.Dial("udp", "", world.At(to, 7), world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		exchange := func(patience time.Duration) (int, error) {
			if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(make([]byte, 4000)); err != nil {
				t.Fatal(err)
			}
			return conn.Read(make([]byte, 8000))
		}
		for range 3 {
			if n, err := exchange(world.Patience); err != nil || n != 4000 {
				t.Errorf("%s: %d of 4000 bytes came back: %v", to, n, err)
			}
		}
		e.apply(t, outOf("client"))
		if n, err := exchange(200 * time.Millisecond); err == nil {
			t.Errorf("%s: denied, and %d bytes came back", to, n)
		}
	}
}

// An error about an allowed connection reaches the pod whose rules allow no ICMP.
func icmpErrors(t *testing.T, e *env) {
	client, near, far := e.pod(e.n0, "client"), e.pod(e.n0, "near"), e.pod(e.n1, "far")
	udp := []policy.Traffic{{Protocols: &[256]bool{17: true}}}
	out, in := outOf("client", app("near"), app("far")), into("client")
	out.Rules[policy.Egress][0].Traffic = udp
	e.apply(t, out, in)
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Port: 9, Endpoint: far.V4})
	for _, to := range []netip.Addr{near.V4, near.V6, far.V4, far.V6, world.ClusterIP} {
		conn, err := client.Dial("udp", "", world.At(to, 9), world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		world.Fails(t, conn, 10, unix.ECONNREFUSED)
	}
}

// What a Service's backend sends is too big for a link on the way to the client. The error reaches the backend, whose rules allow no ICMP: from
// another node, and through the one that has translated the connection.
func errorsAboutAService(t *testing.T, e *env) {
	client, near, far := e.pod(e.n0, "client"), e.pod(e.n0, "near"), e.pod(e.n1, "far")
	var all []policy.Policy
	for _, of := range []string{"near", "far"} {
		in := into(of, app("client"), node(0), net(world.OutsideV4+"/32"))
		in.Rules[policy.Ingress][0].Traffic = []policy.Traffic{{Protocols: &[256]bool{17: true}}}
		all = append(all, in, outOf(of))
	}
	e.apply(t, all...)
	for _, c := range []struct {
		name    string
		from    *testutil.NS
		to      string
		local   bool
		backend *world.Pod
		narrow  string // of whose link; "": of the address that the backend sees
	}{
		{"a pod by the Service", client.NS, world.At(world.ClusterIP, 9), false, far, ""},
		{"outside by a NodePort of the backend's node", e.w.Outside, world.At(e.n0.V4, 30009), true, near, world.OutsideV4},
		{"outside by a NodePort of the backend's node, masqueraded", e.w.Outside, world.At(e.n0.V4, 30009), false, near, world.OutsideV4},
		{"outside by a NodePort of another node", e.w.Outside, world.At(e.n0.V4, 30009), false, far, world.OutsideV4},
	} {
		e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, NodePort: 30009, Port: 9, Local: c.local, Endpoint: c.backend.V4})
		conn, err := c.from.Dial("udp", "", c.to, world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		inbox := c.backend.ListenPacket("udp", world.At(c.backend.V4, 9))
		if _, err := conn.Write([]byte("asks")); err != nil {
			t.Fatal(err)
		}
		if err := inbox.SetReadDeadline(time.Now().Add(world.Patience)); err != nil {
			t.Fatal(err)
		}
		_, seen, err := inbox.ReadFrom(make([]byte, 8))
		if err := errors.Join(err, inbox.Close()); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		back, err := c.backend.Dial("udp", world.At(c.backend.V4, 9), seen.String(), world.Patience)
		if err != nil {
			t.Fatal(err)
		}
		world.SetOption(t, back, true, unix.IP_MTU_DISCOVER, 0, unix.IP_PMTUDISC_DO)
		route := strings.TrimSpace(e.w.Fabric.IP("route show " + cmp.Or(c.narrow, netip.MustParseAddrPort(seen.String()).Addr().String())))
		e.w.Fabric.IP("route replace " + route + " mtu 1300")
		t.Cleanup(func() { e.w.Fabric.IP("route replace " + route) })
		world.Fails(t, back, 1400, unix.EMSGSIZE)
		if err := back.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A pod is no router: an error that it sends about a connection of another pod is a packet like any other.
func errorsOfOthers(t *testing.T, e *env) {
	client, other, far := e.pod(e.n0, "client"), e.pod(e.n0, "other"), e.pod(e.n1, "far")
	udp := outOf("client", app("far"))
	udp.Rules[policy.Egress][0].Traffic = []policy.Traffic{{Protocols: &[256]bool{17: true}}}
	e.apply(t, udp, outOf("other"))
	conn, err := client.Dial("udp", "", world.At(far.V4, 7), world.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	world.ExchangeUDP(t, conn)
	at := conn.LocalAddr().(*stdnet.UDPAddr).AddrPort()
	send := func(from *world.Pod, text string) {
		_, quoted := world.Datagram(netip.AddrPortFrom(far.V4, 7), netip.AddrPortFrom(client.V4, at.Port()), []byte(text))
		etherType, packet := world.Packet(from.V4, far.V4, unix.IPPROTO_ICMP, append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, quoted...))
		from.SendOut(etherType, packet)
	}
	watch := world.NewWatch(t, far.NS)
	send(other, "of the other pod")
	send(client, "of the client")
	if !watch.Await("of the client") {
		t.Error("an error about the client's own connection did not arrive")
	}
	if watch.Has("of the other pod") {
		t.Error("an error about the client's connection arrived from another pod, which may send nothing")
	}
}

// The first fragment of a SYN has no flags of TCP; what the frame has in their place does not count.
func synInFragmentsIsJudged(t *testing.T, e *env) {
	client, near := e.pod(e.n0, "client"), e.pod(e.n0, "near")
	e.n0.KubeProxy(world.Service{ClusterIP: world.ClusterIP, Endpoint: near.V4})
	watch := world.NewWatch(t, near.NS)
	send := func(port uint16, text string) {
		etherType, parts := world.SYNFragments(netip.AddrPortFrom(client.V4, port), netip.AddrPortFrom(world.ClusterIP, 80), port, fmt.Appendf(nil, "%-40s", text))
		behind := make([]byte, 12)
		behind[13-8] = 0x10 // ACK
		client.SendFrame(client.Wiring.HostMAC, etherType, append(parts[0], behind...))
		client.SendFrame(client.Wiring.HostMAC, etherType, parts[1])
	}
	e.apply(t, outOf("client"))
	send(5001, "a denied SYN")
	e.apply(t, outOf("client", app("near")))
	send(5002, "an allowed SYN")
	if !watch.Await("an allowed SYN") {
		t.Error("an allowed SYN in fragments did not arrive")
	}
	if watch.Has("a denied SYN") {
		t.Error("a denied SYN in fragments arrived")
	}
}

// A pod reaches its node by no address that its policies do not allow, also by those that no device has, and by nothing that cannot be read.
func everyAddressOfTheNode(t *testing.T, e *env) {
	client := e.pod(e.n0, "client")
	e.n0.IPs("link add more type veth peer name end", "addr add 192.0.2.1/24 brd 192.0.2.255 dev more", "link set more up", "link set end up",
		"route add local 198.51.100.0/24 dev lo")
	t.Cleanup(func() { e.n0.IPs("link del more", "route del local 198.51.100.0/24 dev lo") })
	deny, allow := outOf("client"), outOf("client", net("0.0.0.0/0"))
	send := func(etherType uint16, packet []byte) { client.SendFrame(client.Wiring.HostMAC, etherType, packet) }
	from := netip.AddrPortFrom(client.V4, 5000)
	datagrams := e.n0.ListenPacket("ip4:udp", "0.0.0.0")
	for _, to := range []string{"192.0.2.1", "192.0.2.255", "198.51.100.7"} {
		at := netip.AddrPortFrom(netip.MustParseAddr(to), 5000)
		e.apply(t, deny)
		send(world.Datagram(from, at, []byte("denied")))
		e.apply(t, allow)
		send(world.Datagram(from, at, []byte("allowed")))
		if strings.Contains(world.Received(t, datagrams, "allowed"), "denied") {
			t.Errorf("a denied datagram arrived at %s", to)
		}
	}
	segments := e.n0.ListenPacket("ip4:tcp", "0.0.0.0")
	at := netip.AddrPortFrom(e.n0.V4, 5000)
	e.apply(t, deny)
	etherType, parts := world.SYNFragments(from, at, 1, []byte("denied"))
	send(etherType, parts[0])
	send(etherType, parts[1])
	e.apply(t, allow)
	send(world.SYN(from, at, []byte("allowed")))
	if strings.Contains(world.Received(t, segments, "allowed"), "denied") {
		t.Error("a denied SYN in fragments arrived")
	}
}

// Neighbour discovery and DHCPv6 are of a link: what is forwarded is neither. What has too many headers to be read goes nowhere.
func whateverIsForwarded(t *testing.T, e *env) {
	client, far := e.pod(e.n0, "client"), e.pod(e.n1, "far")
	watch := world.NewWatch(t, far.NS)
	noUDP := outOf("client", app("far"))
	noUDP.Rules[policy.Egress] = append([]policy.Rule{{Action: policy.Deny, Traffic: []policy.Traffic{{Protocols: &[256]bool{17: true}}}}}, noUDP.Rules[policy.Egress]...)
	datagram := func(from, to uint16, text string) []byte {
		_, packet := world.Datagram(netip.AddrPortFrom(client.V6, from), netip.AddrPortFrom(far.V6, to), []byte(text))
		return packet
	}
	for _, c := range []struct {
		name string
		deny policy.Policy
		send func(text string) []byte
	}{
		{"an answer of DHCPv6", outOf("client"), func(text string) []byte { return datagram(547, 546, text) }},
		{"a neighbour solicitation", outOf("client"), func(text string) []byte {
			_, packet := world.Packet(client.V6, far.V6, unix.IPPROTO_ICMPV6, append([]byte{135, 0, 0, 0}, text...))
			return packet
		}},
		{"a datagram behind two headers", noUDP, func(text string) []byte { return extended(datagram(5000, 5000, text), 2) }},
		{"a datagram behind nine headers", noUDP, func(text string) []byte {
			if strings.HasPrefix(text, "allowed") {
				return datagram(5000, 5000, text)
			}
			return extended(datagram(5000, 5000, text), 9)
		}},
	} {
		e.apply(t, c.deny)
		client.SendOut(unix.ETH_P_IPV6, c.send("denied: "+c.name))
		e.apply(t, outOf("client", app("far")))
		client.SendOut(unix.ETH_P_IPV6, c.send("allowed: "+c.name))
		if !watch.Await("allowed: " + c.name) {
			t.Errorf("%s did not arrive", c.name)
		}
		if watch.Has("denied: " + c.name) {
			t.Errorf("%s arrived, and was denied", c.name)
		}
	}
}

// extended puts options for the destination, without any, behind the header of an IPv6 packet.
func extended(packet []byte, headers int) []byte {
	ip, payload := slices.Clone(packet[:40]), packet[40:]
	binary.BigEndian.PutUint16(ip[4:], uint16(8*headers+len(payload)))
	last := ip[6]
	ip[6] = unix.IPPROTO_DSTOPTS
	for i := range headers {
		next := byte(unix.IPPROTO_DSTOPTS)
		if i == headers-1 {
			next = last
		}
		ip = append(ip, next, 0, 1, 4, 0, 0, 0, 0)
	}
	return append(ip, payload...)
}

// A packet with the source of another pod, which may reach its target, reaches nobody and is counted once.
func spoofedSources(t *testing.T, e *env) {
	thief, victim, target := e.pod(e.n0, "thief"), e.pod(e.n0, "victim"), e.pod(e.n0, "target")
	for _, c := range []struct{ stolen, own, to netip.Addr }{{victim.V4, thief.V4, target.V4}, {victim.V6, thief.V6, target.V6}} {
		thief.IP(fmt.Sprintf("addr add %s/%d dev lo nodad", c.stolen, c.stolen.BitLen()))
		inbox := target.ListenPacket("udp", world.At(c.to, 9))
		before := e.n0.Spoofed()
		world.SendFrom(t, thief.NS, world.At(c.stolen, 0), world.At(c.to, 9))
		if n := e.n0.Spoofed() - before; n != 1 {
			t.Errorf("from %s: %d packets were counted as spoofed, want 1", c.stolen, n)
		}
		world.SendFrom(t, thief.NS, world.At(c.own, 0), world.At(c.to, 9))
		if err := inbox.SetReadDeadline(time.Now().Add(world.Patience)); err != nil {
			t.Fatal(err)
		}
		_, from, err := inbox.ReadFrom(make([]byte, 8))
		if err != nil {
			t.Fatalf("own source: %v", err)
		}
		if got := netip.MustParseAddrPort(from.String()).Addr(); got != c.own {
			t.Errorf("the first packet that arrived is from %s, want %s", got, c.own)
		}
	}
}
