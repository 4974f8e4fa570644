package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
)

// attribute describes what Linux 4.19 accepts for a netlink attribute
// (include/uapi/linux/netfilter/nf_tables.h and the policies in net/netfilter of that version).
type attribute struct {
	name   string
	nested map[uint16]attribute
	// flags, if not 0, are the allowed bits of a big-endian number.
	flags uint32
	// values, if any, are the allowed values of a big-endian number.
	values []uint32
	list   bool // the same nested attribute repeatedly
}

var (
	dataAttrs = map[uint16]attribute{unix.NFTA_DATA_VALUE: {name: "value"}, unix.NFTA_DATA_VERDICT: {name: "verdict",
		nested: map[uint16]attribute{unix.NFTA_VERDICT_CODE: {name: "code"}, unix.NFTA_VERDICT_CHAIN: {name: "chain"}}}}
	elementAttrs = map[uint16]attribute{
		unix.NFTA_SET_ELEM_KEY: {name: "key", nested: dataAttrs}, unix.NFTA_SET_ELEM_DATA: {name: "data", nested: dataAttrs},
		unix.NFTA_SET_ELEM_FLAGS: {name: "flags", flags: unix.NFT_SET_ELEM_INTERVAL_END}, unix.NFTA_SET_ELEM_USERDATA: {name: "userdata"},
	}
	// expressions419 has the attributes of their data.
	expressions419 = map[string]map[uint16]attribute{
		"immediate": {unix.NFTA_IMMEDIATE_DREG: {name: "dreg"}, unix.NFTA_IMMEDIATE_DATA: {name: "data", nested: dataAttrs}},
		"bitwise": {unix.NFTA_BITWISE_SREG: {name: "sreg"}, unix.NFTA_BITWISE_DREG: {name: "dreg"}, unix.NFTA_BITWISE_LEN: {name: "len"},
			unix.NFTA_BITWISE_MASK: {name: "mask", nested: dataAttrs}, unix.NFTA_BITWISE_XOR: {name: "xor", nested: dataAttrs}},
		"cmp": {unix.NFTA_CMP_SREG: {name: "sreg"}, unix.NFTA_CMP_OP: {name: "op", values: []uint32{0, 1, 2, 3, 4, 5}}, unix.NFTA_CMP_DATA: {name: "data", nested: dataAttrs}},
		"lookup": {unix.NFTA_LOOKUP_SET: {name: "set"}, unix.NFTA_LOOKUP_SREG: {name: "sreg"}, unix.NFTA_LOOKUP_DREG: {name: "dreg"},
			unix.NFTA_LOOKUP_SET_ID: {name: "set id"}, unix.NFTA_LOOKUP_FLAGS: {name: "flags", flags: unix.NFT_LOOKUP_F_INV}},
		"payload": {unix.NFTA_PAYLOAD_DREG: {name: "dreg"}, unix.NFTA_PAYLOAD_BASE: {name: "base", values: []uint32{0, 1, 2}},
			unix.NFTA_PAYLOAD_OFFSET: {name: "offset"}, unix.NFTA_PAYLOAD_LEN: {name: "len"}},
		"counter": {unix.NFTA_COUNTER_BYTES: {name: "bytes"}, unix.NFTA_COUNTER_PACKETS: {name: "packets"}},
		// Keys up to NFT_META_SECPATH (24) and NFT_CT_DST_IP6 (22).
		"meta": {unix.NFTA_META_DREG: {name: "dreg"}, unix.NFTA_META_SREG: {name: "sreg"}, unix.NFTA_META_KEY: {name: "key", values: upTo(24)}},
		"ct":   {unix.NFTA_CT_DREG: {name: "dreg"}, unix.NFTA_CT_SREG: {name: "sreg"}, unix.NFTA_CT_KEY: {name: "key", values: upTo(22)}},
		"fib": {unix.NFTA_FIB_DREG: {name: "dreg"}, unix.NFTA_FIB_RESULT: {name: "result", values: []uint32{1, 2, 3}},
			unix.NFTA_FIB_FLAGS: {name: "flags", flags: 1<<5 - 1}},
		"objref": {unix.NFTA_OBJREF_IMM_TYPE: {name: "type", values: []uint32{unix.NFT_OBJECT_COUNTER}}, unix.NFTA_OBJREF_IMM_NAME: {name: "name"}},
		// The nf_nat.h flags of that version: map ips, proto specified, random, persistent, random fully.
		"masq": {unix.NFTA_MASQ_FLAGS: {name: "flags", flags: 1<<5 - 1}},
		"nat": {unix.NFTA_NAT_TYPE: {name: "type", values: upTo(unix.NFT_NAT_DNAT)}, unix.NFTA_NAT_FAMILY: {name: "family"},
			unix.NFTA_NAT_REG_ADDR_MIN: {name: "reg addr min"}, unix.NFTA_NAT_REG_ADDR_MAX: {name: "reg addr max"},
			unix.NFTA_NAT_REG_PROTO_MIN: {name: "reg proto min"}, unix.NFTA_NAT_REG_PROTO_MAX: {name: "reg proto max"},
			unix.NFTA_NAT_FLAGS: {name: "flags", flags: 1<<5 - 1}},
	}
	setElemListAttrs = map[uint16]attribute{unix.NFTA_SET_ELEM_LIST_TABLE: {name: "table"}, unix.NFTA_SET_ELEM_LIST_SET: {name: "set"},
		unix.NFTA_SET_ELEM_LIST_SET_ID: {name: "set id"}, unix.NFTA_SET_ELEM_LIST_ELEMENTS: {name: "elements", list: true, nested: elementAttrs}}
	messages419 = map[uint16]map[uint16]attribute{
		unix.NFT_MSG_NEWTABLE: {unix.NFTA_TABLE_NAME: {name: "name"}, unix.NFTA_TABLE_FLAGS: {name: "flags", flags: 1}},
		unix.NFT_MSG_DELTABLE: {unix.NFTA_TABLE_NAME: {name: "name"}, unix.NFTA_TABLE_FLAGS: {name: "flags", flags: 1}},
		unix.NFT_MSG_NEWCHAIN: {unix.NFTA_CHAIN_TABLE: {name: "table"}, unix.NFTA_CHAIN_NAME: {name: "name"}, unix.NFTA_CHAIN_POLICY: {name: "policy"}, unix.NFTA_CHAIN_TYPE: {name: "type"},
			unix.NFTA_CHAIN_HOOK: {name: "hook", nested: map[uint16]attribute{unix.NFTA_HOOK_HOOKNUM: {name: "number"}, unix.NFTA_HOOK_PRIORITY: {name: "priority"}}}},
		unix.NFT_MSG_NEWSET: {unix.NFTA_SET_TABLE: {name: "table"}, unix.NFTA_SET_NAME: {name: "name"}, unix.NFTA_SET_ID: {name: "id"}, unix.NFTA_SET_USERDATA: {name: "userdata"},
			// Anonymous, constant, interval, map, timeout, eval, object: not concat, not expr.
			unix.NFTA_SET_FLAGS:    {name: "flags", flags: 1<<7 - 1},
			unix.NFTA_SET_KEY_TYPE: {name: "key type"}, unix.NFTA_SET_KEY_LEN: {name: "key length"}, unix.NFTA_SET_DATA_TYPE: {name: "data type"}, unix.NFTA_SET_DATA_LEN: {name: "data length"}},
		unix.NFT_MSG_NEWSETELEM: setElemListAttrs, unix.NFT_MSG_DELSETELEM: setElemListAttrs,
		unix.NFT_MSG_NEWOBJ: {unix.NFTA_OBJ_TABLE: {name: "table"}, unix.NFTA_OBJ_NAME: {name: "name"}, unix.NFTA_OBJ_TYPE: {name: "type", values: []uint32{unix.NFT_OBJECT_COUNTER}},
			unix.NFTA_OBJ_DATA: {name: "data", nested: map[uint16]attribute{unix.NFTA_COUNTER_BYTES: {name: "bytes"}, unix.NFTA_COUNTER_PACKETS: {name: "packets"}}}},
		unix.NFT_MSG_NEWRULE: {unix.NFTA_RULE_TABLE: {name: "table"}, unix.NFTA_RULE_CHAIN: {name: "chain"}, unix.NFTA_RULE_USERDATA: {name: "userdata"}, unix.NFTA_RULE_EXPRESSIONS: {name: "expressions"}},
		unix.NFT_MSG_DELRULE: {unix.NFTA_RULE_TABLE: {name: "table"}, unix.NFTA_RULE_CHAIN: {name: "chain"}, unix.NFTA_RULE_HANDLE: {name: "handle"}},

		unix.NFT_MSG_GETTABLE:   {},
		unix.NFT_MSG_GETCHAIN:   {unix.NFTA_CHAIN_TABLE: {name: "table"}, unix.NFTA_CHAIN_NAME: {name: "name"}},
		unix.NFT_MSG_GETRULE:    {unix.NFTA_RULE_TABLE: {name: "table"}, unix.NFTA_RULE_CHAIN: {name: "chain"}},
		unix.NFT_MSG_GETSET:     {unix.NFTA_SET_TABLE: {name: "table"}},
		unix.NFT_MSG_GETSETELEM: {unix.NFTA_SET_ELEM_LIST_TABLE: {name: "table"}, unix.NFTA_SET_ELEM_LIST_SET: {name: "set"}},
		unix.NFT_MSG_GETOBJ:     {unix.NFTA_OBJ_TABLE: {name: "table"}, unix.NFTA_OBJ_NAME: {name: "name"}, unix.NFTA_OBJ_TYPE: {name: "type", values: []uint32{unix.NFT_OBJECT_COUNTER}}},
	}
)

