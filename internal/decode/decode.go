// Package decode parses YAML or JSON, fills a struct from it, and reports everything that does
// not fit: unknown keys, values of the wrong type. The decoders of libraries stop at the first
// mistake, and name Go types.
//
// It checks only form: others check whether a value is valid.
package decode

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// Mistake is a field that does not fit, with its value and what would be right.
type Mistake struct{ Field, Value, Want string }

func (m Mistake) String() string { return m.Field + " " + m.Value + ": want " + m.Want }

// Object fills the struct that into points to, by its json tags. Fields with mistakes are not
// changed. A key without a value counts as missing.
func Object(raw map[string]any, into any) []Mistake {
	var d decoder
	d.object("", raw, reflect.ValueOf(into).Elem())
	return d.mistakes
}

type decoder struct{ mistakes []Mistake }

func (d *decoder) bad(field, value, want string) {
	d.mistakes = append(d.mistakes, Mistake{field, value, want})
}

func (d *decoder) object(at string, raw map[string]any, to reflect.Value) {
	fields := map[string]reflect.Value{}
	for i := range to.NumField() {
		if name, _, _ := strings.Cut(to.Type().Field(i).Tag.Get("json"), ","); name != "" {
			fields[name] = to.Field(i)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(raw)) {
		name := key
		if at != "" {
			name = at + "." + key
		}
		field, ok := fields[key]
		if !ok {
			known := slices.Sorted(maps.Keys(fields))
			if near := Nearest(key, known); near != "" {
				d.bad(name, "is not a key", near)
			} else {
				d.bad(name, "is not a key", "one of "+strings.Join(known, ", "))
			}
			continue
		}
		d.value(name, raw[key], field)
	}
}

func (d *decoder) value(at string, raw any, to reflect.Value) {
	if raw == nil { // "key:" without a value
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
		d.bad(at, Describe(raw), "keys with values below it")
	case reflect.Map: // of strings to anything
		m, ok := raw.(map[string]any)
		if !ok {
			d.bad(at, Describe(raw), "keys with values below it")
			return
		}
		to.Set(reflect.MakeMapWithSize(to.Type(), len(m)))
		for _, key := range slices.Sorted(maps.Keys(m)) {
			v := reflect.New(to.Type().Elem()).Elem()
			d.value(at+"."+key, m[key], v)
			to.SetMapIndex(reflect.ValueOf(key), v)
		}
	case reflect.Slice:
		list, ok := raw.([]any)
		if !ok {
			d.bad(at, Describe(raw), "a list")
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
		d.bad(at, Describe(raw), "text (in quotes when it looks like a number or is a word such as no)")
	case reflect.Int:
		if f, ok := raw.(float64); ok && f == math.Trunc(f) && math.Abs(f) <= math.MaxInt32 {
			to.SetInt(int64(f))
			return
		}
		d.bad(at, Describe(raw), "a whole number")
	case reflect.Bool:
		if b, ok := raw.(bool); ok {
			to.SetBool(b)
			return
		}
		d.bad(at, Describe(raw), "true or false")
	default:
		panic(fmt.Sprintf("decode: the type of %s is not supported: %s", at, to.Type()))
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
	d.bad(at, Describe(raw), "a range such as 192.168.0.0/16")
}

// Describe formats a value for a message, on one line.
func Describe(v any) string {
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
