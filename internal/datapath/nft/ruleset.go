package nft

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
)

// The nftables tables as data: chains, sets and rules for a node. tables.go writes them into the
// kernel and compares.
//
// Nothing here is newer than Linux 4.19: no nat chain in family inet (5.2), no flag of concatenated
// keys (5.6). TestRulesetSuitsLinux419 and TestMessagesSuitLinux419 check what is sent.
//
// A connection's way out is decided by its first packet and then follows conntrack: a NATed
// connection continues to leave as its NAT requires, whatever changes in the configuration
// meanwhile.

const (
	chainSource     = "source"
	chainExit       = "exit"
	chainMain       = "by-main"
	chainOutside    = "by-node"
	chainENI        = "by-eni"
	chainMasquerade = "as-node" // nft does not accept the name "masquerade"
	chainToNode     = "to-node"

	mapPods4    = "pods4"
	mapPods6    = "pods6"
	setInside4  = "inside4"
	setInside6  = "inside6"
	counterName = "spoofed"

	// afterDNAT: kube-proxy and portmap have chosen the destination and requested masquerade; the
	// route is not looked up yet.
	afterDNAT = nftables.ChainPriority(-90)

	// beforeDefrag is NF_IP_PRI_RAW_BEFORE_DEFRAG (linux/netfilter_ipv4.h; IPv6 has the same).
	// Conntrack reassembles fragments at -400, whatever device each came from: a pod's fragment
	// with another pod's source has to be dropped before.
	beforeDefrag = nftables.ChainPriority(-450)
)

// Bits of enum ip_conntrack_status in linux/netfilter/nf_conntrack_common.h, and
// the directions of enum ip_conntrack_dir.
const (
	ctConfirmed = 1 << 3
	ctSNAT      = 1 << 4
	ctDNAT      = 1 << 5 // not set by IPVS

	ctOriginal = 0
	ctReply    = 1
)

// Offsets in the IP headers.
const (
	ip4Source, ip4Dest = 12, 16
	ip6Source, ip6Dest = 8, 24
)

// Ruleset is the desired content of the tables for one node, without the pods.
type Ruleset struct {
	table *nftables.Table
	// nat has a table for each family of the node.
	nat    []*nftables.Table
	chains []*nftables.Chain
	rules  []rule
	// inside4 and inside6 are never masqueraded.
	inside4, inside6 []netipx.IPRange
}

// rule is one rule with a comment that names its purpose. The comment contains a fingerprint of the
// expressions, so that comparing comments compares rules.
type rule struct {
	chain   *nftables.Chain
	purpose string
	exprs   []expr.Any
}

func (rs Ruleset) tables() []*nftables.Table { return append([]*nftables.Table{rs.table}, rs.nat...) }

