package bandwidth

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"k8s.io/apimachinery/pkg/api/resource"
)

const right, rightBytes = `such as "10M" (10 Mbit/s)`, `such as "1M" (1 MiB/s, which are 8.39 Mbit/s)`

func TestOf(t *testing.T) {
	for _, c := range []struct {
		annotations map[string]string
		want        Limits
		err         []string
	}{
		{annotations: nil},
		{annotations: map[string]string{"kubernetes.io/bandwidth": "x", "kubernetes.io/ingress-burst": "1"}},

		// Bits per second, as Kubernetes writes quantities.
		{annotations: map[string]string{Ingress: "10M"}, want: Limits{Ingress: 1e7}},
		{annotations: map[string]string{Egress: "10M"}, want: Limits{Egress: 1e7}},
		{annotations: map[string]string{Ingress: "1k", Egress: "1P"}, want: Limits{1e3, 1e15}},
		{annotations: map[string]string{Ingress: "1Ki", Egress: "10Mi"}, want: Limits{1024, 10 << 20}},
		{annotations: map[string]string{Ingress: "1000", Egress: "1e9"}, want: Limits{1e3, 1e9}},
		{annotations: map[string]string{Ingress: "1.5G", Egress: "+2.5E6"}, want: Limits{15e8, 25e5}},
		{annotations: map[string]string{Ingress: "1000000m", Egress: "1000.1"}, want: Limits{1e3, 1001}},
		{annotations: map[string]string{Ingress: "999.5"}, want: Limits{Ingress: 1e3}},
		{annotations: map[string]string{Ingress: "10m"}, err: []string{Ingress + `: "10m"`, "thousandth", right}},
		{annotations: map[string]string{Ingress: ""}, err: []string{Ingress + `: ""`, "no quantity", right}},
		{annotations: map[string]string{Ingress: " 10M"}, err: []string{`" 10M"`, right}},
		{annotations: map[string]string{Ingress: "10 M"}, err: []string{`"10 M"`, right}},
		{annotations: map[string]string{Ingress: "10MB"}, err: []string{`"10MB"`, right}},
		{annotations: map[string]string{Ingress: "10Mbit"}, err: []string{`"10Mbit"`, right}},
		{annotations: map[string]string{Ingress: "10K"}, err: []string{`"10K"`, right}},
		{annotations: map[string]string{Ingress: "999"}, err: []string{`"999"`, "less than 1 kbit/s", right}},
		{annotations: map[string]string{Ingress: "0"}, err: []string{`"0"`, "less than 1 kbit/s"}},
		{annotations: map[string]string{Ingress: "-10M"}, err: []string{`"-10M"`, "less than 1 kbit/s"}},
		{annotations: map[string]string{Ingress: "1.0001P"}, err: []string{`"1.0001P"`, "more than 1 Pbit/s"}},
		{annotations: map[string]string{Ingress: "100E"}, err: []string{`"100E"`, "more than 1 Pbit/s"}},
		{annotations: map[string]string{Ingress: "x", Egress: "y"}, err: []string{Ingress + `: "x"`, Egress + `: "y"`}},

		// Bytes per second, as other versions of Terway read them.
		{annotations: map[string]string{IngressBytes: "1m"}, want: Limits{Ingress: 8 << 20}},
		{annotations: map[string]string{EgressBytes: "1M"}, want: Limits{Egress: 8 << 20}},
		{annotations: map[string]string{IngressBytes: "1mb", EgressBytes: "1MiB"}, want: Limits{8 << 20, 8 << 20}},
		{annotations: map[string]string{IngressBytes: "2k", EgressBytes: "2KIB"}, want: Limits{16 << 10, 16 << 10}},
		{annotations: map[string]string{IngressBytes: "1.5G", EgressBytes: ".5gb"}, want: Limits{12 << 30, 4 << 30}},
		{annotations: map[string]string{IngressBytes: "1T", EgressBytes: "2tib"}, want: Limits{8 << 40, 16 << 40}},
		{annotations: map[string]string{IngressBytes: " 10M\n", EgressBytes: "+10M"}, want: Limits{80 << 20, 80 << 20}},
		{annotations: map[string]string{IngressBytes: "1000B", EgressBytes: "1000.9b"}, want: Limits{8000, 8000}},
		{annotations: map[string]string{IngressBytes: "1"}, err: []string{IngressBytes + `: "1"`, "no unit", rightBytes}},
		{annotations: map[string]string{IngressBytes: ""}, err: []string{IngressBytes + `: ""`, "no unit", rightBytes}},
		{annotations: map[string]string{IngressBytes: " "}, err: []string{IngressBytes + `: " "`, "no unit"}},
		{annotations: map[string]string{IngressBytes: "1 M"}, err: []string{`"1 M"`, "no number", rightBytes}},
		{annotations: map[string]string{IngressBytes: "M"}, err: []string{`"M"`, "no number"}},
		{annotations: map[string]string{IngressBytes: "1e3M"}, err: []string{`"1e3M"`, "its unit", rightBytes}},
		{annotations: map[string]string{IngressBytes: "0x10M"}, err: []string{`"0x10M"`, "its unit"}},
		{annotations: map[string]string{IngressBytes: "1Mbit"}, err: []string{`"1Mbit"`, "its unit"}},
		{annotations: map[string]string{IngressBytes: "1P"}, err: []string{`"1P"`, "its unit"}},
		{annotations: map[string]string{IngressBytes: "NaN"}, err: []string{`"NaN"`, "no number"}},
		{annotations: map[string]string{IngressBytes: "0M"}, err: []string{`"0M"`, "less than 1 kbit/s"}},
		{annotations: map[string]string{IngressBytes: "-1M"}, err: []string{`"-1M"`, "less than 1 kbit/s"}},
		{annotations: map[string]string{IngressBytes: "124B"}, err: []string{`"124B"`, "less than 1 kbit/s"}},
		{annotations: map[string]string{IngressBytes: "125B"}, want: Limits{Ingress: 1e3}},
		{annotations: map[string]string{IngressBytes: "114T"}, err: []string{`"114T"`, "more than 1 Pbit/s"}},
		{annotations: map[string]string{IngressBytes: "1" + strings.Repeat("0", 400) + "T"}, err: []string{"more than 1 Pbit/s"}},

		// Kubernetes' counts, for each direction by itself; the others must be right nevertheless.
		{annotations: map[string]string{Ingress: "1M", IngressBytes: "1M", EgressBytes: "1M"}, want: Limits{1e6, 8 << 20}},
		{annotations: map[string]string{Egress: "1M", EgressBytes: "2M"}, want: Limits{Egress: 1e6}},
		{annotations: map[string]string{Ingress: "1M", IngressBytes: "1"}, err: []string{IngressBytes}},
		{annotations: map[string]string{Ingress: "", IngressBytes: "1M"}, err: []string{Ingress}},
	} {
		got, err := Of(c.annotations)
		if got != c.want || (err != nil) != (c.err != nil) {
			t.Errorf("%q: %+v, %v; want %+v and an error with %q", c.annotations, got, err, c.want, c.err)
			continue
		}
		for _, part := range c.err {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q: error %q, want %q in it", c.annotations, err, part)
			}
		}
	}
}

