package nft

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/netlinkx"
)

// Tables are `inet terway`, `ip terway-nat` and `ip6 terway-nat` of one network namespace. Each
// method is one transaction: it takes effect as a whole or not at all. Methods are safe for
// concurrent use.
type Tables struct {
	options []nftables.ConnOption
	// mu serialises our own transactions and dumps; the library's allocation of set ids is not safe
	// for concurrent use either.
	mu sync.Mutex
	// conn stays open between calls: closing an nftables socket waits until the
	// kernel has freed what was deleted, an RCU grace period (5 to 15 ms).
	conn *nftables.Conn
}

// New returns the tables of a namespace, which the caller keeps open; netns.None() is that of the
// process. It does not read the kernel.
func New(ns netns.NsHandle) *Tables {
	n := &Tables{options: []nftables.ConnOption{nftables.AsLasting()}}
	if ns.IsOpen() {
		n.options = append(n.options, nftables.WithNetNSFd(int(ns)))
	}
	return n
}

// Do runs one transaction or dump, of any table. After an error the socket may hold answers to the
// failed request and the library unsent messages, so the next call uses a new one.
func (n *Tables) Do(f func(*nftables.Conn) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn == nil {
		c, err := nftables.New(n.options...)
		if err != nil {
			return fmt.Errorf("open nftables netlink socket: %w", err)
		}
		n.conn = c
	}
	err := f(n.conn)
	if err != nil {
		err = errors.Join(err, n.closeConn())
	}
	return err
}

// Close closes the socket; the tables stay.
func (n *Tables) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closeConn()
}

func (n *Tables) closeConn() error {
	if n.conn == nil {
		return nil
	}
	c := n.conn
	n.conn = nil
	if err := c.CloseLasting(); err != nil {
		return fmt.Errorf("close nftables netlink socket: %w", err)
	}
	return nil
}

// Key is a device of the node and a source address that it may send from.
type Key struct {
	Device string
	Addr   netip.Addr
}

// Elements are the pods' part of the tables: the mark for a device and a source address.
type Elements map[Key]uint32

// elementsPerMessage keeps a message below the 64 KiB of a netlink attribute and a whole node's
// table below the socket's send buffer.
const elementsPerMessage = 200

func nftTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: claims.TableName}
}

func natTable(family int) *nftables.Table {
	if family == netlink.FAMILY_V4 {
		return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: claims.NATTableName}
	}
	return &nftables.Table{Family: nftables.TableFamilyIPv6, Name: claims.NATTableName}
}

// TableText returns a table as nft writes it: family and name.
func TableText(t *nftables.Table) string {
	family := "inet"
	switch t.Family {
	case nftables.TableFamilyIPv4:
		family = "ip"
	case nftables.TableFamilyIPv6:
		family = "ip6"
	}
	return family + " " + t.Name
}

// IsOwnTable reports whether an nftables table, of a netfilter family (NFPROTO_…), is one of ours.
func IsOwnTable(family byte, name string) bool {
	switch nftables.TableFamily(family) {
	case nftables.TableFamilyINet:
		return name == claims.TableName
	case nftables.TableFamilyIPv4, nftables.TableFamilyIPv6:
		return name == claims.NATTableName
	}
	return false
}

// Put adds elements in one transaction. Existing elements with another mark are replaced.
func (n *Tables) Put(elems Elements) error {
	err := n.swap(nil, elems, false)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		err = n.swap(elems, elems, true) // the kernel does not change elements in place
	}
	if err != nil {
		return fmt.Errorf("add elements %v to table inet %s: %w", elems, claims.TableName, err)
	}
	return nil
}

// Remove removes elements in one transaction; missing ones, and a missing table, are no error.
func (n *Tables) Remove(keys ...Key) error {
	elems := Elements{}
	for _, k := range keys {
		elems[k] = 0
	}
	err := n.swap(elems, nil, false)
	if netlinkx.Gone(err) {
		err = n.swap(elems, nil, true) // one missing element aborts the whole transaction
	}
	if err != nil && !netlinkx.Gone(err) {
		return fmt.Errorf("remove elements %v from table inet %s: %w", keys, claims.TableName, err)
	}
	return nil
}

