package route

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/suite"
)

// former is the table as versions before wrote it: NAT in family inet too, and nothing
// of IPVS. The oldest had chain source behind conntrack's defragmentation, the
// note on a connection inside the mask of slots, and no chain by-eni.
func former(node datapath.Node, oldest bool) (ruleset, error) {
	rs, err := newRuleset(node)
	if err != nil {
		return rs, err
	}
	byName := map[string]*nftables.Chain{}
	rs.chains = slices.DeleteFunc(rs.chains, func(c *nftables.Chain) bool {
		gone := c.Name == chainToNode || oldest && c.Name == chainENI || c.Table.Family == nftables.TableFamilyIPv6
		if !gone {
			byName[c.Name] = c
		}
		return gone
	})
	masquerade := byName[chainMasquerade]
	masquerade.Name, masquerade.Table, rs.nat = "masquerade", rs.table, nil
	byName[masquerade.Name] = masquerade
	if oldest {
		byName[chainSource].Priority = nftables.ChainPriorityRaw
	}
	exit := byName[chainExit]
	var old []rule
	if oldest {
		old = append(old,
			rule{exit, "only its port was changed: on by its ENI",
				join(ctDirection(ctOriginal), ctStatus(ctSNAT), ctMarkIs(claims.ConnMarkByENIOld, claims.ConnMarkByENIOld), verdict(expr.VerdictAccept))},
			rule{exit, "first packet that leaves by its ENI: note it",
				join(ctDirection(ctOriginal), ctStatusNot(ctConfirmed), setCtMark(claims.ConnMarkByENIOld))})
	}
	var rules []rule
	for _, r := range rs.rules {
		if i := slices.IndexFunc(old, func(o rule) bool { return o.chain == r.chain && o.purpose == r.purpose }); i >= 0 {
			r = old[i]
		}
		leads := slices.ContainsFunc(r.exprs, func(e expr.Any) bool {
			v, ok := e.(*expr.Verdict)
			return ok && v.Chain == chainENI
		})
		if byName[r.chain.Name] == r.chain && !(oldest && leads) && !strings.Contains(r.purpose, "IPVS") {
			rules = append(rules, r)
		}
	}
	rs.rules = rules
	return rs, nil
}

// writeFormer writes what former says, with the flag that versions before gave to the maps.
func writeFormer(n *nft, rs ruleset) error {
	return n.do(func(c *nftables.Conn) error {
		elems, err := readElements(c)
		if err != nil {
			return err
		}
		have, err := ownTables(c)
		if err != nil {
			return err
		}
		for _, t := range have {
			c.DelTable(t)
		}
		c.AddTable(rs.table)
		c.AddObj(spoofedCounter(&expr.Counter{}))
		for _, name := range []string{mapPods4, mapPods6} {
			set := podsMap(rs.table, name)
			set.Concatenation = true
			if err := c.AddSet(set, nil); err != nil {
				return err
			}
		}
		for name, ranges := range map[string][]netipx.IPRange{setInside4: rs.inside4, setInside6: rs.inside6} {
			if err := c.AddSet(insideSet(rs.table, name), intervals(ranges)); err != nil {
				return err
			}
		}
		if err := eachSet(elems, c.SetAddElements); err != nil {
			return err
		}
		for _, chain := range rs.chains {
			c.AddChain(chain)
		}
		for _, r := range rs.rules {
			rule, err := r.nftRule()
			if err != nil {
				return err
			}
			c.AddRule(rule)
		}
		return c.Flush()
	})
}

// A node that an older version left is put right by the first Sync, and connections of every
// way out go on. (TCP's: while a device's ARP is turned off a packet may be lost.)
func TestUpgradeInPlace(t *testing.T) {
	t.Run("from the version before", func(t *testing.T) { upgrade(t, false) })
	t.Run("from the oldest", func(t *testing.T) { upgrade(t, true) })
}

func upgrade(t *testing.T, oldest bool) {
	w := newWorld(t, 2, 2)
	n, n1 := w.Nodes[0], w.Nodes[1]
	n.Desired.MasqueradeOutside = true
	n.Sync()
	n1.Sync()
	a, near, far := n.AddPod(2, "4", "6"), n.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, p := range []*suite.Pod{a, near, far} {
		p.Echo(7)
	}
	l := w.Outside.Listen("tcp", suite.OutsideV4+":7")
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			go io.Copy(conn, conn)
		}
	}()
	n.KubeProxy(suite.Service{ClusterIP: suite.ClusterIP, Port: 7, NodePort: 30007, Endpoint: far.V4})

	rs, err := former(n.Desired, oldest)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFormer(&own(n).nft, rs); err != nil {
		t.Fatalf("write the former table: %v", err)
	}
	for _, p := range []*suite.Pod{a, near} {
		dev := p.Wiring.HostIfName
		n.IPs("link set "+dev+" arp on",
			"neigh replace "+p.V4.String()+" lladdr "+p.Wiring.PodMAC.String()+" dev "+dev+" nud permanent",
			"neigh replace "+p.V6.String()+" lladdr "+p.Wiring.PodMAC.String()+" dev "+dev+" nud permanent")
	}

	talks := []*suite.Talking{
		suite.StartTalk(t, a.NS, "tcp", suite.At(far.V4, 7)), suite.StartTalk(t, a.NS, "tcp", suite.At(far.V6, 7)),
		suite.StartTalk(t, a.NS, "tcp", suite.At(near.V4, 7)), suite.StartTalk(t, n.NS, "tcp", suite.At(a.V6, 7)),
		suite.StartTalk(t, far.NS, "tcp", suite.At(a.V4, 7)), suite.StartTalk(t, w.Outside, "tcp", suite.At(a.V4, 7)),
		suite.StartTalk(t, w.Outside, "tcp", suite.At(n.V4, 30007)), suite.StartTalk(t, a.NS, "tcp", l.Addr().String()),
		// The second looks like the first behind its translation: conntrack changes its port.
		suite.StartTalkFrom(t, a.NS, suite.At(a.V4, 40007), suite.At(suite.ClusterIP, 7)),
		suite.StartTalkFrom(t, a.NS, suite.At(a.V4, 40007), suite.At(far.V4, 7)),
	}
	for _, k := range talks {
		k.More(5)
	}
	n.DP = n.NewDatapath()
	repairs := n.Sync(a, near)
	for _, want := range []string{"wrote the nftables tables: ", a.Name + ": device " + a.Wiring.HostIfName + " answers ARP"} {
		if !strings.Contains(strings.Join(repairs, "\n"), want) {
			t.Errorf("repairs %q lack %q", repairs, want)
		}
	}
	for _, k := range talks {
		k.More(20)
		k.End(t)
	}
	if repairs := n.Sync(a, near); len(repairs) != 0 {
		t.Errorf("second Sync repairs %q", repairs)
	}
	for _, p := range []*suite.Pod{a, near} {
		if err := n.DP.CheckPod(t.Context(), n.Desired, p.Spec); err != nil {
			t.Error(err)
		}
	}
	if got := w.Strict(); got != 0 {
		t.Errorf("the VPC dropped %d packets with a source on the wrong ENI", got)
	}
	if got := n.Run("nft", "list", "table", "inet", claims.TableName); strings.Contains(got, "type nat") {
		t.Errorf("NAT is still in family inet:\n%s", got)
	}
	h, err := own(n).host()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if link, err := h.LinkByName(a.Wiring.HostIfName); err != nil || link.Attrs().RawFlags&unix.IFF_NOARP == 0 {
		t.Errorf("ARP is on: %v", err)
	}
}
