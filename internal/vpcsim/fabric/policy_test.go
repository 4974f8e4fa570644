package fabric_test

import (
	"net/netip"
	"testing"
	"time"

	"terway.dev/terway/internal/vpcsim/fabric"
)

const (
	icmp = 1
	tcp  = 6
	udp  = 17
)

// impatience is how long a test waits for packets that must not arrive.
const impatience = 1200 * time.Millisecond

// secured makes i-1 in sg-1 and i-2 in sg-2, whose rules the test sets.
func secured(t *testing.T) (*world, *fabric.SecurityGroup) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.top.SecurityGroups = append(w.top.SecurityGroups, fabric.SecurityGroup{ID: "sg-2", InnerAccept: true, AcceptEgress: true})
	w.port("eni-2").SecurityGroups = []string{"sg-2"}
	return w, &w.top.SecurityGroups[1]
}

func accept(priority int, protocol uint8, from string) fabric.Rule {
	return fabric.Rule{Accept: true, Priority: priority, Protocol: protocol, Peer: netip.MustParsePrefix(from)}
}

func deny(priority int, protocol uint8, from string) fabric.Rule {
	r := accept(priority, protocol, from)
	r.Accept = false
	return r
}

func TestIncomingIsDeniedByDefaultAndRepliesPass(t *testing.T) {
	w, _ := secured(t)
	w.apply()
	w.dropped(1, "security-group", func() { w.mustNotPing(1, "10.1.0.2") })
	w.dropped(1, "security-group", func() { w.mustNotPing(1, "2001:db8:1::2") })
	// sg-1 denies incoming traffic too: i-2 can only reply to i-1.
	w.mustNotPing(2, "10.1.0.1")
	w.top.SecurityGroups[0].Rules = []fabric.Rule{accept(1, icmp, "10.1.0.2/32")}
	w.apply()
	w.mustPing(2, "10.1.0.1")
	w.mustNotPing(1, "10.1.0.2")
}

func TestGroupAcceptsItsMembersUnlessIsolated(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.apply()
	w.mustPing(1, "10.1.0.2")
	w.top.SecurityGroups[0].InnerAccept = false
	w.apply()
	w.mustNotPing(1, "10.1.0.2")
}

func TestPriorityAndDropWinsOnTie(t *testing.T) {
	w, g := secured(t)
	for _, c := range []struct {
		name  string
		rules []fabric.Rule
		want  bool
	}{
		{"accept alone", []fabric.Rule{accept(10, icmp, "10.1.0.0/24")}, true},
		{"accept before drop", []fabric.Rule{deny(11, icmp, "10.1.0.1/32"), accept(10, 0, "10.0.0.0/8")}, true},
		{"drop before accept", []fabric.Rule{accept(10, icmp, "10.1.0.1/32"), deny(9, 0, "0.0.0.0/0")}, false},
		{"drop wins the tie", []fabric.Rule{accept(10, icmp, "10.1.0.1/32"), deny(10, icmp, "10.1.0.1/32")}, false},
		{"another peer", []fabric.Rule{accept(10, icmp, "10.1.0.3/32")}, false},
		{"another protocol", []fabric.Rule{accept(10, udp, "0.0.0.0/0")}, false},
		{"IPv6 only", []fabric.Rule{accept(10, 0, "::/0")}, false},
		{"members of the peer group", []fabric.Rule{{Accept: true, Priority: 1, PeerGroup: "sg-1"}}, true},
		{"members of another group", []fabric.Rule{{Accept: true, Priority: 1, PeerGroup: "sg-9"}}, false},
		{"one local address", []fabric.Rule{{Accept: true, Priority: 1, Local: netip.MustParsePrefix("10.1.0.2/32")}}, true},
		{"another local address", []fabric.Rule{{Accept: true, Priority: 1, Local: netip.MustParsePrefix("10.1.0.4/32")}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			g.Rules = c.rules
			w.apply()
			if c.want {
				w.mustPing(1, "10.1.0.2")
			} else {
				w.mustNotPing(1, "10.1.0.2")
			}
		})
	}
}

func TestEgressRules(t *testing.T) {
	w, g := secured(t)
	g.Rules = []fabric.Rule{accept(1, 0, "0.0.0.0/0")}
	w.top.SecurityGroups[0].Rules = []fabric.Rule{{Direction: fabric.Egress, Priority: 1, Protocol: tcp, Ports: fabric.PortRange{From: 7001, To: 7002}}}
	w.apply()
	w.mustPing(1, "10.1.0.2")
	if _, err := tryConnect(w, 1, 2, "10.1.0.2:7002", impatience); err == nil {
		t.Error("a denied port was reached")
	}
	connect(t, w, 1, 2, "10.1.0.2:7003")
	w.top.SecurityGroups[0].AcceptEgress, w.top.SecurityGroups[0].Rules = false, nil
	w.apply()
	w.mustNotPing(1, "10.1.0.2")
}

func TestPortRanges(t *testing.T) {
	w, g := secured(t)
	r := accept(1, tcp, "10.1.0.1/32")
	r.Ports = fabric.PortRange{From: 8000, To: 8001}
	g.Rules = []fabric.Rule{r}
	w.apply()
	for address, want := range map[string]bool{"10.1.0.2:7999": false, "10.1.0.2:8000": true, "10.1.0.2:8001": true, "10.1.0.2:8002": false} {
		c, err := tryConnect(w, 1, 2, address, impatience)
		if (err == nil) != want {
			t.Errorf("%s: reached %v, want %v (%v)", address, err == nil, want, err)
		}
		if err == nil {
			c.close()
		}
	}
}

func TestEstablishedConnectionsFollowTheRules(t *testing.T) {
	w, g := secured(t)
	g.Rules = []fabric.Rule{accept(10, tcp, "10.1.0.0/24")}
	w.apply()
	c := connect(t, w, 1, 2, "10.1.0.2:7001")
	c.exchange([]byte("before"))

	// Another set of rules that accepts the connection changes nothing for either direction,
	// even if the responder sends first, which no rule allows to connect to i-1.
	g.Rules = []fabric.Rule{accept(20, tcp, "10.1.0.1/32"), deny(30, 0, "0.0.0.0/0")}
	w.apply()
	c.client, c.server = c.server, c.client
	c.exchange([]byte("other rules"))
	c.client, c.server = c.server, c.client

	g.Rules = nil
	w.apply()
	w.dropped(1, "security-group", func() {
		if err := c.tryExchange([]byte("revoked"), impatience); err == nil {
			t.Error("the connection goes on without a rule that accepts it")
		}
	})
}

func TestIcmpErrorsOfAFlowComeBack(t *testing.T) {
	w, g := secured(t)
	g.Rules = []fabric.Rule{accept(10, udp, "10.1.0.1/32")}
	w.apply()
	// No rule of sg-1 accepts ICMP from i-2; the port is closed.
	if got := udpTo(t, w, 1, "10.1.0.2:9"); got == nil || !isRefused(got) {
		t.Errorf("a datagram to a closed port: %v, want connection refused", got)
	}
}