// swap removes elements and adds others in one transaction. With existing it removes only those that
// exist, with their marks.
func (n *Tables) swap(remove, add Elements, existing bool) error {
	if len(remove) == 0 && len(add) == 0 {
		return nil
	}
	return n.Do(func(c *nftables.Conn) error {
		if existing {
			have, err := readElements(c)
			if err != nil {
				return err
			}
			maps.DeleteFunc(have, func(k Key, _ uint32) bool { _, listed := remove[k]; return !listed })
			remove = have
		}
		if err := eachSet(remove, c.SetDeleteElements); err != nil {
			return err
		}
		if err := eachSet(add, c.SetAddElements); err != nil {
			return err
		}
		return c.Flush()
	})
}

// Read returns the pods' elements; a missing table has none.
func (n *Tables) Read() (elems Elements, err error) {
	err = n.Do(func(c *nftables.Conn) (err error) {
		elems, err = readElements(c)
		return err
	})
	return elems, err
}

// Ensure compares the tables with the ruleset and, if anything differs, replaces them all in one
// transaction, so no packet sees a partial ruleset. extra are elements that must be written if the
// table itself was lost. It returns what differed, or "".
func (n *Tables) Ensure(rs Ruleset, extra Elements) (differs string, err error) {
	err = n.Do(func(c *nftables.Conn) error {
		var err error
		if differs, err = compare(c, rs); err != nil || differs == "" {
			return err
		}
		elems, err := readElements(c)
		if err != nil {
			return err
		}
		maps.Copy(elems, extra)
		have, err := ownTables(c)
		if err != nil {
			return err
		}
		count, err := readCounter(c)
		if err != nil {
			count = &expr.Counter{} // there is none: it starts at 0
		}
		if err := build(c, rs, have, elems, count); err != nil {
			return fmt.Errorf("write table inet %s: %w", claims.TableName, err)
		}
		return nil
	})
	return differs, err
}

// Differs names the first difference to the ruleset, or "".
func (n *Tables) Differs(rs Ruleset) (differs string, err error) {
	err = n.Do(func(c *nftables.Conn) (err error) {
		differs, err = compare(c, rs)
		return err
	})
	return differs, err
}

// Delete removes the tables.
func (n *Tables) Delete() error {
	err := n.Do(func(c *nftables.Conn) error {
		have, err := ownTables(c)
		if err != nil || len(have) == 0 {
			return err
		}
		for _, t := range have {
			c.DelTable(t)
		}
		return c.Flush()
	})
	if err != nil && !netlinkx.Gone(err) {
		return fmt.Errorf("delete nftables tables: %w", err)
	}
	return nil
}

// Spoofed returns how many packets were dropped for a source that is not the pod's.
func (n *Tables) Spoofed() (packets uint64, err error) {
	err = n.Do(func(c *nftables.Conn) error {
		counter, err := readCounter(c)
		if err != nil {
			return fmt.Errorf("read counter %s of table inet %s: %w", counterName, claims.TableName, err)
		}
		packets = counter.Packets
		return nil
	})
	return packets, err
}

func spoofedCounter(value *expr.Counter) *nftables.NamedObj {
	return &nftables.NamedObj{Table: nftTable(), Name: counterName, Type: nftables.ObjTypeCounter, Obj: value}
}

func readCounter(c *nftables.Conn) (*expr.Counter, error) {
	obj, err := c.GetObject(spoofedCounter(&expr.Counter{}))
	if err != nil {
		return nil, err
	}
	if named, ok := obj.(*nftables.NamedObj); ok {
		if counter, ok := named.Obj.(*expr.Counter); ok {
			return counter, nil
		}
	}
	return nil, fmt.Errorf("the answer is a %T", obj)
}