// NewRuleset returns the ruleset of a node; the error names CIDRs that cannot be merged.
func NewRuleset(node datapath.Node) (Ruleset, error) {
	rs := Ruleset{table: nftTable()}
	for _, f := range node.Families() {
		rs.nat = append(rs.nat, natTable(f))
	}
	accept := nftables.ChainPolicyAccept
	chain := func(table *nftables.Table, name string) *nftables.Chain {
		c := &nftables.Chain{Name: name, Table: table}
		rs.chains = append(rs.chains, c)
		return c
	}
	base := func(table *nftables.Table, name string, hook *nftables.ChainHook, prio nftables.ChainPriority, typ nftables.ChainType) *nftables.Chain {
		c := chain(table, name)
		c.Hooknum, c.Priority, c.Type, c.Policy = hook, nftables.ChainPriorityRef(prio), typ, &accept
		return c
	}
	byMain, byNode, byENI := chain(rs.table, chainMain), chain(rs.table, chainOutside), chain(rs.table, chainENI)
	source := base(rs.table, chainSource, nftables.ChainHookPrerouting, beforeDefrag, nftables.ChainTypeFilter)
	exit := base(rs.table, chainExit, nftables.ChainHookPrerouting, afterDNAT, nftables.ChainTypeFilter)
	rs.rules = []rule{
		{byMain, "no ENI: follow the node's own routes", setSlot(0)},
		{byNode, "leave with the node's address", setSlot(claims.SlotOutside)},
		{byENI, "mark of its ENI again: others may have taken it off",
			join(markWithout(claims.MarkMask|claims.ConnMarkByENI|claims.ConnMarkToNode), family(unix.NFPROTO_IPV4), markFromMap(mapPods4, ip4Source, 4))},
		{byENI, "mark of its ENI again: others may have taken it off",
			join(markWithout(claims.MarkMask|claims.ConnMarkByENI|claims.ConnMarkToNode), family(unix.NFPROTO_IPV6), markFromMap(mapPods6, ip6Source, 16))},

		{source, "a device being removed sends nothing",
			join(metaIs(expr.MetaKeyIIFGROUP, claims.GroupDying), verdict(expr.VerdictDrop))},
		{source, "not from a pod", join(notFromPod(), verdict(expr.VerdictAccept))},
		{source, "source belongs to this pod: mark of its ENI",
			join(family(unix.NFPROTO_IPV4), markFromMap(mapPods4, ip4Source, 4), verdict(expr.VerdictAccept))},
		{source, "source belongs to this pod: mark of its ENI",
			join(family(unix.NFPROTO_IPV6), markFromMap(mapPods6, ip6Source, 16), verdict(expr.VerdictAccept))},
		{source, "link-local IPv6: neighbours are permanent, nothing to hear",
			join(family(unix.NFPROTO_IPV6), sourceIn(netip.MustParsePrefix("fe80::/10")), verdict(expr.VerdictDrop))},
		{source, "unspecified IPv6 source: address detection, nothing to hear",
			join(family(unix.NFPROTO_IPV6), sourceIn(netip.MustParsePrefix("::/128")), verdict(expr.VerdictDrop))},
		{source, "not this pod's source: spoofed",
			join([]expr.Any{&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: counterName}}, verdict(expr.VerdictDrop))},

		{exit, "not from a pod", join(notFromPod(), verdict(expr.VerdictAccept))},
		{exit, "kube-proxy will masquerade this connection",
			join(markBits(claims.KubeProxyMasqueradeMark), jump(chainMain))},
		{exit, "reply of a connection to a node or Service address",
			join(ctDirection(ctReply), ctStatus(ctDNAT), jump(chainMain))},
		{exit, "reply of a connection to a node or Service address, by IPVS",
			join(ctDirection(ctReply), ctMarkIs(claims.ConnMarkToNode, claims.ConnMarkToNode), jump(chainMain))},
		{exit, "only its port was changed: on by its ENI",
			join(ctDirection(ctOriginal), ctStatus(ctSNAT), ctMarkIs(claims.ConnMarkByENI, claims.ConnMarkByENI), jump(chainENI))},
		{exit, "only its port was changed, as an older version noted it: on by its ENI",
			join(ctDirection(ctOriginal), ctStatus(ctSNAT), ctMarkIs(claims.MarkMask, claims.ConnMarkByENIOld), jump(chainENI))},
		{exit, "connection was masqueraded",
			join(ctDirection(ctOriginal), ctStatus(ctSNAT), jump(chainMain))},
	}
	if node.MasqueradeOutside {
		rs.rules = append(rs.rules, outsideRules(node, exit)...)
	}
	rs.rules = append(rs.rules,
		rule{exit, "first packet that leaves by its ENI: note it",
			join(ctDirection(ctOriginal), ctStatusNot(ctConfirmed), setCtMark(claims.ConnMarkByENI))},
		rule{exit, "on by its ENI", jump(chainENI)})
	for _, table := range rs.nat {
		toNode := base(table, chainToNode, nftables.ChainHookPrerouting, afterDNAT, nftables.ChainTypeNAT)
		masquerade := base(table, chainMasquerade, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource, nftables.ChainTypeNAT)
		masq := []expr.Any{&expr.Masq{FullyRandom: true}}
		rs.rules = append(rs.rules,
			// The kernel evaluates NAT chains only for a connection's first packet, and stops after
			// the chain that translates.
			rule{toNode, "to an address of the node, which IPVS may lead to a pod: note it", join(destLocal(), setCtMark(claims.ConnMarkToNode))},
			rule{masquerade, "to a pod that shares ENIs: its answer comes back through the node anyway",
				join(metaIs(expr.MetaKeyOIFGROUP, claims.GroupPod), verdict(expr.VerdictAccept))},
			rule{masquerade, "leave with the node's address", join(markIs(claims.SlotOutside), masq)},
			rule{masquerade, "NodePort to a pod with an ENI of its own: the answer must come back through the node",
				join(metaIs(expr.MetaKeyOIFGROUP, claims.GroupExclusive), ctStatus(ctDNAT), markIs(0), masq)},
			rule{masquerade, "NodePort by IPVS to a pod with an ENI of its own: the answer must come back through the node",
				join(metaIs(expr.MetaKeyOIFGROUP, claims.GroupExclusive), ctMarkIs(claims.ConnMarkToNode, claims.ConnMarkToNode), markIs(0), masq)})
	}

	var err error
	rs.inside4, rs.inside6, err = insideRanges(node)
	return rs, err
}

