package catalog

import (
	"fmt"
	"slices"
	"strings"
)

// Diff lists what an answer of the cloud changes in a table.
type Diff struct {
	// New types were not in the table.
	New []string `json:"new"`
	// Changed types have another number.
	Changed []Change `json:"changed"`
	// Confirmed is the number of types without a change.
	Confirmed int `json:"confirmed"`
	// Gone types are in the table and not in the answer. Their rows stay: a region does not
	// offer every type, and nodes of a type that is no longer sold keep running.
	Gone []string `json:"gone"`
}

// Change is a number for which the cloud and the table differ.
type Change struct {
	Type   string `json:"type"`
	Figure string `json:"figure"`
	// Old and New are formatted as in the table. Old is empty if it was unknown.
	Old string `json:"old"`
	New string `json:"new"`
}

// String formats the change: "ecs.g7a.16xlarge: eni_quantity 7, now 8".
func (c Change) String() string {
	old := c.Old
	if old == "" {
		old = "unknown"
	}
	return fmt.Sprintf("%s: %s %s, now %s", c.Type, c.Figure, old, c.New)
}

// Merge updates the table with the cloud's types. Numbers that the cloud does not give stay,
// and the source of such a row names both sources.
func (c *Catalog) Merge(live []Type, source string) (*Catalog, Diff, error) {
	var d Diff
	seen := map[string]bool{}
	merged := slices.Clone(c.types)
	for _, t := range live {
		if t.Name == "" || seen[t.Name] {
			return nil, d, fmt.Errorf("merge instance types: the answer has %q twice, or a type without a name", t.Name)
		}
		seen[t.Name] = true
		t.Source = source
		i, known := c.index[t.Name]
		if !known {
			d.New = append(d.New, t.Name)
			merged = append(merged, t)
			continue
		}
		was := c.types[i]
		t, kept := t.over(was)
		if kept {
			t.Source += keptMark + earlier(was.Source)
		}
		changes := compare(was, t)
		if len(changes) == 0 {
			d.Confirmed++
		}
		d.Changed = append(d.Changed, changes...)
		merged[i] = t
	}
	for _, t := range c.types {
		if !seen[t.Name] {
			d.Gone = append(d.Gone, t.Name)
		}
	}
	out, err := New(merged)
	return out, d, err
}

// keptMark separates the two sources of a row: the cloud, and the source of the rest.
const keptMark = "; the rest: "

// earlier returns the source of the rest, however often the row was refreshed.
func earlier(source string) string {
	if _, rest, ok := strings.Cut(source, keptMark); ok {
		return rest
	}
	return source
}

// over fills unknown numbers of t from was, and reports whether there were any.
func (t Type) over(was Type) (Type, bool) {
	kept := false
	for _, f := range []struct{ to, from *Count }{
		{&t.VCPU, &was.VCPU}, {&t.ENIs, &was.ENIs}, {&t.IPv4PerENI, &was.IPv4PerENI}, {&t.IPv6PerENI, &was.IPv6PerENI},
		{&t.ENITotal, &was.ENITotal}, {&t.Queues, &was.Queues},
	} {
		if !f.to.Known && f.from.Known {
			*f.to, kept = *f.from, true
		}
	}
	for _, f := range []struct{ to, from *float64 }{
		{&t.MemoryGiB, &was.MemoryGiB}, {&t.BandwidthBase, &was.BandwidthBase}, {&t.BandwidthBurst, &was.BandwidthBurst},
	} {
		if *f.to == 0 && *f.from != 0 {
			*f.to, kept = *f.from, true
		}
	}
	if !t.TrunkKnown && was.TrunkKnown {
		t.Trunk, t.TrunkKnown, kept = was.Trunk, true, true
	}
	if t.Family == "" {
		t.Family = was.Family
	}
	return t, kept
}

// compare lists the numbers in which two rows of a type differ.
func compare(was, is Type) []Change {
	var out []Change
	for _, col := range columns() {
		if col.derived || col.name == "source" {
			continue
		}
		if old, now := col.text(was), col.text(is); old != now {
			out = append(out, Change{Type: is.Name, Figure: col.name, Old: old, New: now})
		}
	}
	return out
}
