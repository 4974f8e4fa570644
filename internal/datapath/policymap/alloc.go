package policymap

import "slices"

// blocks gives out runs of rows. Row 0 of each map means that there is none, so the first is 1.
type blocks struct {
	end  uint32  // all rows in use are before it; 0: none were given out
	free []block // before end, in order, never next to each other
}

type block struct{ first, count uint32 }

// take finds a run; the first of no rows is 0.
func (b *blocks) take(count uint32) uint32 {
	if count == 0 {
		return 0
	}
	for i := range b.free {
		f := &b.free[i]
		if f.count < count {
			continue
		}
		first := f.first
		if f.first, f.count = f.first+count, f.count-count; f.count == 0 {
			b.free = slices.Delete(b.free, i, i+1)
		}
		return first
	}
	first := b.rows()
	b.end = first + count
	return first
}

// rows is how many rows the map needs.
func (b *blocks) rows() uint32 { return max(b.end, 1) }

// claim takes one row, which is free.
func (b *blocks) claim(row uint32) {
	if end := b.rows(); row >= end {
		if row > end {
			b.free = append(b.free, block{end, row - end})
		}
		b.end = row + 1
		return
	}
	for i, f := range b.free {
		if row < f.first || row >= f.first+f.count {
			continue
		}
		var rest []block
		if row > f.first {
			rest = append(rest, block{f.first, row - f.first})
		}
		if end := f.first + f.count; row+1 < end {
			rest = append(rest, block{row + 1, end - row - 1})
		}
		b.free = slices.Replace(b.free, i, i+1, rest...)
		return
	}
}

// give takes a run back.
func (b *blocks) give(first, count uint32) {
	if count == 0 {
		return
	}
	i, _ := slices.BinarySearchFunc(b.free, first, func(f block, first uint32) int { return int(f.first) - int(first) })
	b.free = slices.Insert(b.free, i, block{first, count})
	join := func(i int) {
		if i >= 0 && i+1 < len(b.free) && b.free[i].first+b.free[i].count == b.free[i+1].first {
			b.free[i].count += b.free[i+1].count
			b.free = slices.Delete(b.free, i+1, i+2)
		}
	}
	join(i)
	join(i - 1)
	if last := len(b.free) - 1; b.free[last].first+b.free[last].count == b.end {
		b.end = b.free[last].first
		b.free = b.free[:last]
	}
}

// numbers gives each name a number, from 1, which it keeps as long as it is used.
type numbers[K comparable] struct {
	of map[K]*numbered
	blocks
	round int
}

type numbered struct {
	number uint32
	round  int
	born   int // the round in which it got the number
}

// assign gives a name that has no number this one, which is taken.
func (n *numbers[K]) assign(k K, number uint32) {
	if n.of == nil {
		n.of = map[K]*numbered{}
	}
	n.of[k] = &numbered{number: number, born: n.round}
}

// begin begins a round. Names that are not asked for in it lose their numbers at its end.
func (n *numbers[K]) begin() { n.round++ }

func (n *numbers[K]) number(k K) uint32 {
	if n.of[k] == nil {
		n.assign(k, n.take(1))
	}
	e := n.of[k]
	e.round = n.round
	return e.number
}

// isNew says whether a name has got its number in this round.
func (n *numbers[K]) isNew(k K) bool {
	e := n.of[k]
	return e != nil && e.born == n.round
}

// finish ends the round: numbers that it frees are none of this round's.
func (n *numbers[K]) finish(gone func(number uint32)) {
	for k, e := range n.of {
		if e.round != n.round {
			gone(e.number)
			n.give(e.number, 1)
			delete(n.of, k)
		}
	}
}
