package plan

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"terway.dev/terway/internal/plan"
)

// cells is the width of the drawing of a range, in characters.
const cells = 64

// area is a part of a VPC's range; sign is empty if it is free.
type area struct {
	from, size uint64
	sign       byte // 'n', 'p', '.'
	what       string
}

// drawMap draws the VPC's ranges with their vSwitches and gaps, and the ranges outside the VPC.
func drawMap(w io.Writer, p *plan.Plan) error {
	fmt.Fprintln(w, "Address space (n nodes, p pods, . free):")
	for _, r := range append([]netip.Prefix{p.VPC.CIDR}, p.VPC.Secondary...) {
		fmt.Fprintf(w, "%-18s |%s|\n", r, bar(r, areas(p, r)))
	}
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for i, r := range append([]netip.Prefix{p.VPC.CIDR}, p.VPC.Secondary...) {
		name := "VPC " + p.Name
		if i > 0 {
			name = "VPC, secondary range"
		}
		fmt.Fprintf(tw, "%s\t%d\t%s\n", r, size(r), name)
		for _, a := range areas(p, r) {
			fmt.Fprintf(tw, "  %s\t%d\t%s\n", a.place(), a.size, a.what)
		}
	}
	fmt.Fprintf(tw, "%s\t%d\tServices, beside the VPC\n", p.ServiceCIDR, size(p.ServiceCIDR))
	if p.PodCIDR.IsValid() {
		fmt.Fprintf(tw, "%s\t%d\tpods, beside the VPC; a /%d for each node\n", p.PodCIDR, size(p.PodCIDR), p.NodeMask)
	}
	for _, a := range p.Avoid {
		fmt.Fprintf(tw, "%s\t-\tavoided\n", a)
	}
	return tw.Flush()
}

// areas returns the vSwitches and gaps of a range, in the order of addresses.
func areas(p *plan.Plan, r netip.Prefix) []area {
	var taken []area
	add := func(v plan.VSwitch, sign byte, what, zone string) {
		if r.Contains(v.CIDR.Addr()) {
			taken = append(taken, area{start(v.CIDR), size(v.CIDR), sign, fmt.Sprintf("%s of %s, %s", what, zone, v.Name)})
		}
	}
	for _, z := range p.Zones {
		add(z.Node, 'n', "nodes", z.ID)
		for _, v := range z.Pods {
			add(v, 'p', "pods", z.ID)
		}
	}
	slices.SortFunc(taken, func(a, b area) int { return int(int64(a.from) - int64(b.from)) })
	var all []area
	next, end := start(r), start(r)+size(r)
	for _, a := range taken {
		if a.from > next {
			all = append(all, area{next, a.from - next, '.', "free"})
		}
		all = append(all, a)
		next = a.from + a.size
	}
	if next < end {
		all = append(all, area{next, end - next, '.', "free"})
	}
	return all
}

// bar draws the range with characters that stand for equal numbers of addresses. Each vSwitch
// gets at least one.
func bar(r netip.Prefix, all []area) string {
	line := []byte(strings.Repeat(".", cells))
	for _, a := range all {
		if a.sign == '.' {
			continue
		}
		from := (a.from - start(r)) * cells / size(r)
		to := (a.from + a.size - start(r)) * cells / size(r)
		for i := from; i < max(to, from+1); i++ {
			line[i] = a.sign
		}
	}
	return string(line)
}

// place returns the area as a range, or as its first and last address if it is no range.
func (a area) place() string {
	first := addr(a.from)
	if bits := mask(a.size); a.size == 1<<(32-bits) && a.from%a.size == 0 {
		return netip.PrefixFrom(first, bits).String()
	}
	return fmt.Sprintf("%s – %s", first, addr(a.from+a.size-1))
}

func mask(size uint64) int {
	bits := 32
	for 1<<(32-bits) < size {
		bits--
	}
	return bits
}

func size(p netip.Prefix) uint64 { return 1 << (32 - p.Bits()) }

func start(p netip.Prefix) uint64 {
	b := p.Addr().As4()
	return uint64(binary.BigEndian.Uint32(b[:]))
}

func addr(n uint64) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(n))
	return netip.AddrFrom4(b)
}