// outsideRules returns rules of a family only if the node has an address of it.
func outsideRules(node datapath.Node, exit *nftables.Chain) []rule {
	var rules []rule
	for _, f := range []struct {
		is          func(netip.Addr) bool
		proto       byte
		set         string
		offset, len uint32
	}{
		{netip.Addr.Is4, unix.NFPROTO_IPV4, setInside4, ip4Dest, 4},
		{netip.Addr.Is6, unix.NFPROTO_IPV6, setInside6, ip6Dest, 16},
	} {
		if !hasAddress(node, f.is) {
			continue
		}
		rules = append(rules, rule{exit, "first packet to outside the VPC",
			join(family(f.proto), ctDirection(ctOriginal), ctStatusNot(ctConfirmed),
				[]expr.Any{
					&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.offset, Len: f.len},
					&expr.Lookup{SourceRegister: 1, SetName: f.set, Invert: true},
				}, jump(chainOutside))})
	}
	return rules
}

func hasAddress(node datapath.Node, is func(netip.Addr) bool) bool {
	for _, a := range node.Addresses {
		if is(a) {
			return true
		}
	}
	return false
}

// insideRanges merges the VPC's and the Services' CIDRs: an interval set rejects overlapping ones.
func insideRanges(node datapath.Node) (v4, v6 []netipx.IPRange, err error) {
	var b netipx.IPSetBuilder
	for _, list := range [][]netip.Prefix{node.VPCCIDRs, node.ServiceCIDRs} {
		for _, p := range list {
			b.AddPrefix(p.Masked())
		}
	}
	set, err := b.IPSet()
	if err != nil {
		return nil, nil, fmt.Errorf("merge VPC and Service CIDRs: %w", err)
	}
	for _, r := range set.Ranges() {
		if r.From().Is4() {
			v4 = append(v4, r)
		} else {
			v6 = append(v6, r)
		}
	}
	return v4, v6, nil
}

// comment returns the rule's purpose and the fingerprint of its expressions.
func (r rule) comment() (string, error) {
	h := sha256.New()
	for _, e := range r.exprs {
		b, err := expr.Marshal(byte(r.chain.Table.Family), e)
		if err != nil {
			return "", fmt.Errorf("nftables rule %q of chain %s: %w", r.purpose, r.chain.Name, err)
		}
		h.Write(b)
	}
	return r.purpose + " #" + hex.EncodeToString(h.Sum(nil)[:4]), nil
}

