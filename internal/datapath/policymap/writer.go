package policymap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

// Limits are how many rows the maps may have. They grow to them as they need to.
type Limits struct {
	Endpoints, Addresses, Ranges, Peers, Spans, Verdicts uint32
}

// DefaultLimits are those of a node: 4,096 pods, as pods' numbers have 12 bits, and 16 rule sets at the
// compiler's budget (compile.DefaultBudget).
var DefaultLimits = Limits{Endpoints: 4096, Addresses: 1 << 20, Ranges: MaxRanges, Peers: 1 << 20, Spans: 1 << 23, Verdicts: 1 << 20}

// MaxRanges is how many ranges the programs can search (POL_RANGE_STEPS of bpf/policy.h).
const MaxRanges = 1 << 20

// mapVerdicts has a map of one row beside its halves, the head (POL_HEAD).
const (
	mapVerdicts = "tw_pol_verd_3"
	headAt      = uint32(2)
)

// head is struct pol_head.
type head struct {
	Half   uint32
	Ranges [2]uint32
	// Epoch is another one with each change, also of the next process: connections judged by other rules are judged again.
	Epoch uint32
}

// addressRow is struct pol_address.
type addressRow struct {
	compile.AddressRow
	Endpoint uint32 // that has the address, or 0
}

// inRanges is the kind of an address that is an endpoint's alone.
const inRanges = 2

// grows says whether a row that becomes another one tells programs more than before, and nothing else.
func (a addressRow) grows(now addressRow) bool {
	return (a.Endpoint == 0 || a.Endpoint == now.Endpoint) && (a.Kind == inRanges || a.AddressRow == now.AddressRow)
}

// A Writer brings a node's part into the kernel. Its methods may be called at any time.
type Writer struct {
	mu sync.Mutex

	heads   [2]*ebpf.Map
	active  int  // the half that holds
	held    head // its head
	epoch   uint32
	written bool // by this Writer

	endpoints array[compile.EndpointRow]
	addresses hash[[16]byte, addressRow]
	ranges    array[compile.RangeRow]
	ipv4      uint32 // ranges
	peers     hash[compile.PeerKey, uint32]
	spans     array[compile.SpanRow]
	verdicts  array[compile.VerdictRow]
	stores    []store
	node      *compile.Node // what holds
	exact     bool          // it is all of the part that was written last
	// former are the endpoints' numbers that another process has given, and spare those that nobody has now: a
	// packet may still have read one of them.
	former          map[[16]byte]uint32
	spare           map[uint32]struct{}
	podNumbers      numbers[policy.NamespacedName]
	ruleSets, atoms numbers[compile.Hash]
	tableOf         map[compile.Hash]*table
	spanBlocks      blocks
	verdictOf       map[verdictKey]*verdict
	verdictBlocks   blocks
	rules           names[ruleName]
	logs            names[string]         // rules' numbers, 4 bytes each
	unused          map[*verdict]struct{} // verdicts
	counters        counters
}

// A table is where a compile.Table is.
type table struct {
	rows     block
	verdicts []*verdict // one for each span that has one
}

// verdictKey is what makes verdicts one.
type verdictKey struct {
	action policy.Action
	level  uint16
	rule   uint32
	log    uint32
}

type verdict struct {
	verdictKey
	number uint32
	uses   int
	logs   []byte // rules' numbers, 4 bytes each
}

