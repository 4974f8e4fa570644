package entries

import (
	"net/netip"
	"slices"
)

// Step is the next operation: entries of one table, to be created or to be deleted.
type Step struct {
	Table  string
	Delete []Entry
	Create []Wanted
}

// Next returns the next operation, with at most batch entries; not ok when there is nothing to do,
// or while an entry is being created or deleted: a VPC runs one operation at a time. Conflicting
// entries are deleted first, which also makes room in a full table. skip names entries that must
// not be created, or deleted, now.
func (p Plan) Next(batch int, skip func(table string, destination netip.Prefix, create bool) bool) (Step, bool) {
	batch = max(1, min(batch, MaxBatch))
	if len(p.Moving()) > 0 {
		return Step{}, false
	}
	for _, ch := range p.Changes {
		step := Step{Table: ch.Table}
		for _, e := range ch.Delete {
			if len(step.Delete) < batch && !skip(ch.Table, e.Destination, false) {
				step.Delete = append(step.Delete, e)
			}
		}
		if len(step.Delete) > 0 {
			return step, true
		}
	}
	for _, ch := range p.Changes {
		step := Step{Table: ch.Table}
		for _, w := range ch.Create {
			occupied := slices.ContainsFunc(ch.Delete, func(e Entry) bool { return e.Destination == w.Destination })
			if len(step.Create) < batch && !occupied && !skip(ch.Table, w.Destination, true) {
				step.Create = append(step.Create, w)
			}
		}
		if len(step.Create) > 0 {
			return step, true
		}
	}
	return Step{}, false
}

// Moving returns the entries that the VPC is still creating or deleting.
func (p Plan) Moving() []Entry {
	var all []Entry
	for _, ch := range p.Changes {
		all = append(all, ch.Moving...)
	}
	return all
}

// Level is how close a table is to its quota.
type Level int

const (
	Ample Level = iota
	Near        // nearPercent of the quota is used, or will be
	Over        // not all entries fit
)

// nearPercent of a quota is reported, before the quota is reached.
const nearPercent = 80

// Level returns how close the table is to the quota.
func (ch Change) Level(quota int) Level {
	n := max(ch.Custom, ch.Planned)
	switch {
	case ch.Planned > quota:
		return Over
	case n*100 >= quota*nearPercent:
		return Near
	}
	return Ample
}
