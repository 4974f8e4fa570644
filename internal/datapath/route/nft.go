package route

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netns"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
)

// nft is the table `inet terway` of one network namespace. Its methods are
// transactions: each either happens as a whole or not at all.
type nft struct {
	ns netns.NsHandle
	// mu keeps our own transactions and dumps apart; the library's allocation of
	// set ids is not safe for concurrent use either.
	mu sync.Mutex
}

// elemKey is a device of the node and a source address that it may send from.
type elemKey struct {
	device string
	addr   netip.Addr
}

type elements map[elemKey]uint32

// elementsPerMessage keeps a message below the 64 KiB of a netlink attribute and
// a whole node's table below the socket's send buffer.
const elementsPerMessage = 200

func (n *nft) conn() (*nftables.Conn, error) {
	var opts []nftables.ConnOption
	if n.ns.IsOpen() {
		opts = append(opts, nftables.WithNetNSFd(int(n.ns)))
	}
	c, err := nftables.New(opts...)
	if err != nil {
		return nil, fmt.Errorf("open nftables netlink socket: %w", err)
	}
	return c, nil
}

func nftTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: TableName}
}

// put adds elements in one transaction. Elements that are there with another
// mark are replaced.
func (n *nft) put(elems elements) error {
	if len(elems) == 0 {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.conn()
	if err != nil {
		return err
	}
	if err := eachSet(elems, c.SetAddElements); err != nil {
		return err
	}
	err = c.Flush()
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		return n.replace(c, elems)
	}
	if err != nil {
		return fmt.Errorf("add elements %v to table inet %s: %w", elems, TableName, err)
	}
	return nil
}

// replace is for keys that exist with another mark: the kernel changes no
// element in place, and removes only what is there.
func (n *nft) replace(c *nftables.Conn, elems elements) error {
	have, err := readElements(c)
	if err != nil {
		return err
	}
	stale := elements{}
	for k := range elems {
		if mark, ok := have[k]; ok {
			stale[k] = mark
		}
	}
	if err := eachSet(stale, c.SetDeleteElements); err != nil {
		return err
	}
	if err := eachSet(elems, c.SetAddElements); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("replace elements %v of table inet %s: %w", elems, TableName, err)
	}
	return nil
}

// remove takes elements out in one transaction; missing ones, and a missing
// table, are no error.
func (n *nft) remove(keys ...elemKey) error {
	if len(keys) == 0 {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.conn()
	if err != nil {
		return err
	}
	elems := elements{}
	for _, k := range keys {
		elems[k] = 0
	}
	if err := eachSet(elems, c.SetDeleteElements); err != nil {
		return err
	}
	err = c.Flush()
	if err == nil {
		return nil
	}
	if !absent(err) {
		return fmt.Errorf("remove elements %v from table inet %s: %w", keys, TableName, err)
	}
	// One missing element undid the whole transaction: remove what there is.
	have, err := readElements(c)
	if err != nil {
		return err
	}
	for k := range elems {
		if _, ok := have[k]; !ok {
			delete(elems, k)
		}
	}
	if err := eachSet(elems, c.SetDeleteElements); err != nil {
		return err
	}
	if err := c.Flush(); err != nil && !absent(err) {
		return fmt.Errorf("remove elements %v from table inet %s: %w", keys, TableName, err)
	}
	return nil
}

// read returns the pods' elements; a missing table has none.
func (n *nft) read() (elements, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.conn()
	if err != nil {
		return nil, err
	}
	return readElements(c)
}

// ensure compares the table with the ruleset and, if anything differs, replaces
// the whole table in one transaction: no packet sees half of it. extra are
// elements that must not be lost when the table itself was. It returns what
// differed, or "".
func (n *nft) ensure(rs ruleset, extra elements) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.conn()
	if err != nil {
		return "", err
	}
	differs, err := compare(c, rs)
	if err != nil || differs == "" {
		return "", err
	}
	elems, err := readElements(c)
	if err != nil {
		return "", err
	}
	for k, mark := range extra {
		elems[k] = mark
	}
	if err := build(c, rs, elems, readCounter(c)); err != nil {
		return "", fmt.Errorf("write table inet %s: %w", TableName, err)
	}
	return differs, nil
}