func TestSame(t *testing.T) {
	a := map[string]string{Ingress: "1M", "other": "1"}
	for _, c := range []struct {
		b    map[string]string
		want bool
	}{
		{map[string]string{Ingress: "1M"}, true},
		{map[string]string{Ingress: "1000k"}, false},
		{map[string]string{Ingress: "1M", Egress: ""}, false},
		{nil, false},
	} {
		if got := Same(a, c.b); got != c.want {
			t.Errorf("%q and %q: %t, want %t", a, c.b, got, c.want)
		}
		if got := Same(c.b, a); got != c.want {
			t.Errorf("%q and %q: %t, want %t", c.b, a, got, c.want)
		}
	}
}

func TestRate(t *testing.T) {
	for bits, want := range map[uint64]string{
		0: "0 bit/s", 999: "999 bit/s", 1e3: "1 kbit/s", 1e7: "10 Mbit/s", 8 << 20: "8.39 Mbit/s", 999_600: "1 Mbit/s",
		1e9: "1 Gbit/s", 123_456_789_000: "123 Gbit/s", 1e15: "1 Pbit/s",
	} {
		if got := Rate(bits); got != want {
			t.Errorf("%d: %q, want %q", bits, got, want)
		}
	}
	if got, want := (Limits{Egress: 1e7}).String(), "ingress unlimited, egress 10 Mbit/s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// For any two values of a direction: there is a limit within the bounds, or an error that names the
// annotation and its value; what Kubernetes' annotation says counts; and each value means what those
// who read it elsewhere take it for.
func FuzzOf(f *testing.F) {
	for _, v := range []string{"", "1", "10M", "10m", "1Gi", "1e3M", "1.5g", " 2MiB ", "1_0M", "-1k", "1P", "0x1p4B", "1Mıb", "\u212a", "NaN", "inf", "9223372036854775807", "1e99", "1e-99M"} {
		f.Add(v, v, true, true)
		f.Add(v, "1m", true, false)
		f.Add("1M", v, false, true)
	}
	f.Fuzz(func(t *testing.T, quantity, bytes string, hasQuantity, hasBytes bool) {
		annotations := map[string]string{}
		if hasQuantity {
			annotations[Ingress] = quantity
		}
		if hasBytes {
			annotations[IngressBytes] = bytes
		}
		l, err := Of(annotations)
		if l.Egress != 0 || err != nil && l.Ingress != 0 {
			t.Fatalf("%q: %+v, %v", annotations, l, err)
		}
		if l.Ingress != 0 && (l.Ingress < Lowest || l.Ingress > Highest) {
			t.Errorf("%q: %+v is outside the bounds", annotations, l)
		}
		if (l.Ingress == 0 && err == nil) != (len(annotations) == 0) {
			t.Errorf("%q: %+v, %v", annotations, l, err)
		}
		a, okQuantity := readQuantity(quantity)
		b, okBytes := readBytes(bytes)
		switch {
		case hasQuantity && !okQuantity:
			if err == nil || !strings.Contains(err.Error(), Ingress+": "+strconv.Quote(quantity)) {
				t.Errorf("%q: %v", annotations, err)
			}
		case hasBytes && !okBytes:
			if err == nil || !strings.Contains(err.Error(), IngressBytes+": "+strconv.Quote(bytes)) {
				t.Errorf("%q: %v", annotations, err)
			}
		case hasQuantity && l.Ingress != a, !hasQuantity && hasBytes && l.Ingress != b:
			t.Errorf("%q: %+v, want %d or %d", annotations, l, a, b)
		}
	})
}

// readQuantity reads a value as the kubelet and container runtimes do, which round up.
func readQuantity(s string) (bits uint64, ok bool) {
	q, err := resource.ParseQuantity(s)
	if err != nil || q.Sign() < 0 || q.Cmp(resource.MustParse("1P")) > 0 || q.Value() < 1000 {
		return 0, false
	}
	return uint64(q.Value()), true
}

// readBytes reads a value as other versions of Terway do, in bits; those end at a value without a
// letter.
func readBytes(s string) (bits uint64, ok bool) {
	s = strings.ToUpper(strings.TrimSpace(s))
	at := strings.IndexFunc(s, unicode.IsLetter)
	if at < 0 {
		return 0, false
	}
	n, err := strconv.ParseFloat(s[:at], 64)
	if err != nil || n <= 0 {
		return 0, false
	}
	power, unit := 0, s[at:]
	if rest := strings.TrimLeft(unit, "KMGT"); len(unit)-len(rest) == 1 && (rest == "" || rest == "B" || rest == "IB") {
		power = 1 + strings.Index("KMGT", unit[:1])
	} else if unit != "B" {
		return 0, false
	}
	n *= math.Pow(1024, float64(power))
	if bits := float64(uint64(min(n, 1e18))) * 8; bits >= Lowest && bits <= Highest {
		return uint64(bits), true
	}
	return 0, false
}