// New is a Writer for the maps of policy.h, which are found by their names and stay the caller's. What they hold
// stays until the first Write.
func New(kernel map[string]*ebpf.Map, limits Limits) (*Writer, error) {
	if limits.Ranges > MaxRanges {
		return nil, fmt.Errorf("limit of ranges is %d: want at most %d, as many as the programs can search", limits.Ranges, MaxRanges)
	}
	w := &Writer{
		node: &compile.Node{}, tableOf: map[compile.Hash]*table{}, verdictOf: map[verdictKey]*verdict{}, unused: map[*verdict]struct{}{},
	}
	for _, m := range w.places(limits) {
		m.halves.outer = kernel[m.name]
		if m.halves.outer == nil {
			return nil, fmt.Errorf("map %s is not there", m.name)
		}
		m.halves.shape = m.shape()
		m.halves.limit = m.limit
		w.stores = append(w.stores, m.store)
	}
	next, err := w.counters.open(kernel[counted])
	if err != nil {
		return nil, err
	}
	w.rules = newNames(ruleName{compile.RuleRow{Reason: policy.Closed}, policy.Deny}, next, true)
	w.logs = newNames("", 0, false)
	held, err := w.holding()
	if err != nil {
		return nil, err
	}
	w.active, w.epoch = int(held.Half&1), held.Epoch
	if held == (head{}) { // programs may know connections that were judged by maps of another shape
		w.epoch = rand.Uint32()
	}
	if err := w.readFormer(); err != nil {
		return nil, err
	}
	for half := range w.heads {
		m, err := newHalf(w.verdicts.shape, 1)
		if err != nil {
			return nil, errors.Join(err, w.Close())
		}
		w.heads[half] = m
	}
	w.verdicts.set(0, compile.VerdictRow{Action: uint8(policy.Deny)})
	w.spanBlocks.take(compile.FirstTable - 1)
	w.addresses.grows = addressRow.grows
	w.endpoints.set(0, compile.EndpointRow{})
	return w, nil
}

// A place is a store and what its map is like.
type place struct {
	halves          *halves
	store           store
	name            string
	kind            ebpf.MapType
	key, row, flags uint32
	limit           uint32
}

// shape is that of a half.
func (p place) shape() *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: p.name, Type: p.kind, KeySize: p.key, ValueSize: p.row, Flags: p.flags}
}

// places are those of all maps, each after those that its rows lead to.
func (w *Writer) places(limits Limits) []place {
	const growing, toNeed = unix.BPF_F_INNER_MAP, unix.BPF_F_NO_PREALLOC
	return []place{
		{&w.verdicts.halves, &w.verdicts, mapVerdicts, ebpf.Array, 4, 16, growing, limits.Verdicts},
		{&w.spans.halves, &w.spans, "tw_pol_spans_3", ebpf.Array, 4, 8, growing, limits.Spans},
		{&w.peers.halves, &w.peers, "tw_pol_peers_3", ebpf.Hash, 8, 4, toNeed, limits.Peers},
		{&w.ranges.halves, &w.ranges, "tw_pol_rng_3", ebpf.Array, 4, 24, growing, limits.Ranges},
		{&w.endpoints.halves, &w.endpoints, "tw_pol_ends_3", ebpf.Array, 4, 56, growing, limits.Endpoints},
		{&w.addresses.halves, &w.addresses, "tw_pol_addrs_3", ebpf.Hash, 16, 16, toNeed, limits.Addresses},
	}
}

// holding is the head that programs read, which another process may have written.
func (w *Writer) holding() (h head, err error) {
	var id uint32
	switch err := w.verdicts.outer.Lookup(headAt, &id); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return h, nil
	case err != nil:
		return h, fmt.Errorf("read map %s: %w", mapVerdicts, err)
	}
	m, err := ebpf.NewMapFromID(ebpf.MapID(id))
	if err != nil {
		return h, fmt.Errorf("open map %d of %s: %w", id, mapVerdicts, err)
	}
	defer m.Close()
	if err := m.Lookup(uint32(0), &h); err != nil {
		return h, fmt.Errorf("read map %d of %s: %w", id, mapVerdicts, err)
	}
	return h, nil
}

// readFormer reads the endpoints' numbers of the half that holds.
func (w *Writer) readFormer() error {
	w.former, w.spare = map[[16]byte]uint32{}, map[uint32]struct{}{}
	var id uint32
	switch err := w.addresses.outer.Lookup(uint32(w.active), &id); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("read map %s: %w", w.addresses.shape.Name, err)
	}
	m, err := ebpf.NewMapFromID(ebpf.MapID(id))
	if err != nil {
		return fmt.Errorf("open map %d of %s: %w", id, w.addresses.shape.Name, err)
	}
	defer m.Close()
	var address [16]byte
	var row addressRow
	rows := m.Iterate()
	for rows.Next(&address, &row) {
		number := row.Endpoint
		if number == 0 || number >= w.endpoints.limit {
			continue
		}
		w.former[address] = number
		if _, ok := w.spare[number]; !ok {
			w.spare[number] = struct{}{}
			w.podNumbers.claim(number)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read map %d of %s: %w", id, w.addresses.shape.Name, err)
	}
	return nil
}