// differs names the first difference to the ruleset, or "".
func (n *nft) differs(rs ruleset) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.conn()
	if err != nil {
		return "", err
	}
	return compare(c, rs)
}

func (n *nft) deleteTable() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.conn()
	if err != nil {
		return err
	}
	c.DelTable(nftTable())
	if err := c.Flush(); err != nil && !absent(err) {
		return fmt.Errorf("delete table inet %s: %w", TableName, err)
	}
	return nil
}

// spoofed is how many packets were dropped for a source that is not the pod's.
func (n *nft) spoofed() (uint64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.conn()
	if err != nil {
		return 0, err
	}
	obj, err := c.GetObject(&nftables.NamedObj{Table: nftTable(), Name: counterName, Type: nftables.ObjTypeCounter})
	if err != nil {
		return 0, fmt.Errorf("read counter %s of table inet %s: %w", counterName, TableName, err)
	}
	named, ok := obj.(*nftables.NamedObj)
	if !ok {
		return 0, fmt.Errorf("read counter %s of table inet %s: answer is a %T", counterName, TableName, obj)
	}
	counter, ok := named.Obj.(*expr.Counter)
	if !ok {
		return 0, fmt.Errorf("read counter %s of table inet %s: object is a %T", counterName, TableName, named.Obj)
	}
	return counter.Packets, nil
}

// readCounter lets the count survive a rebuild; a table without the counter
// starts at zero.
func readCounter(c *nftables.Conn) expr.Counter {
	obj, err := c.GetObject(&nftables.NamedObj{Table: nftTable(), Name: counterName, Type: nftables.ObjTypeCounter})
	if err != nil {
		return expr.Counter{}
	}
	if named, ok := obj.(*nftables.NamedObj); ok {
		if counter, ok := named.Obj.(*expr.Counter); ok {
			return *counter
		}
	}
	return expr.Counter{}
}

func build(c *nftables.Conn, rs ruleset, elems elements, count expr.Counter) error {
	c.AddTable(rs.table)
	c.DelTable(rs.table)
	c.AddTable(rs.table)
	c.AddObj(&nftables.NamedObj{Table: rs.table, Name: counterName, Type: nftables.ObjTypeCounter, Obj: &count})
	for _, name := range []string{mapPods4, mapPods6} {
		if err := c.AddSet(podsMap(rs.table, name), nil); err != nil {
			return fmt.Errorf("map %s: %w", name, err)
		}
	}
	for name, ranges := range map[string][]netipx.IPRange{setInside4: rs.inside4, setInside6: rs.inside6} {
		if err := c.AddSet(insideSet(rs.table, name), intervals(ranges)); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	if err := eachSet(elems, c.SetAddElements); err != nil {
		return err
	}
	for _, chain := range rs.chains {
		c.AddChain(chain)
	}
	for _, r := range rs.rules {
		rule, err := rs.nftRule(r)
		if err != nil {
			return err
		}
		c.AddRule(rule)
	}
	return c.Flush()
}

// compare names the first difference between the kernel's table and the ruleset.
func compare(c *nftables.Conn, rs ruleset) (string, error) {
	exists, err := tableExists(c)
	if err != nil {
		return "", err
	}
	if !exists {
		return fmt.Sprintf("table inet %s is missing", TableName), nil
	}
	chains, err := c.ListChainsOfTableFamily(rs.table.Family)
	if err != nil {
		return "", fmt.Errorf("list nftables chains: %w", err)
	}
	for _, want := range rs.chains {
		i := slices.IndexFunc(chains, func(have *nftables.Chain) bool {
			return have.Table.Name == TableName && have.Name == want.Name
		})
		if i < 0 {
			return fmt.Sprintf("chain %s of table inet %s is missing", want.Name, TableName), nil
		}
		if !sameHook(chains[i], want) {
			return fmt.Sprintf("chain %s of table inet %s has another hook, priority or policy", want.Name, TableName), nil
		}
		if differs, err := compareRules(c, rs, want); err != nil || differs != "" {
			return differs, err
		}
	}
	return compareSets(c, rs)
}

func tableExists(c *nftables.Conn) (bool, error) {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == TableName }), nil
}

