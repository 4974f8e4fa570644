package nft

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/netlinkx"
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

	// afterSNAT: kube-proxy has masqueraded what must not keep its source, as from a pod to itself by a Service. Of two chains with one
	// priority the kernel asks that first which was made later, and that may be either.
	afterSNAT = nftables.ChainPriority(101)

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

// family is what differs between the address families.
type family struct {
	number int
	// proto is NFPROTO_….
	proto byte
	// pods and inside are names of a map and a set, key is the type of their addresses.
	pods, inside string
	key          nftables.SetDatatype
	// source and dest are offsets in the IP header, length is that of an address.
	source, dest, length uint32
}

var (
	family4 = family{unix.AF_INET, unix.NFPROTO_IPV4, mapPods4, setInside4, nftables.TypeIPAddr, 12, 16, 4}
	family6 = family{unix.AF_INET6, unix.NFPROTO_IPV6, mapPods6, setInside6, nftables.TypeIP6Addr, 8, 24, 16}
)

// Ruleset is the desired content of the tables for one node, without the pods.
type Ruleset struct {
	table *nftables.Table
	// nat has a table for each family of the node.
	nat    []*nftables.Table
	chains []*nftables.Chain
	rules  []rule
	// inside are the ranges that are never masqueraded, by the set's name.
	inside map[string][]netipx.IPRange
}

// rule is one rule with a comment that names its purpose. The comment contains a fingerprint of the
// expressions, so that comparing comments compares rules.
type rule struct {
	chain   *nftables.Chain
	purpose string
	exprs   []expr.Any
}

func (rs Ruleset) tables() []*nftables.Table { return append([]*nftables.Table{rs.table}, rs.nat...) }

// sets returns the maps of pods and the sets of what is inside.
func (rs Ruleset) sets() []*nftables.Set {
	return []*nftables.Set{podsMap(rs.table, mapPods4), podsMap(rs.table, mapPods6), insideSet(rs.table, setInside4), insideSet(rs.table, setInside6)}
}

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
			join(markWithout(claims.MarkMask|claims.ConnMarkByENI|claims.ConnMarkToNode), markFromMap(family4))},
		{byENI, "mark of its ENI again: others may have taken it off",
			join(markWithout(claims.MarkMask|claims.ConnMarkByENI|claims.ConnMarkToNode), markFromMap(family6))},

		{source, "a device being removed sends nothing",
			join(metaIs(expr.MetaKeyIIFGROUP, claims.GroupDying), verdict(expr.VerdictDrop))},
		{source, "not from a pod", join(notFromPod(), verdict(expr.VerdictAccept))},
		{source, "source belongs to this pod: mark of its ENI", join(markFromMap(family4), verdict(expr.VerdictAccept))},
		{source, "source belongs to this pod: mark of its ENI", join(markFromMap(family6), verdict(expr.VerdictAccept))},
		{source, "came for this pod by its own ENI: back to where it is translated", join(ownENIs(), forPod(family4), verdict(expr.VerdictAccept))},
		{source, "came for this pod by its own ENI: back to where it is translated", join(ownENIs(), forPod(family6), verdict(expr.VerdictAccept))},
		{source, "link-local IPv6: neighbours are permanent, nothing to hear",
			join(sourceIn(netip.MustParsePrefix("fe80::/10")), verdict(expr.VerdictDrop))},
		{source, "unspecified IPv6 source: address detection, nothing to hear",
			join(sourceIn(netip.MustParsePrefix("::/128")), verdict(expr.VerdictDrop))},
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
		rule{exit, "from a pod with an ENI of its own, and not translated: leave with the node's address",
			join(markIs(claims.SlotOwnENI), ctDirection(ctOriginal), ctStatusNot(ctDNAT), destNotLocal(), jump(chainOutside))},
		rule{exit, "first packet that leaves by its ENI: note it",
			join(ctDirection(ctOriginal), ctStatusNot(ctConfirmed), setCtMark(claims.ConnMarkByENI))},
		rule{exit, "on by its ENI", jump(chainENI)})
	for i, table := range rs.nat {
		toNode := base(table, chainToNode, nftables.ChainHookPrerouting, afterDNAT, nftables.ChainTypeNAT)
		masquerade := base(table, chainMasquerade, nftables.ChainHookPostrouting, afterSNAT, nftables.ChainTypeNAT)
		masq := []expr.Any{&expr.Masq{FullyRandom: true}}
		rs.rules = append(rs.rules,
			// The kernel evaluates NAT chains only for a connection's first packet, and stops after
			// the chain that translates.
			rule{toNode, "to an address of the node, which IPVS may lead to a pod: note it", join(destLocal(), setCtMark(claims.ConnMarkToNode))},
			rule{masquerade, "to a pod that shares ENIs: its answer comes back through the node anyway",
				join(metaIs(expr.MetaKeyOIFGROUP, claims.GroupPod), verdict(expr.VerdictAccept))},
			rule{masquerade, "leave with the node's address", join(markIs(claims.SlotOutside), masq)},
			rule{masquerade, "turns to its pod's ENI: another port, as the pod may use its own for the same end beside the Service",
				join(markIs(claims.SlotOwnENI), leavesByEthernet(expr.CmpOpEq), otherPort(node.Families()[i]))},
			rule{masquerade, "by a device without Ethernet frames it does not turn to its pod's ENI: leave with the node's address",
				join(markIs(claims.SlotOwnENI), leavesByEthernet(expr.CmpOpNeq), masq)},
			rule{masquerade, "NodePort to a pod with an ENI of its own: the answer must come back through the node",
				join(metaIs(expr.MetaKeyOIFGROUP, claims.GroupExclusive), ctStatus(ctDNAT), markIs(0), masq)},
			rule{masquerade, "NodePort by IPVS to a pod with an ENI of its own: the answer must come back through the node",
				join(metaIs(expr.MetaKeyOIFGROUP, claims.GroupExclusive), ctMarkIs(claims.ConnMarkToNode, claims.ConnMarkToNode), markIs(0), masq)})
	}

	var err error
	rs.inside, err = insideRanges(node)
	return rs, err
}