// Close forgets the maps. What they hold stays.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, s := range w.stores {
		errs = append(errs, s.close())
	}
	for _, m := range w.heads {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// Write makes a node's part what holds, for all endpoints at once. After an error (FullError: a map cannot hold it) the former one
// holds for the endpoints that it has, as far as they are still there; others have no number, and nothing passes. The part
// stays the caller's.
func (w *Writer) Write(n *compile.Node) error { return w.write(n, false) }

// WriteEndpoints is Write for a part that is as the last one but for its endpoints: its costs do not grow with the rest.
func (w *Writer) WriteEndpoints(n *compile.Node) error { return w.write(n, true) }

func (w *Writer) write(n *compile.Node, endpoints bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	// Endpoints may have brought rule sets of their own.
	endpoints = endpoints && w.exact && len(n.RuleSets) == len(w.node.RuleSets) && len(n.Tables) == len(w.node.Tables)
	if endpoints {
		w.stageEndpoints(n)
	} else {
		w.stage(n, false)
	}
	err := w.commit()
	if full := (*FullError)(nil); errors.As(err, &full) {
		w.stage(n, true) // it may fit without gaps
		err = w.commit()
	}
	w.exact = err == nil
	switch {
	case w.exact && endpoints:
		now := *w.node
		now.Endpoints = maps.Clone(n.Endpoints)
		w.node = &now
		return nil
	case w.exact:
		w.node = own(n)
		return nil
	}
	if !w.written { // the rules that another process has written stay
		w.stage(&compile.Node{}, true)
		w.podNumbers = numbers[policy.NamespacedName]{}
		return errors.Join(err, w.readFormer())
	}
	stay := *w.node
	stay.Endpoints = map[policy.NamespacedName]compile.Endpoint{}
	for name, was := range w.node.Endpoints {
		// One with other addresses is another pod of that name.
		if e, ok := n.Endpoints[name]; ok && slices.Equal(was.Addresses, e.Addresses) {
			stay.Endpoints[name] = was
		}
	}
	w.stage(&stay, true)
	w.node = &stay
	if again := w.commit(); again != nil {
		return errors.Join(err, fmt.Errorf("close pods that are gone: %w", again))
	}
	return err
}

// own is a copy that stays as it is, whatever is put into the part afterwards.
func own(n *compile.Node) *compile.Node {
	c := *n
	c.Endpoints, c.RuleSets, c.Addresses = maps.Clone(n.Endpoints), maps.Clone(n.RuleSets), maps.Clone(n.Addresses)
	c.Peers, c.Tables = maps.Clone(n.Peers), maps.Clone(n.Tables)
	for f := range c.Ranges {
		c.Ranges[f] = slices.Clone(n.Ranges[f])
	}
	return &c
}

// Endpoint is the number of a pod's endpoint, which it keeps as long as the pod is there, also with the next process's Writer; 0: it
// has none, and nothing passes. Programs find it by the pod's address (policy_endpoint).
func (w *Writer) Endpoint(pod policy.NamespacedName) uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.podNumbers.of[pod]; e != nil {
		return e.number
	}
	return 0
}

// Decision is what a verdict's row says, false if it was never written, or long ago: rules and lists of rules that log have numbers of their
// own, which are never another's, and the last 4,096 that went are known.
func (w *Writer) Decision(row compile.VerdictRow) (policy.Decision, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rule, known := w.rules.name(row.Rule)
	known = known && rule.action == policy.Action(row.Action)
	d := policy.Decision{Action: policy.Action(row.Action), Reason: rule.Reason, Tier: rule.Tier, Rule: rule.Rule}
	logs, ok := w.logs.name(row.Log)
	known = known && ok
	for b := []byte(logs); len(b) > 0; b = b[4:] {
		rule, ok := w.rules.name(binary.NativeEndian.Uint32(b))
		known = known && ok
		d.Logs = append(d.Logs, rule.Rule)
	}
	return d, known
}