func upTo(last uint32) (values []uint32) {
	for v := range last + 1 {
		values = append(values, v)
	}
	return values
}

// Linux 4.19 knows everything with which a node's tables are written; that kernel is not available
// for a test. TestMessagesSuitLinux419 checks what is sent later.
func TestRulesetSuitsLinux419(t *testing.T) {
	node := datapath.Node{MasqueradeOutside: true, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		VPCCIDRs: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("2001:db8::/40")}}
	rs, err := NewRuleset(node)
	if err != nil {
		t.Fatal(err)
	}
	elems := Elements{{Device: "tw00000000000", Addr: netip.MustParseAddr("192.168.0.1")}: 1, {Device: "tw00000000000", Addr: netip.MustParseAddr("2001:db8::2")}: 1}
	kinds := map[uint16]int{}
	c := recording(t, func(m netlink.Message) {
		kind := uint16(m.Header.Type) & 0xff
		if uint16(m.Header.Type)>>8 != unix.NFNL_SUBSYS_NFTABLES {
			return // begin and end of the transaction
		}
		kinds[kind]++
		for _, p := range newer(m) {
			t.Error(p)
		}
	})
	if err := build(c, rs, []*nftables.Table{natTable(unix.AF_INET)}, elems, &expr.Counter{}); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []uint16{unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_NEWSET, unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_NEWOBJ, unix.NFT_MSG_NEWRULE} {
		if kinds[kind] == 0 {
			t.Errorf("no message of kind %d was checked", kind)
		}
	}
}