// outsideRules returns rules of a family only if the node has an address of it.
func outsideRules(node datapath.Node, exit *nftables.Chain) (rules []rule) {
	for _, f := range []family{family4, family6} {
		if netlinkx.OfFamily(node.Addresses, f.number).IsValid() {
			rules = append(rules, rule{exit, "first packet to outside the VPC",
				join(f.is(), ctDirection(ctOriginal), ctStatusNot(ctConfirmed),
					[]expr.Any{f.address(1, f.dest), &expr.Lookup{SourceRegister: 1, SetName: f.inside, Invert: true}}, jump(chainOutside))})
		}
	}
	return rules
}

// insideRanges merges the VPC's and the Services' CIDRs: an interval set rejects overlapping ones.
func insideRanges(node datapath.Node) (map[string][]netipx.IPRange, error) {
	var b netipx.IPSetBuilder
	for _, p := range slices.Concat(node.VPCCIDRs, node.ServiceCIDRs) {
		b.AddPrefix(p.Masked())
	}
	set, err := b.IPSet()
	if err != nil {
		return nil, fmt.Errorf("merge VPC and Service CIDRs: %w", err)
	}
	inside := map[string][]netipx.IPRange{setInside4: nil, setInside6: nil}
	for _, r := range set.Ranges() {
		f := family4
		if r.From().Is6() {
			f = family6
		}
		inside[f.inside] = append(inside[f.inside], r)
	}
	return inside, nil
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
	return &nftables.Set{
		Table: table, Name: name, IsMap: true,
		// No flag Concatenation: it is for intervals in such keys. Without it the kernel sees a key
		// of that many bytes, and nft sees the two types in its type number.
		KeyType:  nftables.MustConcatSetType(nftables.TypeIFName, keyOf(name)),
		DataType: nftables.TypeMark,
		// The library cannot declare the mark as host byte order.
		Comment: "nft shows the mark with its bytes swapped",
	}
}

func insideSet(table *nftables.Table, name string) *nftables.Set {
	return &nftables.Set{Table: table, Name: name, Interval: true, KeyType: keyOf(name)}
}

// keyOf returns the type of the addresses in a map or set.
func keyOf(name string) nftables.SetDatatype {
	if name == family4.pods || name == family4.inside {
		return family4.key
	}
	return family6.key
}

// Expressions. Register 1 is 16 bytes wide, so a device's name fills it and the address of a
// concatenated key goes into register 2.

func join(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

func native(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

// Parts of a packet or connection, in register 1.
func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: 1} }
func ct(key expr.CtKey) expr.Any     { return &expr.Ct{Key: key, Register: 1} }

func equal(load expr.Any, data ...byte) []expr.Any {
	return []expr.Any{load, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}}
}

func metaIs(key expr.MetaKey, value uint32) []expr.Any { return equal(meta(key), native(value)...) }