// Repair compares what the kernel's maps hold with what they should hold and writes what differs. It returns what differed.
func (w *Writer) Repair() ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.written {
		return nil, nil
	}
	if w.counters.failed != nil {
		w.counters.add(&w.rules)
	}
	differ, err := w.repair()
	return differ, errors.Join(err, w.counters.failed)
}

func (w *Writer) repair() ([]string, error) {
	var differ []string
	for half := range w.heads {
		for _, s := range w.stores {
			d, err := s.check(half)
			differ = append(differ, d...)
			if err != nil {
				return differ, err
			}
		}
	}
	ok, err := holds(w.verdicts.outer, headAt, w.heads[w.active])
	if err != nil {
		return differ, err
	}
	var has head
	if err := w.heads[w.active].Lookup(uint32(0), &has); err != nil {
		return differ, fmt.Errorf("read the head of half %d: %w", w.active, err)
	}
	if want := w.head(w.active); !ok || has != want {
		differ = append(differ, fmt.Sprintf("%s, head: not half %d with %d and %d ranges", mapVerdicts, w.active, want.Ranges[0], want.Ranges[1]))
	}
	if len(differ) == 0 {
		return nil, nil
	}
	return differ, w.flip()
}

func (w *Writer) head(half int) head {
	return head{Half: uint32(half), Ranges: [2]uint32{w.ipv4, uint32(len(w.ranges.rows)) - w.ipv4}, Epoch: w.epoch}
}

// commit makes what is staged hold, if it is something else.
func (w *Writer) commit() error {
	if w.held == w.head(w.active) && !slices.ContainsFunc(w.stores, func(s store) bool { return s.stale(w.active) }) {
		return nil
	}
	if w.add() {
		return nil
	}
	return w.flip()
}

// add makes what is staged hold without a wait for the programs, if that is possible: nothing goes, and what comes is
// found by no program until an address leads to it, each by itself. Rows are written before those that lead to them.
func (w *Writer) add() bool {
	if !w.written || w.held != w.head(w.active) || slices.ContainsFunc(w.stores, func(s store) bool { return !s.adds(w.active) }) {
		return false
	}
	w.counters.add(&w.rules)
	for _, s := range w.stores {
		if s.fill(w.active) != nil {
			return false // the other half can take all of it, or says what is wrong
		}
	}
	w.epoch++
	head := w.head(w.active)
	if w.heads[w.active].Put(uint32(0), head) != nil {
		return false
	}
	w.held = head
	for _, s := range w.stores {
		s.settle()
		if s.adds(1 - w.active) {
			_ = s.fill(1 - w.active) // as flip
		}
	}
	return true
}

// flip writes the half that does not hold and makes it hold.
func (w *Writer) flip() error {
	half := 1 - w.active
	if err := w.fill(half); err != nil {
		return err
	}
	w.counters.add(&w.rules)
	w.epoch++
	if err := w.heads[half].Put(uint32(0), w.head(half)); err != nil {
		return fmt.Errorf("write the head of half %d: %w", half, err)
	}
	// This is the change. The kernel returns when no program reads the former half any more.
	if err := w.verdicts.outer.Put(headAt, w.heads[half]); err != nil {
		return fmt.Errorf("make half %d hold: %w", half, err)
	}
	w.active, w.written, w.held = half, true, w.head(half)
	for _, s := range w.stores {
		s.settle()
	}
	// If that fails, the next change does it before it holds, and says what is wrong.
	_ = w.fill(1 - half)
	w.counters.prune(&w.rules)
	return nil
}

// fill brings a half, which does not hold, to what should hold.
func (w *Writer) fill(half int) error {
	// The kernel waits for all programs for each new map, and can do so for all maps at once.
	errs := make([]error, len(w.stores))
	var all sync.WaitGroup
	for i, s := range w.stores {
		all.Go(func() { errs[i] = s.fit(half) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, s := range w.stores {
		if err := s.fill(half); err != nil {
			return err
		}
	}
	return nil
}
