package policymap

import (
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

// remembered is how many names are known that no verdict has any more. What was decided a moment ago can be named.
const remembered = 4096

// ruleName is what a rule's number stands for.
type ruleName struct {
	compile.RuleRow
	action policy.Action
}

// names have numbers that are never another's.
type names[K comparable] struct {
	next uint32
	of   map[K]*name[K]
	by   map[uint32]*name[K]
	gone []*name[K] // in the order in which they went
	// fresh and left, if they are noted, are the numbers that came and that nothing is known of any more.
	noted       bool
	fresh, left []uint32
}

type name[K comparable] struct {
	key    K
	number uint32
	uses   int
}

// newNames gives the first name number 0, and all others numbers from next on.
func newNames[K comparable](first K, next uint32, noted bool) names[K] {
	n := names[K]{noted: noted, of: map[K]*name[K]{}, by: map[uint32]*name[K]{}}
	n.take(first)
	n.next = max(1, next)
	return n
}

// take uses a name once more.
func (n *names[K]) take(k K) uint32 {
	e := n.of[k]
	if e == nil {
		e = &name[K]{key: k, number: n.next}
		n.of[k], n.by[e.number] = e, e
		n.next++
		if n.noted {
			n.fresh = append(n.fresh, e.number)
		}
	}
	e.uses++
	return e.number
}

// release uses it once less.
func (n *names[K]) release(number uint32) {
	e := n.by[number]
	if e.uses--; e.uses > 0 {
		return
	}
	n.gone = append(n.gone, e)
	if len(n.gone) <= remembered {
		return
	}
	oldest := n.gone[0]
	n.gone = n.gone[1:]
	if oldest.uses == 0 && n.by[oldest.number] == oldest {
		delete(n.of, oldest.key)
		delete(n.by, oldest.number)
		if n.noted {
			n.left = append(n.left, oldest.number)
		}
	}
}

func (n *names[K]) name(number uint32) (k K, ok bool) {
	if e := n.by[number]; e != nil {
		return e.key, true
	}
	return k, false
}
