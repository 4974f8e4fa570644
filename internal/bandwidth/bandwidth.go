// Package bandwidth says how a pod's annotations limit its bandwidth. The admission webhook, the
// controller and the nodes' agents all use it, so that they cannot disagree.
//
// It has no state. It must never guess: a wrong value is an error, and nobody may take a pod with one
// for a pod without a limit.
package bandwidth

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Annotations of a pod. The first two are Kubernetes' own: quantities, in bits per second. The last
// two are those of other versions of Terway: bytes per second, with a unit whose letters stand for
// powers of 1024.
const (
	Ingress = "kubernetes.io/ingress-bandwidth"
	Egress  = "kubernetes.io/egress-bandwidth"

	IngressBytes = "k8s.aliyun.com/ingress-bandwidth"
	EgressBytes  = "k8s.aliyun.com/egress-bandwidth"
)

// Annotations are all of them; a pod without one has no limit.
var Annotations = []string{Ingress, Egress, IngressBytes, EgressBytes}

// Lowest and Highest are the bounds of a limit, in bits per second. They are Kubernetes' own
// (k8s.io/kubernetes/pkg/util/bandwidth), which container runtimes check.
const (
	Lowest  = 1e3
	Highest = 1e15
)

// Limits of a pod in bits per second, frames counted with their Ethernet headers; 0 is no limit.
type Limits struct {
	// Ingress is for what the pod receives, Egress for what it sends.
	Ingress uint64 `json:"ingress,omitempty"`
	Egress  uint64 `json:"egress,omitempty"`
}

func (l Limits) String() string {
	text := func(bits uint64) string {
		if bits == 0 {
			return "unlimited"
		}
		return Rate(bits)
	}
	return "ingress " + text(l.Ingress) + ", egress " + text(l.Egress)
}

// Of returns the limits in a pod's annotations. Kubernetes' annotation of a direction has precedence;
// the other one of the direction must be valid too. The error names each wrong annotation, its value,
// and a right one.
func Of(annotations map[string]string) (l Limits, err error) {
	var errs []error
	parse := func(key string, parse func(string) (uint64, error), want string) uint64 {
		value, set := annotations[key]
		if !set {
			return 0
		}
		bits, err := parse(value)
		if err != nil {
			errs = append(errs, fmt.Errorf("annotation %s: %q: %w: want %s", key, value, err, want))
		}
		return bits
	}
	for _, d := range []struct {
		to               *uint64
		quantity, letter string
	}{{&l.Ingress, Ingress, IngressBytes}, {&l.Egress, Egress, EgressBytes}} {
		quantity := parse(d.quantity, ofQuantity, `a Kubernetes quantity of bits per second from "1k" to "1P", such as "10M" (10 Mbit/s)`)
		letter := parse(d.letter, ofBytes, `a number and a letter, in bytes per second, without a space between them, such as "1M" (1 MiB/s, which are 8.39 Mbit/s)`)
		if *d.to = quantity; quantity == 0 {
			*d.to = letter
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Limits{}, err
	}
	return l, nil
}

// Same reports whether two pods' annotations say the same, right or wrong.
func Same(a, b map[string]string) bool {
	for _, key := range Annotations {
		x, inA := a[key]
		y, inB := b[key]
		if x != y || inA != inB {
			return false
		}
	}
	return true
}

// ofQuantity parses a value in bits per second, as container runtimes do: a fraction is rounded up.
func ofQuantity(s string) (uint64, error) {
	q, err := resource.ParseQuantity(s)
	if err != nil {
		return 0, errors.New("it is no quantity")
	}
	switch {
	case q.Cmp(*resource.NewQuantity(Highest, resource.DecimalSI)) > 0: // Value may not be able to say it
		return 0, errors.New("it is more than 1 Pbit/s")
	case q.Sign() <= 0 || q.Value() < Lowest:
		if q.Sign() > 0 && strings.HasSuffix(s, "m") {
			return 0, errors.New("m stands for a thousandth, M for a million")
		}
		return 0, errors.New("it is less than 1 kbit/s")
	}
	return uint64(q.Value()), nil
}

// units are those of ofBytes, in bytes.
var units = map[string]float64{
	"B": 1,
	"K": 1 << 10, "KB": 1 << 10, "KIB": 1 << 10,
	"M": 1 << 20, "MB": 1 << 20, "MIB": 1 << 20,
	"G": 1 << 30, "GB": 1 << 30, "GIB": 1 << 30,
	"T": 1 << 40, "TB": 1 << 40, "TIB": 1 << 40,
}

// ofBytes parses a value in bytes per second. What other versions of Terway accept has the meaning
// that they give it: the unit begins at the first letter, in either case, so there are no exponents,
// and a fraction of a byte is dropped.
func ofBytes(s string) (uint64, error) {
	s = strings.ToUpper(strings.TrimSpace(s))
	letter := strings.IndexFunc(s, unicode.IsLetter)
	if letter < 0 {
		return 0, errors.New("it has no unit")
	}
	number, err := strconv.ParseFloat(s[:letter], 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, errors.New("what stands before the first letter is no number")
	}
	unit, known := units[s[letter:]]
	if !known {
		return 0, errors.New("its unit is not B, nor one of K, M, G and T, alone or with B or iB")
	}
	bits := math.Floor(number*unit) * 8
	switch {
	case !(bits >= Lowest):
		return 0, errors.New("it is less than 1 kbit/s")
	case bits > Highest:
		return 0, errors.New("it is more than 1 Pbit/s")
	}
	return uint64(bits), nil
}

// Rate returns a rate for people, such as "8.39 Mbit/s".
func Rate(bits uint64) string {
	value, unit := float64(bits), ""
	for _, next := range []string{"k", "M", "G", "T", "P"} {
		if value < 999.5 {
			break
		}
		value, unit = value/1000, next
	}
	return strconv.FormatFloat(value, 'g', 3, 64) + " " + unit + "bit/s"
}