func build(c *nftables.Conn, rs Ruleset, have []*nftables.Table, elems Elements, count *expr.Counter) error {
	for _, t := range have {
		if !among(t, rs.tables()) {
			c.DelTable(t)
		}
	}
	for _, t := range rs.tables() {
		c.AddTable(t)
		c.DelTable(t)
		c.AddTable(t)
	}
	c.AddObj(spoofedCounter(count))
	if err := rs.addSets(c, rs.sets()); err != nil {
		return err
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
}

func (rs Ruleset) addSets(c *nftables.Conn, sets []*nftables.Set) error {
	for _, set := range sets {
		if err := c.AddSet(set, intervals(rs.inside[set.Name])); err != nil {
			return fmt.Errorf("set %s: %w", set.Name, err)
		}
	}
	return nil
}

// compare names the first difference between the kernel's tables and the ruleset.
func compare(c *nftables.Conn, rs Ruleset) (string, error) {
	tables, err := ownTables(c)
	if err != nil {
		return "", err
	}
	for _, want := range rs.tables() {
		if !among(want, tables) {
			return fmt.Sprintf("table %s is missing", TableText(want)), nil
		}
	}
	for _, have := range tables {
		if !among(have, rs.tables()) {
			return fmt.Sprintf("table %s is of a family that the node does not use", TableText(have)), nil
		}
	}
	for _, want := range rs.chains {
		// One by one: kube-proxy may have thousands in the same family.
		have, err := c.ListChain(want.Table, want.Name)
		if err != nil && strings.HasSuffix(err.Error(), unix.ENOENT.Error()) { // the library keeps only the text
			return fmt.Sprintf("chain %s of table %s is missing", want.Name, TableText(want.Table)), nil
		}
		if err != nil {
			return "", fmt.Errorf("read nftables chain %s of table %s: %w", want.Name, TableText(want.Table), err)
		}
		if !sameHook(have, want) {
			return fmt.Sprintf("chain %s of table %s has another hook, priority or policy", want.Name, TableText(want.Table)), nil
		}
		if differs, err := compareRules(c, rs, want); err != nil || differs != "" {
			return differs, err
		}
	}
	return compareSets(c, rs)
}

func among(t *nftables.Table, list []*nftables.Table) bool {
	return slices.ContainsFunc(list, func(l *nftables.Table) bool { return l.Family == t.Family && l.Name == t.Name })
}

// ownTables returns those of our tables that exist.
func ownTables(c *nftables.Conn) ([]*nftables.Table, error) {
	tables, err := c.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	return slices.DeleteFunc(tables, func(t *nftables.Table) bool { return !IsOwnTable(byte(t.Family), t.Name) }), nil
}

func tableExists(c *nftables.Conn) (bool, error) {
	tables, err := ownTables(c)
	return among(nftTable(), tables), err
}

func sameHook(have, want *nftables.Chain) bool {
	if want.Hooknum == nil {
		return have.Hooknum == nil
	}
	return have.Hooknum != nil && *have.Hooknum == *want.Hooknum &&
		have.Priority != nil && *have.Priority == *want.Priority &&
		have.Type == want.Type && have.Policy != nil && *have.Policy == *want.Policy
}

// Unreadable reports whether rules exist, but have an expression that the library does not decode,
// such as `ct original ip saddr`.
func Unreadable(err error) bool {
	var refused unix.Errno
	return err != nil && !errors.As(err, &refused)
}

func compareRules(c *nftables.Conn, rs Ruleset, chain *nftables.Chain) (string, error) {
	rules, err := c.GetRules(chain.Table, chain)
	if Unreadable(err) {
		return fmt.Sprintf("chain %s of table %s has other rules", chain.Name, TableText(chain.Table)), nil
	}
	if err != nil {
		return "", fmt.Errorf("list rules of chain %s: %w", chain.Name, err)
	}
	var have, want []string
	for _, r := range rules {
		comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		have = append(have, comment)
	}
	for _, r := range rs.rules {
		if r.chain != chain {
			continue
		}
		comment, err := r.comment()
		if err != nil {
			return "", err
		}
		want = append(want, comment)
	}
	if !slices.Equal(have, want) {
		return fmt.Sprintf("chain %s of table %s has other rules", chain.Name, TableText(chain.Table)), nil
	}
	return "", nil
}

func compareSets(c *nftables.Conn, rs Ruleset) (string, error) {
	sets, err := c.GetSets(rs.table)
	if err != nil {
		return "", fmt.Errorf("list sets of table inet %s: %w", claims.TableName, err)
	}
	for _, want := range rs.sets() {
		i := slices.IndexFunc(sets, func(s *nftables.Set) bool { return s.Name == want.Name })
		if i < 0 {
			return fmt.Sprintf("set %s of table inet %s is missing", want.Name, claims.TableName), nil
		}
		if sets[i].KeyType.Bytes != want.KeyType.Bytes || sets[i].IsMap != want.IsMap {
			return fmt.Sprintf("set %s of table inet %s has another type", want.Name, claims.TableName), nil
		}
		if want.IsMap {
			continue // the pods' elements are compared one by one
		}
		have, err := c.GetSetElements(want)
		if err != nil {
			return "", fmt.Errorf("list elements of set %s: %w", want.Name, err)
		}
		if !sameIntervals(have, intervals(rs.inside[want.Name])) {
			return fmt.Sprintf("set %s of table inet %s has other elements", want.Name, claims.TableName), nil
		}
	}
	return "", nil
}

// intervals returns ranges in the kernel's form: the first address, and the first one after the
// last.
func intervals(ranges []netipx.IPRange) []nftables.SetElement {
	var elems []nftables.SetElement
	for _, r := range ranges {
		elems = append(elems, nftables.SetElement{Key: r.From().AsSlice()})
		if next := r.To().Next(); next.IsValid() {
			elems = append(elems, nftables.SetElement{Key: next.AsSlice(), IntervalEnd: true})
		}
	}
	return elems
}

func sameIntervals(a, b []nftables.SetElement) bool {
	order := func(x, y nftables.SetElement) int { return bytes.Compare(x.Key, y.Key) }
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, order)
	slices.SortFunc(b, order)
	return slices.EqualFunc(a, b, func(x, y nftables.SetElement) bool {
		return bytes.Equal(x.Key, y.Key) && x.IntervalEnd == y.IntervalEnd
	})
}

