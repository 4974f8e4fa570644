package datapath

import (
	"net/netip"
	"reflect"
	"testing"
)

// fill sets everything in v, of any type, to something that is not zero.
func fill(t *testing.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(t, v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() { // addresses have no exported fields, and are values
				fill(t, v.Field(i))
			}
		}
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(1)
	case reflect.Uint8:
		v.SetUint(1)
	default:
		t.Fatalf("a node has a %s: Clone and this test must know it", v.Type())
	}
}

// shared names the first memory that two values share.
func shared(a, b reflect.Value, path string) string {
	switch a.Kind() {
	case reflect.Slice:
		if a.Pointer() == b.Pointer() {
			return path
		}
		for i := range a.Len() {
			if s := shared(a.Index(i), b.Index(i), path+"[]"); s != "" {
				return s
			}
		}
	case reflect.Struct:
		for i := range a.NumField() {
			if !a.Type().Field(i).IsExported() {
				continue
			}
			if s := shared(a.Field(i), b.Field(i), path+"."+a.Type().Field(i).Name); s != "" {
				return s
			}
		}
	}
	return ""
}

func TestCloneOfANode(t *testing.T) {
	var n Node
	fill(t, reflect.ValueOf(&n).Elem())
	c := n.Clone()
	if !reflect.DeepEqual(n, c) {
		t.Errorf("got %+v, want %+v", c, n)
	}
	if s := shared(reflect.ValueOf(n), reflect.ValueOf(c), "Node"); s != "" {
		t.Errorf("%s is shared with the clone", s)
	}
}

// leaves calls f with each leaf of v after changing it, and then restores it.
func leaves(t *testing.T, v reflect.Value, path string, f func(path string)) {
	old := reflect.New(v.Type()).Elem()
	old.Set(v)
	defer v.Set(old)
	switch v.Interface().(type) {
	case netip.Addr:
		v.Set(reflect.ValueOf(netip.MustParseAddr("192.0.2.7")))
		f(path)
		return
	case netip.Prefix:
		v.Set(reflect.ValueOf(netip.MustParsePrefix("192.0.2.7/31")))
		f(path)
		return
	}
	switch v.Kind() {
	case reflect.Slice:
		for i := range v.Len() {
			leaves(t, v.Index(i), path+"[]", f)
		}
		v.Set(v.Slice(0, v.Len()-1))
		f(path + ", shorter")
	case reflect.Struct:
		for i := range v.NumField() {
			leaves(t, v.Field(i), path+"."+v.Type().Field(i).Name, f)
		}
	default:
		v.SetZero()
		f(path)
	}
}

// Two nodes are equal exactly if no leaf differs.
func TestEqualNodes(t *testing.T) {
	var n Node
	fill(t, reflect.ValueOf(&n).Elem())
	c := n.Clone()
	if !n.Equal(c) || !n.Equal(n) {
		t.Errorf("%+v is not %+v", n, c)
	}
	parts := 0
	leaves(t, reflect.ValueOf(&c).Elem(), "Node", func(path string) {
		parts++
		if n.Equal(c) || c.Equal(n) {
			t.Errorf("another %s makes no difference", path)
		}
	})
	if !n.Equal(c) || parts < 20 {
		t.Errorf("after %d parts %+v is not %+v", parts, n, c)
	}
}
