package catalog

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
)

// column is a column of the table. The max_pods columns are derived for readers of the table:
// they are written, and ignored when read.
type column struct {
	name    string
	derived bool
	text    func(Type) string
}

func columns() []column {
	return []column{
		{"instance_type", false, func(t Type) string { return t.Name }},
		{"family", false, func(t Type) string { return t.Family }},
		{"vcpu", false, func(t Type) string { return countText(t.VCPU) }},
		{"mem_gib", false, func(t Type) string { return numberText(t.MemoryGiB) }},
		{"eni_quantity", false, func(t Type) string { return countText(t.ENIs) }},
		{"ipv4_per_eni", false, func(t Type) string { return countText(t.IPv4PerENI) }},
		{"ipv6_per_eni", false, func(t Type) string { return countText(t.IPv6PerENI) }},
		{"eni_total_quantity", false, func(t Type) string { return countText(t.ENITotal) }},
		{"eni_trunk_supported", false, func(t Type) string {
			if !t.TrunkKnown {
				return ""
			}
			return strconv.FormatBool(t.Trunk)
		}},
		{"bw_base_gbps", false, func(t Type) string { return numberText(t.BandwidthBase) }},
		{"bw_burst_gbps", false, func(t Type) string { return numberText(t.BandwidthBurst) }},
		{"nic_queues", false, func(t Type) string { return countText(t.Queues) }},
		{"max_pods_shared_eni", true, func(t Type) string { return podsText(t.MaxPodsShared()) }},
		{"max_pods_exclusive_eni", true, func(t Type) string { return podsText(t.MaxPodsExclusive()) }},
		{"max_pods_trunk_members", true, func(t Type) string { return podsText(t.MaxPodsTrunk()) }},
		{"source", false, func(t Type) string { return t.Source }},
	}
}

func countText(c Count) string { return podsText(c.N, c.Known) }

func podsText(n int, ok bool) string {
	if !ok {
		return ""
	}
	return strconv.Itoa(n)
}

func numberText(f float64) string {
	if f == 0 {
		return ""
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}

// Write writes a table that Parse reads.
func (c *Catalog) Write(w io.Writer) error {
	cols := columns()
	out := csv.NewWriter(w)
	record := make([]string, len(cols))
	for i, col := range cols {
		record[i] = col.name
	}
	if err := out.Write(record); err != nil {
		return fmt.Errorf("write instance types: %w", err)
	}
	for _, t := range c.types {
		for i, col := range cols {
			record[i] = col.text(t)
		}
		if err := out.Write(record); err != nil {
			return fmt.Errorf("write instance type %s: %w", t.Name, err)
		}
	}
	out.Flush()
	if err := out.Error(); err != nil {
		return fmt.Errorf("write instance types: %w", err)
	}
	return nil
}

// Parse reads a table in the format of instance-types.csv.
func Parse(r io.Reader) (*Catalog, error) {
	rows := csv.NewReader(r)
	header, err := rows.Read()
	if err != nil {
		return nil, fmt.Errorf("read the header of the instance types: %w", err)
	}
	at := make(map[string]int, len(header))
	for i, name := range header {
		at[name] = i
	}
	for _, col := range columns() {
		if _, ok := at[col.name]; !ok && !col.derived {
			return nil, fmt.Errorf("instance types: column %q is missing", col.name)
		}
	}
	var types []Type
	for {
		record, err := rows.Read()
		if err == io.EOF {
			return New(types)
		}
		if err != nil {
			return nil, fmt.Errorf("read instance types: %w", err)
		}
		row := row{at: at, record: record}
		t := Type{
			Name: row.text("instance_type"), Family: row.text("family"),
			VCPU: row.count("vcpu"), MemoryGiB: row.number("mem_gib"),
			ENIs: row.count("eni_quantity"), IPv4PerENI: row.count("ipv4_per_eni"),
			IPv6PerENI: row.count("ipv6_per_eni"), ENITotal: row.count("eni_total_quantity"),
			BandwidthBase:  row.number("bw_base_gbps"),
			BandwidthBurst: row.number("bw_burst_gbps"), Queues: row.count("nic_queues"),
			Source: row.text("source"),
		}
		t.Trunk, t.TrunkKnown = row.flag("eni_trunk_supported")
		if row.err != nil {
			line, _ := rows.FieldPos(0)
			return nil, fmt.Errorf("instance types, line %d, %s: %w", line, t.Name, row.err)
		}
		if t.Name == "" {
			line, _ := rows.FieldPos(0)
			return nil, fmt.Errorf("instance types, line %d: no instance_type", line)
		}
		types = append(types, t)
	}
}

// Open reads the table from a file; an empty path means the built-in one.
func Open(path string) (*Catalog, error) {
	if path == "" {
		return Default(), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the table of instance types: %w", err)
	}
	defer f.Close()
	c, err := Parse(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// row reads the columns of a record and keeps the first error.
type row struct {
	at     map[string]int
	record []string
	err    error
}

func (r *row) text(column string) string { return strings.TrimSpace(r.record[r.at[column]]) }

func (r *row) fail(column, value, want string) {
	if r.err == nil {
		r.err = fmt.Errorf("column %s is %q, want %s", column, value, want)
	}
}

func (r *row) count(column string) Count {
	s := r.text(column)
	if s == "" {
		return Count{}
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		r.fail(column, s, "a whole number")
		return Count{}
	}
	return Of(n)
}

func (r *row) number(column string) float64 {
	s := r.text(column)
	if s == "" {
		return 0
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0) || math.IsInf(f, 0) {
		r.fail(column, s, "a number, not negative")
		return 0
	}
	return f
}

func (r *row) flag(column string) (set, known bool) {
	s := r.text(column)
	if s != "" && s != "true" && s != "false" {
		r.fail(column, s, "true, false or nothing")
	}
	return s == "true", s != ""
}