// eachSet passes elements to f, split by family and into messages that fit.
func eachSet(elems Elements, f func(*nftables.Set, []nftables.SetElement) error) error {
	byMap := map[string][]nftables.SetElement{}
	for k, mark := range elems {
		name := mapPods4
		if k.Addr.Is6() {
			name = mapPods6
		}
		key := make([]byte, unix.IFNAMSIZ, unix.IFNAMSIZ+16)
		copy(key, k.Device)
		byMap[name] = append(byMap[name], nftables.SetElement{
			Key: append(key, k.Addr.AsSlice()...),
			Val: binaryutil.NativeEndian.PutUint32(mark),
			// For people, because nft shows the mark byte-swapped.
			Comment: markText(mark),
		})
	}
	for name, list := range byMap {
		for chunk := range slices.Chunk(list, elementsPerMessage) {
			if err := f(podsMap(nftTable(), name), chunk); err != nil {
				return fmt.Errorf("elements of map %s: %w", name, err)
			}
		}
	}
	return nil
}

func markText(mark uint32) string {
	slot := int(mark&claims.MarkMask) >> claims.MarkShift
	switch slot {
	case claims.SlotStranded:
		return "ENI is gone"
	case claims.SlotOwnENI:
		return "by its own ENI"
	}
	return fmt.Sprintf("table %d", claims.TableLocal+slot)
}

func readElements(c *nftables.Conn) (Elements, error) {
	elems := Elements{}
	exists, err := tableExists(c)
	if err != nil || !exists {
		return elems, err
	}
	sets, err := c.GetSets(nftTable())
	if err != nil {
		return nil, fmt.Errorf("list sets of table inet %s: %w", claims.TableName, err)
	}
	for _, set := range sets {
		if (set.Name != mapPods4 && set.Name != mapPods6) || !set.IsMap {
			continue
		}
		list, err := c.GetSetElements(podsMap(nftTable(), set.Name))
		if err != nil {
			return nil, fmt.Errorf("list elements of map %s: %w", set.Name, err)
		}
		for _, e := range list {
			if len(e.Key) <= unix.IFNAMSIZ || len(e.Val) < 4 {
				return nil, fmt.Errorf("list elements of map %s: element %x has an unknown form", set.Name, e.Key)
			}
			addr, ok := netip.AddrFromSlice(e.Key[unix.IFNAMSIZ:])
			if !ok {
				return nil, fmt.Errorf("list elements of map %s: element %x has no address", set.Name, e.Key)
			}
			device := strings.TrimRight(string(e.Key[:unix.IFNAMSIZ]), "\x00")
			elems[Key{device, addr}] = binaryutil.NativeEndian.Uint32(e.Val[:4])
		}
	}
	return elems, nil
}
