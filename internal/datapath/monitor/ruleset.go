package monitor

import (
	"context"
	"syscall"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/attr"
	"terway.dev/terway/internal/datapath/firewall"
	"terway.dev/terway/internal/datapath/nft"
)

const (
	nfgenHeader = 4 // struct nfgenmsg: family, version, resource id
	// tableName is the attribute with the table's name in messages about tables, chains, rules,
	// sets, elements and objects: it is 1 in each.
	tableName = unix.NFTA_TABLE_NAME
)

func (m *Monitor) watchRuleset(ctx context.Context) error {
	s, err := listenTo(m.NetNS, unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return err
	}
	m.subscribed("nftables")
	return s.each(ctx, func(h syscall.NlMsghdr, b []byte) {
		if h.Type>>8 == unix.NFNL_SUBSYS_NFTABLES && len(b) >= nfgenHeader {
			m.ruleset(h.Type&0xff, b[0], b[nfgenHeader:])
		}
	})
}

// ruleset handles one change of nftables. kube-proxy makes thousands of them: a change of another
// table is skipped after its first attribute.
func (m *Monitor) ruleset(kind uint16, family byte, attrs []byte) {
	if table := attr.Text(attr.Get(attrs, tableName)); nft.IsOwnTable(family, table) {
		m.ownTable(kind, table, attrs)
		return
	}
	switch kind {
	case unix.NFT_MSG_NEWCHAIN:
		if drops(attrs) {
			m.report("a chain of table %s drops forwarded packets by policy", attr.Text(attr.Get(attrs, tableName)))
		}
	case unix.NFT_MSG_DELRULE:
		if firewall.IsForwardRule(attr.Get(attrs, unix.NFTA_RULE_USERDATA)) {
			m.report("a rule that accepts forwarded packets is gone from table %s", attr.Text(attr.Get(attrs, tableName)))
		}
	}
}

func (m *Monitor) ownTable(kind uint16, table string, attrs []byte) {
	switch kind {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_NEWSET, unix.NFT_MSG_NEWOBJ, unix.NFT_MSG_NEWSETELEM:
		// A new table of ours is being written, or a pod is added.
	case unix.NFT_MSG_DELSETELEM:
		if device := elementDevice(attrs); device == "" || m.Pod(device) {
			m.report("elements are gone from table %s", table)
		}
	default:
		m.report("table %s was changed", table)
	}
}

// drops reports whether a chain is at hook forward and drops by policy.
func drops(attrs []byte) bool {
	hook, hooked := attr.Big(attr.Get(attrs, unix.NFTA_CHAIN_HOOK, unix.NFTA_HOOK_HOOKNUM))
	policy, has := attr.Big(attr.Get(attrs, unix.NFTA_CHAIN_POLICY))
	return hooked && hook == unix.NF_INET_FORWARD && has && policy == 0 // NF_DROP
}

// elementDevice returns the device in the key of the first element that has one: an element of a
// map of pods (package nft: Key). Elements of other sets have shorter keys.
func elementDevice(attrs []byte) string {
	for _, element := range attr.Each(attr.Get(attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
		key := attr.Get(element, unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE)
		if len(key) > unix.IFNAMSIZ {
			return attr.Text(key[:unix.IFNAMSIZ])
		}
	}
	return ""
}