func sameHook(have, want *nftables.Chain) bool {
	if want.Hooknum == nil {
		return have.Hooknum == nil
	}
	return have.Hooknum != nil && *have.Hooknum == *want.Hooknum &&
		have.Priority != nil && *have.Priority == *want.Priority &&
		have.Type == want.Type && have.Policy != nil && *have.Policy == *want.Policy
}

func compareRules(c *nftables.Conn, rs ruleset, chain *nftables.Chain) (string, error) {
	rules, err := c.GetRules(rs.table, chain)
	if err != nil {
		return "", fmt.Errorf("list rules of chain %s: %w", chain.Name, err)
	}
	var have, want []string
	for _, r := range rules {
		comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		have = append(have, comment)
	}
	for _, r := range rs.rules {
		if r.chain != chain.Name {
			continue
		}
		comment, err := r.comment()
		if err != nil {
			return "", err
		}
		want = append(want, comment)
	}
	if !slices.Equal(have, want) {
		return fmt.Sprintf("chain %s of table inet %s has other rules", chain.Name, TableName), nil
	}
	return "", nil
}

func compareSets(c *nftables.Conn, rs ruleset) (string, error) {
	sets, err := c.GetSets(rs.table)
	if err != nil {
		return "", fmt.Errorf("list sets of table inet %s: %w", TableName, err)
	}
	for _, want := range []*nftables.Set{
		podsMap(rs.table, mapPods4), podsMap(rs.table, mapPods6),
		insideSet(rs.table, setInside4), insideSet(rs.table, setInside6),
	} {
		i := slices.IndexFunc(sets, func(s *nftables.Set) bool { return s.Name == want.Name })
		if i < 0 {
			return fmt.Sprintf("set %s of table inet %s is missing", want.Name, TableName), nil
		}
		if sets[i].KeyType.Bytes != want.KeyType.Bytes || sets[i].IsMap != want.IsMap {
			return fmt.Sprintf("set %s of table inet %s has another type", want.Name, TableName), nil
		}
	}
	for name, ranges := range map[string][]netipx.IPRange{setInside4: rs.inside4, setInside6: rs.inside6} {
		have, err := c.GetSetElements(insideSet(rs.table, name))
		if err != nil {
			return "", fmt.Errorf("list elements of set %s: %w", name, err)
		}
		if !sameIntervals(have, intervals(ranges)) {
			return fmt.Sprintf("set %s of table inet %s has other elements", name, TableName), nil
		}
	}
	return "", nil
}

// intervals writes ranges as the kernel has them: the first address, and the
// first one after the last.
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

// eachSet hands elements to f, split by family and into messages that fit.
func eachSet(elems elements, f func(*nftables.Set, []nftables.SetElement) error) error {
	byMap := map[string][]nftables.SetElement{}
	for k, mark := range elems {
		name := mapPods4
		if k.addr.Is6() {
			name = mapPods6
		}
		key := make([]byte, unix.IFNAMSIZ, unix.IFNAMSIZ+16)
		copy(key, k.device)
		byMap[name] = append(byMap[name], nftables.SetElement{
			Key: append(key, k.addr.AsSlice()...),
			Val: binaryutil.NativeEndian.PutUint32(mark),
			// For people, and because nft shows the mark byte-swapped.
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
	slot := int(mark&MarkMask) >> MarkShift
	if slot == slotStranded {
		return "ENI is gone"
	}
	return fmt.Sprintf("table %d", TableLocal+slot)
}

func readElements(c *nftables.Conn) (elements, error) {
	elems := elements{}
	exists, err := tableExists(c)
	if err != nil || !exists {
		return elems, err
	}
	sets, err := c.GetSets(nftTable())
	if err != nil {
		return nil, fmt.Errorf("list sets of table inet %s: %w", TableName, err)
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
			elems[elemKey{device, addr}] = binaryutil.NativeEndian.Uint32(e.Val[:4])
		}
	}
	return elems, nil
}