func (r rule) nftRule() (*nftables.Rule, error) {
	comment, err := r.comment()
	if err != nil {
		return nil, err
	}
	return &nftables.Rule{
		Table: r.chain.Table, Chain: r.chain,
		Exprs: r.exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, comment),
	}, nil
}

func podsMap(table *nftables.Table, name string) *nftables.Set {
	key := nftables.TypeIPAddr
	if name == mapPods6 {
		key = nftables.TypeIP6Addr
	}
	return &nftables.Set{
		Table: table, Name: name, IsMap: true,
		// No flag Concatenation: it is for intervals in such keys. Without it the kernel sees a key
		// of that many bytes, and nft sees the two types in its type number.
		KeyType:  nftables.MustConcatSetType(nftables.TypeIFName, key),
		DataType: nftables.TypeMark,
		// The library cannot declare the mark as host byte order.
		Comment: "nft shows the mark with its bytes swapped",
	}
}

func insideSet(table *nftables.Table, name string) *nftables.Set {
	key := nftables.TypeIPAddr
	if name == setInside6 {
		key = nftables.TypeIP6Addr
	}
	return &nftables.Set{Table: table, Name: name, Interval: true, KeyType: key}
}

// Expressions. Register 1 is 16 bytes wide, so a device's name fills it and the address of a
// concatenated key goes into register 2.

func join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

func native(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

func metaIs(key expr.MetaKey, value uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: native(value)},
	}
}

func notFromPod() []expr.Any {
	return masked(&expr.Meta{Key: expr.MetaKeyIIFGROUP, Register: 1}, 0xffffffff&^claims.ExclusiveGroupBit, expr.CmpOpNeq, claims.GroupPod)
}

func family(proto byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
	}
}

// markWithout matches a mark that has no bits other than these.
func markWithout(bits uint32) []expr.Any {
	return masked(&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, ^bits, expr.CmpOpEq, 0)
}

// markFromMap sets the whole mark. Kernels before 6.13 cannot combine a looked up value with
// existing bits.
func markFromMap(name string, offset, length uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Payload{DestRegister: 2, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: name},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
}

func sourceIn(p netip.Prefix) []expr.Any {
	mask := make([]byte, 16)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: ip6Source, Len: 16},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 16, Mask: mask, Xor: make([]byte, 16)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

// masked loads `(register & mask)`, all in host byte order.
func masked(load expr.Any, mask uint32, op expr.CmpOp, value uint32) []expr.Any {
	return []expr.Any{
		load,
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(mask), Xor: native(0)},
		&expr.Cmp{Op: op, Register: 1, Data: native(value)},
	}
}

func markBits(bits uint32) []expr.Any {
	return masked(&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, bits, expr.CmpOpNeq, 0)
}

func markIs(slot int) []expr.Any {
	return masked(&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, claims.MarkMask, expr.CmpOpEq, claims.MarkOf(slot))
}

// setSlot replaces the slot and keeps every other bit.
func setSlot(slot int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(^uint32(claims.MarkMask)), Xor: native(claims.MarkOf(slot))},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
}

func ctDirection(direction byte) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{direction}},
	}
}

func ctStatus(bit uint32) []expr.Any {
	return masked(&expr.Ct{Key: expr.CtKeySTATUS, Register: 1}, bit, expr.CmpOpNeq, 0)
}

func ctMarkIs(mask, value uint32) []expr.Any {
	return masked(&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, mask, expr.CmpOpEq, value)
}

func setCtMark(bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(^bit), Xor: native(bit)},
		&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1},
	}
}

// destLocal matches a destination that is one of the node's own addresses.
func destLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: native(unix.RTN_LOCAL)},
	}
}

func ctStatusNot(bit uint32) []expr.Any {
	return masked(&expr.Ct{Key: expr.CtKeySTATUS, Register: 1}, bit, expr.CmpOpEq, 0)
}
