package plan

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// decode fills a struct from what YAML or JSON gave and reports everything that has
// no place in it. The decoders of libraries stop at the first mistake.
func decode(raw map[string]any, into any) Problems {
	var d decoder
	d.object("", raw, reflect.ValueOf(into).Elem())
	return d.problems
}

type decoder struct{ problems Problems }

func (d *decoder) object(at string, raw map[string]any, to reflect.Value) {
	fields := map[string]reflect.Value{}
	for i := range to.NumField() {
		name, _, _ := strings.Cut(to.Type().Field(i).Tag.Get("json"), ",")
		fields[name] = to.Field(i)
	}
	for _, key := range slices.Sorted(maps.Keys(raw)) {
		name := key
		if at != "" {
			name = at + "." + key
		}
		field, ok := fields[key]
		if !ok {
			known := slices.Sorted(maps.Keys(fields))
			if near := nearest(key, known); near != "" {
				d.problems.bad(name, "is not a key", "%s", near)
			} else {
				d.problems.bad(name, "is not a key", "one of %s", strings.Join(known, ", "))
			}
			continue
		}
		d.value(name, raw[key], field)
	}
}

func (d *decoder) value(at string, raw any, to reflect.Value) {
	if raw == nil { // "key:" with nothing behind it
		return
	}
	if prefix, ok := to.Addr().Interface().(*netip.Prefix); ok {
		d.prefix(at, raw, prefix)
		return
	}
	switch to.Kind() {
	case reflect.Struct:
		if m, ok := raw.(map[string]any); ok {
			d.object(at, m, to)
			return
		}
		d.problems.bad(at, describe(raw), "keys with values below it")
	case reflect.Slice:
		list, ok := raw.([]any)
		if !ok {
			d.problems.bad(at, describe(raw), "a list")
			return
		}
		to.Set(reflect.MakeSlice(to.Type(), len(list), len(list)))
		for i, v := range list {
			d.value(fmt.Sprintf("%s[%d]", at, i), v, to.Index(i))
		}
	case reflect.String:
		if s, ok := raw.(string); ok {
			to.SetString(s)
			return
		}
		d.problems.bad(at, describe(raw), "text (in quotes when it looks like a number)")
	case reflect.Int:
		if f, ok := raw.(float64); ok && f == math.Trunc(f) && math.Abs(f) <= math.MaxInt32 {
			to.SetInt(int64(f))
			return
		}
		d.problems.bad(at, describe(raw), "a whole number")
	case reflect.Bool:
		if b, ok := raw.(bool); ok {
			to.SetBool(b)
			return
		}
		d.problems.bad(at, describe(raw), "true or false")
	default:
		panic(fmt.Sprintf("plan: the type of %s has no place in a plan file: %s", at, to.Type()))
	}
}

func (d *decoder) prefix(at string, raw any, to *netip.Prefix) {
	s, ok := raw.(string)
	if ok && s == "" {
		return
	}
	if ok {
		if p, err := netip.ParsePrefix(s); err == nil {
			*to = p
			return
		}
	}
	d.problems.bad(at, describe(raw), "a range such as 192.168.0.0/16")
}

// describe is a value in a message, not longer than a line.
func describe(v any) string {
	s := fmt.Sprint(v)
	switch v := v.(type) {
	case nil:
		return "nothing"
	case map[string]any:
		return "keys"
	case []any:
		return "a list"
	case string:
		s = fmt.Sprintf("%q", v)
	}
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}

// nearest is the known word that is the fewest letters away; "" when none is near.
func nearest(word string, known []string) string {
	best, least := "", max(2, len(word)/2)
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is how many letters must be changed, added or removed to turn a into b.
func distance(a, b string) int {
	if len(a) > 64 { // no key is so long
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		left := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := left
			if a[i] != b[j] {
				cost++
			}
			left = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
