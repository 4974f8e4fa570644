package policymap

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/policy"
)

const counted = "tw_rules_1"

// ruleCount is struct rule_count of bpf/flows.h: one for each processor.
type ruleCount [2]uint64

// counters are the entries of the kernel's map of how often rules have decided: one for each rule that has a name.
type counters struct {
	m *ebpf.Map
	// has are the numbers with an entry, and what these rules do; 0: of an earlier process, they go with the first change.
	has map[uint32]policy.Action
	// former are those of an earlier process.
	former []uint32
	// without is how many rules have none: as the map is full, or as failed says. Then add may be tried again.
	without int
	failed  error
	// gone is what rules have counted that have no name any more.
	gone map[policy.Action]ruleCount
}

// open finds the entries of an earlier process. It returns a number that none of its rules has: what they count until the first change
// must not count for others.
func (c *counters) open(m *ebpf.Map) (next uint32, err error) {
	if m == nil {
		return 0, fmt.Errorf("map %s is not there", counted)
	}
	c.m, c.has, c.gone = m, map[uint32]policy.Action{}, map[policy.Action]ruleCount{}
	var number uint32
	var value []ruleCount
	rows := m.Iterate()
	for rows.Next(&number, &value) {
		c.has[number] = 0
		c.former = append(c.former, number)
		next = max(next, number+1)
	}
	if err := rows.Err(); err != nil {
		return 0, fmt.Errorf("read map %s: %w", counted, err)
	}
	if next >= 1<<31 {
		next = 0 // no process gives so many numbers, so nobody has these
	}
	return next, nil
}

// add makes entries for rules that have none: mostly for those that are fresh alone. Rules hold without counters too.
func (c *counters) add(rules *names[ruleName]) {
	numbers := rules.fresh
	if c.without > 0 {
		numbers = slices.Collect(maps.Keys(rules.by))
	}
	rules.fresh = nil
	c.without, c.failed = 0, nil
	full := false
	for _, number := range numbers {
		n := rules.by[number]
		if _, ok := c.has[number]; ok || n == nil || n.key.action == policy.Log {
			continue
		}
		var err error
		if !full {
			err = c.m.Put(number, make([]ruleCount, ebpf.MustPossibleCPU()))
			full = errors.Is(err, unix.E2BIG)
		}
		switch {
		case full:
			c.without++
		case err != nil: // the kernel may lack memory for all processors for a moment
			c.without++
			c.failed = fmt.Errorf("make an entry of map %s: %w", counted, err)
		default:
			c.has[number] = n.key.action
		}
	}
}

// prune deletes the entries of rules that have no name any more. What cannot be deleted is tried again with the next change.
func (c *counters) prune(rules *names[ruleName]) {
	numbers := append(rules.left, c.former...)
	rules.left, c.former = nil, nil
	for _, number := range numbers {
		action, has := c.has[number]
		if !has || rules.by[number] != nil {
			continue
		}
		sum, err := c.read(number)
		if err != nil || c.m.Delete(number) != nil {
			rules.left = append(rules.left, number)
			continue
		}
		delete(c.has, number)
		if action != 0 {
			total := c.gone[action]
			for d := range total {
				total[d] += sum[d]
			}
			c.gone[action] = total
		}
	}
}

func (c *counters) read(number uint32) (sum ruleCount, err error) {
	var perCPU []ruleCount
	switch err := c.m.Lookup(number, &perCPU); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return sum, nil
	case err != nil:
		return sum, fmt.Errorf("read rule %d of map %s: %w", number, counted, err)
	}
	for _, n := range perCPU {
		for d := range sum {
			sum[d] += n[d]
		}
	}
	return sum, nil
}

// A Count is how often a rule has decided about new connections.
type Count struct {
	// Decision has no Logs.
	Decision policy.Decision
	// Decided is by policy.Direction. A rule of a policy has one, the end of a tier and the absence of policies have both.
	Decided [2]uint64
}

// Counts returns how often rules have decided since they are there, or since this process began: those of rules that are there or have gone
// not long ago, by policy, and sums by action of all others. uncounted rules have no counter: there are too many
// (16,384), or the next Repair says why.
func (w *Writer) Counts() (list []Count, gone map[policy.Action][2]uint64, uncounted int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for number := range w.counters.has {
		n := w.rules.by[number]
		if n == nil {
			continue // of an earlier process
		}
		sum, err := w.counters.read(number)
		if err != nil {
			return nil, nil, 0, err
		}
		if n.uses == 0 && sum == (ruleCount{}) {
			continue
		}
		list = append(list, Count{policy.Decision{Action: n.key.action, Reason: n.key.Reason, Tier: n.key.Tier, Rule: n.key.Rule}, sum})
	}
	slices.SortFunc(list, func(a, b Count) int {
		x, y := a.Decision, b.Decision
		return cmp.Or(
			cmp.Compare(x.Tier, y.Tier), cmp.Compare(x.Rule.Policy.String(), y.Rule.Policy.String()), cmp.Compare(x.Rule.Direction, y.Rule.Direction),
			cmp.Compare(x.Rule.Number, y.Rule.Number), cmp.Compare(x.Reason, y.Reason), cmp.Compare(x.Action, y.Action),
		)
	})
	gone = map[policy.Action][2]uint64{}
	for action, sum := range w.counters.gone {
		gone[action] = sum
	}
	return list, gone, w.counters.without, nil
}
