package route

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
)

// The nftables table as data: chains, sets and rules for a node. This file only
// describes; nft.go puts it into the kernel and compares.
//
// A connection's way out is decided by its first packet and then follows
// conntrack: what was NATed keeps leaving the way it was NATed for, whatever
// changes in the configuration meanwhile.

const (
	chainSource     = "source"
	chainExit       = "exit"
	chainMain       = "by-main"
	chainOutside    = "by-node"
	chainENI        = "by-eni"
	chainMasquerade = "masquerade"

	mapPods4    = "pods4"
	mapPods6    = "pods6"
	setInside4  = "inside4"
	setInside6  = "inside6"
	counterName = "spoofed"

	// afterDNAT: kube-proxy and portmap have chosen the destination and asked for
	// masquerade, the route is not yet looked up.
	afterDNAT = nftables.ChainPriority(-90)

	// beforeDefrag is NF_IP_PRI_RAW_BEFORE_DEFRAG (linux/netfilter_ipv4.h; IPv6 has the
	// same). Conntrack puts fragments together at -400, whatever device each came by: a
	// pod's fragment with another pod's source has to be gone before.
	beforeDefrag = nftables.ChainPriority(-450)
)

// Bits of enum ip_conntrack_status in linux/netfilter/nf_conntrack_common.h, and
// the directions of enum ip_conntrack_dir.
const (
	ctConfirmed = 1 << 3
	ctSNAT      = 1 << 4
	ctDNAT      = 1 << 5

	ctOriginal = 0
	ctReply    = 1
)

// Offsets in the IP headers.
const (
	ip4Source, ip4Dest = 12, 16
	ip6Source, ip6Dest = 8, 24
)

// ruleset is the desired content of the table for one node, without the pods.
type ruleset struct {
	table  *nftables.Table
	chains []*nftables.Chain
	rules  []rule
	// inside4 and inside6 are never masqueraded.
	inside4, inside6 []netipx.IPRange
}

// rule is one rule with the comment that names its purpose. The comment carries
// a fingerprint of the expressions, so that comparing comments compares rules.
type rule struct {
	chain   string
	purpose string
	exprs   []expr.Any
}

func newRuleset(node datapath.Node) (ruleset, error) {
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: TableName}
	accept := nftables.ChainPolicyAccept
	base := func(name string, hook *nftables.ChainHook, prio nftables.ChainPriority, typ nftables.ChainType) *nftables.Chain {
		return &nftables.Chain{
			Name: name, Table: table, Hooknum: hook, Priority: nftables.ChainPriorityRef(prio),
			Type: typ, Policy: &accept,
		}
	}
	rs := ruleset{
		table: table,
		chains: []*nftables.Chain{
			{Name: chainMain, Table: table},
			{Name: chainOutside, Table: table},
			{Name: chainENI, Table: table},
			base(chainSource, nftables.ChainHookPrerouting, beforeDefrag, nftables.ChainTypeFilter),
			base(chainExit, nftables.ChainHookPrerouting, afterDNAT, nftables.ChainTypeFilter),
			base(chainMasquerade, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource, nftables.ChainTypeNAT),
		},
	}
	rs.rules = []rule{
		{chainMain, "no ENI: follow the node's own routes", setSlot(0)},
		{chainOutside, "leave with the node's address", setSlot(slotOutside)},
		{chainENI, "mark of its ENI again: others may have taken it off",
			join(markWithout(MarkMask|ConnMarkByENI), family(unix.NFPROTO_IPV4), markFromMap(mapPods4, ip4Source, 4))},
		{chainENI, "mark of its ENI again: others may have taken it off",
			join(markWithout(MarkMask|ConnMarkByENI), family(unix.NFPROTO_IPV6), markFromMap(mapPods6, ip6Source, 16))},

		{chainSource, "a device being removed sends nothing",
			join(cmpMeta(expr.MetaKeyIIFGROUP, expr.CmpOpEq, groupDying), verdict(expr.VerdictDrop))},
		{chainSource, "not from a pod", join(notFromPod(), verdict(expr.VerdictAccept))},
		{chainSource, "source belongs to this pod: mark of its ENI",
			join(family(unix.NFPROTO_IPV4), markFromMap(mapPods4, ip4Source, 4), verdict(expr.VerdictAccept))},
		{chainSource, "source belongs to this pod: mark of its ENI",
			join(family(unix.NFPROTO_IPV6), markFromMap(mapPods6, ip6Source, 16), verdict(expr.VerdictAccept))},
		{chainSource, "link-local IPv6: neighbours are permanent, nothing to hear",
			join(family(unix.NFPROTO_IPV6), sourceIn(netip.MustParsePrefix("fe80::/10")), verdict(expr.VerdictDrop))},
		{chainSource, "unspecified IPv6 source: address detection, nothing to hear",
			join(family(unix.NFPROTO_IPV6), sourceIn(netip.MustParsePrefix("::/128")), verdict(expr.VerdictDrop))},
		{chainSource, "not this pod's source: spoofed",
			join([]expr.Any{&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: counterName}}, verdict(expr.VerdictDrop))},

		{chainExit, "not from a pod", join(notFromPod(), verdict(expr.VerdictAccept))},
		{chainExit, "kube-proxy will masquerade this connection",
			join(markBits(KubeProxyMasqueradeMark), jump(chainMain))},
		{chainExit, "reply of a connection to a node or Service address",
			join(ctDirection(ctReply), ctStatus(ctDNAT), jump(chainMain))},
		{chainExit, "only its port was changed: on by its ENI",
			join(ctDirection(ctOriginal), ctStatus(ctSNAT), ctMarkIs(ConnMarkByENI, ConnMarkByENI), jump(chainENI))},
		{chainExit, "only its port was changed, as an older version noted it: on by its ENI",
			join(ctDirection(ctOriginal), ctStatus(ctSNAT), ctMarkIs(MarkMask, connMarkByENIOld), jump(chainENI))},
		{chainExit, "connection was masqueraded",
			join(ctDirection(ctOriginal), ctStatus(ctSNAT), jump(chainMain))},
	}
	if node.MasqueradeOutside {
		rs.rules = append(rs.rules, outsideRules(node)...)
	}
	masquerade := []expr.Any{&expr.Masq{FullyRandom: true}}
	rs.rules = append(rs.rules,
		rule{chainExit, "first packet that leaves by its ENI: note it",
			join(ctDirection(ctOriginal), ctStatusNot(ctConfirmed), setCtMark(ConnMarkByENI))},
		rule{chainExit, "on by its ENI", jump(chainENI)},
		rule{chainMasquerade, "to a pod that shares ENIs: its answer comes back through the node anyway",
			join(cmpMeta(expr.MetaKeyOIFGROUP, expr.CmpOpEq, groupPod), verdict(expr.VerdictAccept))},
		rule{chainMasquerade, "leave with the node's address", join(markIs(slotOutside), masquerade)},
		rule{chainMasquerade, "NodePort to a pod with an ENI of its own: the answer must come back through the node",
			join(cmpMeta(expr.MetaKeyOIFGROUP, expr.CmpOpEq, groupOwn), ctStatus(ctDNAT), markIs(0), masquerade)},
	)

	var err error
	rs.inside4, rs.inside6, err = insideRanges(node)
	return rs, err
}

