package openapi

import (
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// decode fills a request struct from parameters. Fields have the names of the parameters, or
// those of a tag such as `param:"Name,name"`, of which the first that is there counts. A list is Name.1, Name.2, … (gaps are closed, the order is by index) or one parameter with a
// JSON array; a struct is Name.Field; an embedded struct adds no name. Parameters without a
// field are ignored, as in the service.
func decode(params url.Values, dst any) *Error {
	return decodeStruct(newNode(params), "", reflect.ValueOf(dst).Elem())
}

// node is the tree of parameters, split at the dots.
type node struct {
	value *string
	kids  map[string]*node
}

func newNode(params url.Values) *node {
	root := &node{}
	for name, vs := range params {
		if len(vs) == 0 || len(name) > maxName {
			continue
		}
		n := root
		for part := range strings.SplitSeq(name, ".") {
			if n.kids == nil {
				n.kids = map[string]*node{}
			}
			kid := n.kids[part]
			if kid == nil {
				kid = &node{}
				n.kids[part] = kid
			}
			n = kid
		}
		n.value = &vs[0]
	}
	return root
}

// maxName limits the depth of the tree.
const maxName = 256

// items returns the numbered children, sorted by number.
func (n *node) items() []*node {
	type item struct {
		at int
		n  *node
	}
	var list []item
	for name, kid := range n.kids {
		// Only canonical numbers: "01" and "1" would have the same index.
		if i, err := strconv.Atoi(name); err == nil && i >= 1 && strconv.Itoa(i) == name {
			list = append(list, item{i, kid})
		}
	}
	slices.SortFunc(list, func(a, b item) int { return a.at - b.at })
	nodes := make([]*node, len(list))
	for i, it := range list {
		nodes[i] = it.n
	}
	return nodes
}

func decodeStruct(n *node, name string, dst reflect.Value) *Error {
	t := dst.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			if e := decodeStruct(n, name, dst.Field(i)); e != nil {
				return e
			}
			continue
		}
		for _, param := range paramsOf(f) {
			if kid := n.kids[param]; kid != nil {
				if e := decodeNode(kid, join(name, param), dst.Field(i)); e != nil {
					return e
				}
				break
			}
		}
	}
	return nil
}

// paramsOf returns the names of a field's parameter.
func paramsOf(f reflect.StructField) []string {
	if tag := f.Tag.Get("param"); tag != "" {
		return strings.Split(tag, ",")
	}
	return []string{f.Name}
}

func decodeNode(n *node, name string, dst reflect.Value) *Error {
	switch dst.Kind() {
	case reflect.Struct:
		if n.value != nil && n.kids == nil && *n.value != "" {
			return decodeJSON(*n.value, name, dst)
		}
		return decodeStruct(n, name, dst)
	case reflect.Slice:
		items := n.items()
		if len(items) == 0 {
			if n.value == nil || *n.value == "" {
				return nil
			}
			return decodeJSON(*n.value, name, dst)
		}
		list := reflect.MakeSlice(dst.Type(), len(items), len(items))
		for i, it := range items {
			if e := decodeNode(it, join(name, strconv.Itoa(i+1)), list.Index(i)); e != nil {
				return e
			}
		}
		dst.Set(list)
		return nil
	}
	if n.value == nil {
		return nil
	}
	return decodeScalar(*n.value, name, dst)
}

// decodeScalar sets a string, number or bool, or a pointer to one. An empty value, except for a
// string, counts as absent: clients send "Amount=".
func decodeScalar(v, name string, dst reflect.Value) *Error {
	kind := dst.Kind()
	if kind == reflect.Pointer {
		kind = dst.Type().Elem().Kind()
	}
	if v == "" && kind != reflect.String {
		return nil
	}
	if dst.Kind() == reflect.Pointer {
		p := reflect.New(dst.Type().Elem())
		if e := decodeScalar(v, name, p.Elem()); e != nil {
			return e
		}
		dst.Set(p)
		return nil
	}
	switch kind {
	case reflect.String:
		dst.SetString(v)
	case reflect.Bool:
		switch {
		case strings.EqualFold(v, "true"):
			dst.SetBool(true)
		case strings.EqualFold(v, "false"):
			dst.SetBool(false)
		default:
			return invalid(name, v, "true or false")
		}
	case reflect.Int, reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(v, 10, 32)
		if err != nil {
			return invalid(name, v, "an integer")
		}
		dst.SetInt(i)
	case reflect.Float64:
		f, err := strconv.ParseFloat(v, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return invalid(name, v, "a number")
		}
		dst.SetFloat(f)
	default:
		// A field that no parameter can fill is a bug in the simulator.
		panic(fmt.Sprintf("openapi: request field %s has kind %s", name, dst.Kind()))
	}
	return nil
}

// decodeJSON fills dst from a parameter with a JSON document. Keys match in any case, and
// numbers may be strings, because clients differ.
func decodeJSON(text, name string, dst reflect.Value) *Error {
	want := "a JSON object"
	if dst.Kind() == reflect.Slice {
		want = "a JSON array"
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil || d.More() {
		return invalid(name, text, want)
	}
	return setJSON(v, name, dst)
}

func setJSON(v any, name string, dst reflect.Value) *Error {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		if dst.Kind() != reflect.Slice {
			return invalid(name, "[…]", kindName(dst))
		}
		list := reflect.MakeSlice(dst.Type(), len(v), len(v))
		for i, x := range v {
			if e := setJSON(x, join(name, strconv.Itoa(i+1)), list.Index(i)); e != nil {
				return e
			}
		}
		dst.Set(list)
		return nil
	case map[string]any:
		if dst.Kind() != reflect.Struct {
			return invalid(name, "{…}", kindName(dst))
		}
		return setJSONFields(v, name, dst)
	case string:
		return setJSONScalar(v, name, dst)
	case json.Number:
		return setJSONScalar(v.String(), name, dst)
	case bool:
		return setJSONScalar(strconv.FormatBool(v), name, dst)
	}
	return invalid(name, fmt.Sprint(v), kindName(dst))
}

func setJSONScalar(v, name string, dst reflect.Value) *Error {
	if k := dst.Kind(); k == reflect.Slice || k == reflect.Struct {
		return invalid(name, v, kindName(dst))
	}
	return decodeScalar(v, name, dst)
}

func setJSONFields(object map[string]any, name string, dst reflect.Value) *Error {
	t := dst.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			if e := setJSONFields(object, name, dst.Field(i)); e != nil {
				return e
			}
			continue
		}
		param := paramsOf(f)[0]
		v, ok := object[param]
		if !ok {
			// By sorted key, so that the choice between two spellings is always the same.
			keys := make([]string, 0, 1)
			for k := range object {
				if strings.EqualFold(k, param) {
					keys = append(keys, k)
				}
			}
			if len(keys) == 0 {
				continue
			}
			v = object[slices.Min(keys)]
		}
		if e := setJSON(v, join(name, param), dst.Field(i)); e != nil {
			return e
		}
	}
	return nil
}

func kindName(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Slice:
		return "a JSON array"
	case reflect.Struct:
		return "a JSON object"
	}
	return "a single value"
}

func join(name, field string) string {
	if name == "" {
		return field
	}
	return name + "." + field
}
