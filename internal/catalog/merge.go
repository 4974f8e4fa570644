package catalog

import (
	"fmt"
	"slices"
	"strings"
)

// Diff is what an answer of the cloud changes in a table.
type Diff struct {
	// New types were not in the table.
	New []string `json:"new"`
	// Changed types have another figure now.
	Changed []Change `json:"changed"`
	// Confirmed types have the figures that they had.
	Confirmed int `json:"confirmed"`
	// Gone types are in the table and not in the answer. Their rows stay: a region
	// does not offer every type, and nodes of a type that is no longer sold run on.
	Gone []string `json:"gone"`
}

// Change is a figure of a type that the cloud gives otherwise than the table.
type Change struct {
	Type   string `json:"type"`
	Figure string `json:"figure"`
	// Old and New are as in the table; Old is empty when it was unknown.
	Old string `json:"old"`
	New string `json:"new"`
}

// String is for people: "ecs.g7a.16xlarge: eni_quantity 7, now 8".
func (c Change) String() string {
	old := c.Old
	if old == "" {
		old = "unknown"
	}
	return fmt.Sprintf("%s: %s %s, now %s", c.Type, c.Figure, old, c.New)
}

// Merge puts what the cloud says of its types into the table. A figure that the
// cloud leaves out stays what it was, so a row's source names both.
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

// keptMark joins a row's sources: what the cloud said, and what the rest is from.
const keptMark = "; the rest: "

// earlier is the source of what was kept, however often the row was refreshed.
func earlier(source string) string {
	if _, rest, ok := strings.Cut(source, keptMark); ok {
		return rest
	}
	return source
}

// over fills what t does not know with what was known, and says whether it did.
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

// compare lists the figures in which two rows of a type differ.
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