func notFromPod() []expr.Any {
	return masked(meta(expr.MetaKeyIIFGROUP), 0xffffffff&^claims.ExclusiveGroupBit, expr.CmpOpNeq, claims.GroupPod)
}

// is matches packets of the family.
func (f family) is() []expr.Any { return equal(meta(expr.MetaKeyNFPROTO), f.proto) }

// address loads an address in the IP header.
func (f family) address(register, offset uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.length}
}

// markWithout matches a mark that has no bits other than these.
func markWithout(bits uint32) []expr.Any {
	return masked(meta(expr.MetaKeyMARK), ^bits, expr.CmpOpEq, 0)
}

// markFromMap sets the whole mark of a packet of the family. Kernels before 6.13 cannot combine a
// looked up value with existing bits.
func markFromMap(f family) []expr.Any {
	return append(f.is(),
		meta(expr.MetaKeyIIFNAME),
		f.address(2, f.source),
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: f.pods},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	)
}

// ownENIs matches packets from pods with an exclusive ENI.
func ownENIs() []expr.Any { return metaIs(expr.MetaKeyIIFGROUP, claims.GroupExclusive) }

// leavesByEthernet compares whether the device that the packet leaves by has Ethernet frames.
func leavesByEthernet(op expr.CmpOp) []expr.Any {
	return []expr.Any{meta(expr.MetaKeyOIFTYPE), &expr.Cmp{Op: op, Register: 1, Data: binaryutil.NativeEndian.PutUint16(unix.ARPHRD_ETHER)}}
}

// otherPort gives a connection another source port by chance, and keeps its source address.
func otherPort(family int) []expr.Any {
	port := func(register uint32, p uint16) expr.Any {
		return &expr.Immediate{Register: register, Data: binaryutil.BigEndian.PutUint16(p)}
	}
	return []expr.Any{port(1, 1024), port(2, 65535),
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(family), RegProtoMin: 1, RegProtoMax: 2, FullyRandom: true}}
}

// forPod matches packets of the family to an address of the pod whose device they come from.
func forPod(f family) []expr.Any {
	return append(f.is(),
		meta(expr.MetaKeyIIFNAME),
		f.address(2, f.dest),
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: f.pods},
	)
}

// sourceIn matches IPv6 packets with a source in the prefix.
func sourceIn(p netip.Prefix) []expr.Any {
	mask := net.CIDRMask(p.Bits(), 128)
	return append(family6.is(),
		family6.address(1, family6.source),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 16, Mask: mask, Xor: make([]byte, 16)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	)
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
	return masked(meta(expr.MetaKeyMARK), bits, expr.CmpOpNeq, 0)
}

func markIs(slot int) []expr.Any {
	return masked(meta(expr.MetaKeyMARK), claims.MarkMask, expr.CmpOpEq, claims.MarkOf(slot))
}

// setBits replaces some bits of what is loaded, stores it, and keeps every other bit.
func setBits(load expr.Any, mask, bits uint32, store expr.Any) []expr.Any {
	return []expr.Any{load, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(^mask), Xor: native(bits)}, store}
}

func setSlot(slot int) []expr.Any {
	return setBits(meta(expr.MetaKeyMARK), claims.MarkMask, claims.MarkOf(slot), &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1})
}

func setCtMark(bit uint32) []expr.Any {
	return setBits(ct(expr.CtKeyMARK), bit, bit, &expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1})
}

func ctDirection(direction byte) []expr.Any { return equal(ct(expr.CtKeyDIRECTION), direction) }

func ctStatus(bit uint32) []expr.Any { return masked(ct(expr.CtKeySTATUS), bit, expr.CmpOpNeq, 0) }

func ctStatusNot(bit uint32) []expr.Any { return masked(ct(expr.CtKeySTATUS), bit, expr.CmpOpEq, 0) }

func ctMarkIs(mask, value uint32) []expr.Any {
	return masked(ct(expr.CtKeyMARK), mask, expr.CmpOpEq, value)
}

// destLocal matches a destination that is one of the node's own addresses, destNotLocal any other.
func destLocal() []expr.Any { return destIs(expr.CmpOpEq) }

func destNotLocal() []expr.Any { return destIs(expr.CmpOpNeq) }

func destIs(op expr.CmpOp) []expr.Any {
	return []expr.Any{&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true}, &expr.Cmp{Op: op, Register: 1, Data: native(unix.RTN_LOCAL)}}
}