// outsideRules exist for a family only if the node has an address of it to give.
func outsideRules(node datapath.Node) []rule {
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
		rules = append(rules, rule{chainExit, "first packet to outside the VPC",
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

// insideRanges merges the VPC's and the Services' CIDRs: an interval set refuses
// overlapping ones.
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

// comment is the rule's purpose and the fingerprint of what it does.
func (r rule) comment() (string, error) {
	h := sha256.New()
	for _, e := range r.exprs {
		b, err := expr.Marshal(byte(nftables.TableFamilyINet), e)
		if err != nil {
			return "", fmt.Errorf("nftables rule %q of chain %s: %w", r.purpose, r.chain, err)
		}
		h.Write(b)
	}
	return r.purpose + " #" + hex.EncodeToString(h.Sum(nil)[:4]), nil
}

func (rs ruleset) nftRule(r rule) (*nftables.Rule, error) {
	comment, err := r.comment()
	if err != nil {
		return nil, err
	}
	return &nftables.Rule{
		Table: rs.table, Chain: &nftables.Chain{Name: r.chain, Table: rs.table},
		Exprs: r.exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, comment),
	}, nil
}

func podsMap(table *nftables.Table, name string) *nftables.Set {
	key := nftables.TypeIPAddr
	if name == mapPods6 {
		key = nftables.TypeIP6Addr
	}
	return &nftables.Set{
		Table: table, Name: name, IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(nftables.TypeIFName, key),
		DataType: nftables.TypeMark,
		// The library cannot say that the mark is in host byte order.
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

// Expressions. Register 1 is 16 bytes wide, so a device's name fills it and the
// address of a concatenated key goes into register 2.

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

func cmpMeta(key expr.MetaKey, op expr.CmpOp, value uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: native(value)},
	}
}

func notFromPod() []expr.Any {
	return masked(&expr.Meta{Key: expr.MetaKeyIIFGROUP, Register: 1}, 0xffffffff&^ownGroupBit, expr.CmpOpNeq, groupPod)
}

func family(proto byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
	}
}

// markWithout says that the mark has no other bits than these.
func markWithout(bits uint32) []expr.Any {
	return masked(&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, ^bits, expr.CmpOpEq, 0)
}

// markFromMap sets the whole mark. Kernels before 6.13 cannot put a looked up value beside
// bits that are there.
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
	return masked(&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, MarkMask, expr.CmpOpEq, markOf(slot))
}

// setSlot replaces the slot and keeps every other bit.
func setSlot(slot int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(^uint32(MarkMask)), Xor: native(markOf(slot))},
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

func ctStatusNot(bit uint32) []expr.Any {
	return masked(&expr.Ct{Key: expr.CtKeySTATUS, Register: 1}, bit, expr.CmpOpEq, 0)
}