// The layout of earlier versions needs a newer kernel: the test above would have found it.
func TestFormerRulesetDidNotSuitLinux419(t *testing.T) {
	rs, err := former(anyNode(), false)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	c := recording(t, func(m netlink.Message) {
		if uint16(m.Header.Type)>>8 == unix.NFNL_SUBSYS_NFTABLES {
			found = append(found, newer(m)...)
		}
	})
	set := podsMap(rs.table, mapPods4)
	set.Concatenation = true
	if err := errors.Join(c.AddSet(set, nil), build(c, rs, nil, nil, &expr.Counter{})); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NAT in family inet", "flags 0x88", "desc"} {
		if !strings.Contains(strings.Join(found, "\n"), want) {
			t.Errorf("found %q, which lacks %q", found, want)
		}
	}
}

// recording is a connection that records what would be sent.
func recording(t *testing.T, see func(netlink.Message)) *nftables.Conn {
	c, err := nftables.New(nftables.WithTestDial(func(req []netlink.Message) ([]netlink.Message, error) {
		for _, m := range req {
			see(m)
		}
		return req, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Watched returns the tables of a namespace whose messages are checked on their way to the kernel:
// what Linux 4.19 does not know fails the test. Each known kind must occur.
func Watched(t *testing.T, ns netns.NsHandle) *Tables {
	kinds := map[uint16]bool{}
	var kernel *netlink.Conn
	n := New(ns)
	n.options = append(n.options,
		nftables.WithSockOptions(func(*netlink.Conn) (err error) { // each new socket has its own connection to the kernel
			if kernel != nil {
				if err := kernel.Close(); err != nil {
					return err
				}
			}
			kernel, err = netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(ns)})
			return err
		}),
		nftables.WithTestDial(func(req []netlink.Message) ([]netlink.Message, error) {
			if len(req) == 0 { // only an answer is read
				answers, err := kernel.Receive()
				for i := range answers {
					answers[i].Header.PID = nltest.PID
					answers[i].Header.Flags &^= netlink.Multi // it is complete
				}
				return answers, err
			}
			for _, m := range req {
				if uint16(m.Header.Type)>>8 != unix.NFNL_SUBSYS_NFTABLES {
					continue // begin and end of a transaction
				}
				kinds[uint16(m.Header.Type)&0xff] = true
				for _, p := range newer(m) {
					t.Error(p)
				}
			}
			_, err := kernel.SendMessages(req)
			return nil, err
		}))
	t.Cleanup(func() {
		if err := errors.Join(n.Close(), kernel.Close()); err != nil {
			t.Error(err)
		}
		for kind := range messages419 {
			if !kinds[kind] {
				t.Errorf("no message of kind %d was checked", kind)
			}
		}
	})
	return n
}

// newer returns what of a message Linux 4.19 does not know.
func newer(m netlink.Message) (problems []string) {
	kind, family := uint16(m.Header.Type)&0xff, m.Data[0]
	known, ok := messages419[kind]
	if !ok {
		return []string{fmt.Sprintf("message of kind %d", kind)}
	}
	// A list of tables may be of all families.
	if !slices.Contains([]byte{unix.NFPROTO_INET, unix.NFPROTO_IPV4, unix.NFPROTO_IPV6}, family) && kind != unix.NFT_MSG_GETTABLE {
		problems = append(problems, fmt.Sprintf("family %d", family))
	}
	b := m.Data[4:] // struct nfgenmsg
	walk(b, func(kind uint16, value []byte) {
		switch {
		case uint16(m.Header.Type)&0xff == unix.NFT_MSG_NEWCHAIN && kind == unix.NFTA_CHAIN_TYPE:
			if strings.HasPrefix(string(value), "nat") && family == unix.NFPROTO_INET {
				problems = append(problems, "NAT in family inet")
			}
		case uint16(m.Header.Type)&0xff == unix.NFT_MSG_NEWRULE && kind == unix.NFTA_RULE_EXPRESSIONS:
			walk(value, func(_ uint16, e []byte) { problems = append(problems, newerExpression(e)...) })
		}
	})
	return append(problems, newerAttributes(fmt.Sprintf("message of kind %d", kind), b, known)...)
}

func newerExpression(e []byte) (problems []string) {
	var name string
	var data []byte
	walk(e, func(kind uint16, value []byte) {
		switch kind {
		case unix.NFTA_EXPR_NAME:
			name = strings.TrimRight(string(value), "\x00")
		case unix.NFTA_EXPR_DATA:
			data = value
		default:
			problems = append(problems, fmt.Sprintf("expression attribute %d", kind))
		}
	})
	known, ok := expressions419[name]
	if !ok {
		return append(problems, "expression "+name)
	}
	return append(problems, newerAttributes("expression "+name, data, known)...)
}

func newerAttributes(in string, b []byte, known map[uint16]attribute) (problems []string) {
	walk(b, func(kind uint16, value []byte) {
		a, ok := known[kind]
		number := uint32(0)
		if len(value) == 4 {
			number = binary.BigEndian.Uint32(value)
		}
		switch {
		case !ok && kind == unix.NFTA_SET_DESC:
			problems = append(problems, in+": attribute desc")
		case !ok:
			problems = append(problems, fmt.Sprintf("%s: attribute %d", in, kind))
		case a.flags != 0 && number&^a.flags != 0:
			problems = append(problems, fmt.Sprintf("%s: %s %#x", in, a.name, number))
		case len(a.values) > 0 && !slices.Contains(a.values, number):
			problems = append(problems, fmt.Sprintf("%s: %s %d", in, a.name, number))
		case a.list:
			walk(value, func(_ uint16, each []byte) {
				problems = append(problems, newerAttributes(in+", "+a.name, each, a.nested)...)
			})
		case a.nested != nil:
			problems = append(problems, newerAttributes(in+", "+a.name, value, a.nested)...)
		}
	})
	return problems
}

func walk(b []byte, f func(kind uint16, value []byte)) {
	for len(b) >= 4 {
		size := int(binary.NativeEndian.Uint16(b))
		if size < 4 || size > len(b) {
			f(0xffff, nil) // unknown to every kernel
			return
		}
		f(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[4:size])
		b = b[min((size+3)&^3, len(b)):]
	}
}

// What a kernel rejects is named, not only its error number.
func TestSupportedNamesWhatIsMissing(t *testing.T) {
	rs, err := NewRuleset(anyNode())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		refused string // in a message
		answer  error
		names   string
	}{
		{"masq\x00", unix.ENOENT, "CONFIG_NFT_MASQ"},
		{"fib\x00", unix.EOPNOTSUPP, "CONFIG_NFT_FIB_IPV4"},
		{"ct\x00", unix.ENOENT, "CONFIG_NFT_CT"},
		{"nat\x00", unix.ENOENT, "NAT in nftables, family ip "},
		{mapPods6 + "\x00", unix.EOPNOTSUPP, "maps with several types"},
		{setInside4 + "\x00", unix.EOPNOTSUPP, "sets of intervals"},
		{claims.TableName + "\x00", unix.EAFNOSUPPORT, "CONFIG_NF_TABLES_INET"},
	} {
		err := supportsRuleset(rs, func(f func(*nftables.Conn) error) error {
			conn, err := nftables.New(nftables.WithTestDial(func(req []netlink.Message) ([]netlink.Message, error) {
				for _, m := range req {
					if strings.Contains(string(m.Data), c.refused) {
						return nil, c.answer
					}
				}
				return req, nil
			}))
			if err != nil {
				return err
			}
			return f(conn)
		})
		var lacks *datapath.UnsupportedError
		if !errors.As(err, &lacks) || !strings.Contains(lacks.Feature, c.names) {
			t.Errorf("%q is refused: %v, want it to name %s", c.refused, err, c.names)
		}
	}
	err = supportsRuleset(rs, func(func(*nftables.Conn) error) error { return unix.EPERM })
	var lacks *datapath.UnsupportedError
	if err == nil || errors.As(err, &lacks) {
		t.Errorf("a missing permission: %v, want no UnsupportedError", err)
	}
}
