package openapi

import (
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/vpcsim/state"
)

type inner struct {
	Key   string
	Count *int
}

type sample struct {
	Text   string
	Number int
	Exact  float64
	Flag   bool
	Maybe  *bool
	Words  []string
	Items  []inner
	Nested inner
	inner2
	Spelt string `param:"Spelt_out,spelt"`
}

type inner2 struct{ Embedded string }

func TestDecode(t *testing.T) {
	three, no := 3, false
	for name, c := range map[string]struct {
		query string
		want  sample
	}{
		"scalars":                 {"Text=a+b&Number=7&Exact=1.5&Flag=true&Maybe=false", sample{Text: "a b", Number: 7, Exact: 1.5, Flag: true, Maybe: &no}},
		"case of booleans":        {"Flag=True", sample{Flag: true}},
		"absent":                  {"", sample{}},
		"unknown":                 {"Unknown=1&Text.1=x&Words.x=1", sample{}},
		"empty number":            {"Number=&Flag=&Maybe=", sample{}},
		"list":                    {"Words.1=a&Words.2=b", sample{Words: []string{"a", "b"}}},
		"order of numbers":        {"Words.10=j&Words.9=i&Words.1=a", sample{Words: []string{"a", "i", "j"}}},
		"gaps":                    {"Words.3=c&Words.7=g", sample{Words: []string{"c", "g"}}},
		"index that is no number": {"Words.0=z&Words.01=y&Words.-1=x&Words.1=a", sample{Words: []string{"a"}}},
		"list of structs":         {"Items.1.Key=a&Items.1.Count=3&Items.2.Key=b", sample{Items: []inner{{"a", &three}, {"b", nil}}}},
		"struct":                  {"Nested.Key=a", sample{Nested: inner{Key: "a"}}},
		"embedded":                {"Embedded=e", sample{inner2: inner2{"e"}}},
		"two names":               {"spelt=a", sample{Spelt: "a"}},
		"the first of two names":  {"spelt=a&Spelt_out=b&Spelt=c", sample{Spelt: "b"}},
		"JSON list":               {`Words=["a","b"]`, sample{Words: []string{"a", "b"}}},
		"JSON list of numbers":    {`Words=[1,2]`, sample{Words: []string{"1", "2"}}},
		"JSON structs":            {`Items=[{"key":"a","COUNT":"3","other":{"x":[]}},{"Key":"b"}]`, sample{Items: []inner{{"a", &three}, {"b", nil}}}},
		"JSON struct":             {`Nested={"key":"a"}`, sample{Nested: inner{Key: "a"}}},
		"null":                    {`Words=null`, sample{}},
	} {
		t.Run(name, func(t *testing.T) {
			q, err := url.ParseQuery(c.query)
			if err != nil {
				t.Fatal(err)
			}
			var got sample
			if e := decode(q, &got); e != nil {
				t.Fatal(e)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	for query, want := range map[string]string{
		"Number=x":                  `"Number" is not valid: "x" is not an integer`,
		"Number=99999999999":        "is not an integer",
		"Exact=NaN":                 "is not a number",
		"Flag=yes":                  "is not true or false",
		"Items.1.Count=x":           `"Items.1.Count"`,
		"Words=a":                   `"a" is not a JSON array`,
		`Words={"a":1}`:             "is not a JSON array",
		`Words=["a"`:                "is not a JSON array",
		`Words=[["a"]]`:             "is not a single value",
		`Items=["a"]`:               "is not a JSON object",
		`Nested=[]`:                 "is not a JSON object",
		`Items=[{"Count":"x"}]`:     `"Items.1.Count"`,
		`Items=[{"Count":1.5}]`:     "is not an integer",
		`Items=[{"Key":{"a":"b"}}]`: "is not a single value",
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		var got sample
		e := decode(q, &got)
		if e == nil || e.Code != "InvalidParameter" || !strings.Contains(e.Message, want) {
			t.Errorf("%s: %v, want InvalidParameter with %s", query, e, want)
		}
	}
}

// encode encodes a request like the SDKs.
func encode(v reflect.Value, name string, into url.Values) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if f.Anonymous {
				encode(v.Field(i), name, into)
			} else {
				names := paramsOf(f)
				encode(v.Field(i), join(name, names[len(names)-1]), into)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			encode(v.Index(i), join(name, strconv.Itoa(i+1)), into)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			encode(v.Elem(), name, into)
		}
	case reflect.String:
		into.Set(name, v.String())
	case reflect.Int:
		into.Set(name, strconv.FormatInt(v.Int(), 10))
	case reflect.Bool:
		into.Set(name, strconv.FormatBool(v.Bool()))
	case reflect.Float64:
		into.Set(name, strconv.FormatFloat(v.Float(), 'g', -1, 64))
	}
}

// What an SDK encodes is decoded unchanged.
func TestDecodeIsTheInverseOfEncode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.Int32Range(-1000, 1000)
		item := rapid.Custom(func(t *rapid.T) inner {
			n := int(number.Draw(t, "count"))
			return inner{rapid.String().Draw(t, "key"), &n}
		})
		in := sample{
			Text:   rapid.String().Draw(t, "text"),
			Number: int(number.Draw(t, "number")),
			Exact:  rapid.Float64Range(-1e9, 1e9).Draw(t, "exact"),
			Flag:   rapid.Bool().Draw(t, "flag"),
			Words:  rapid.SliceOfN(rapid.String(), 1, 20).Draw(t, "words"),
			Items:  rapid.SliceOfN(item, 1, 12).Draw(t, "items"),
			Nested: item.Draw(t, "nested"),
			inner2: inner2{rapid.String().Draw(t, "embedded")},
		}
		q := url.Values{}
		encode(reflect.ValueOf(in), "", q)
		q, err := url.ParseQuery(q.Encode())
		if err != nil {
			t.Fatal(err)
		}
		var out sample
		if e := decode(q, &out); e != nil {
			t.Fatal(e)
		}
		if !reflect.DeepEqual(in, out) {
			t.Fatalf("in  %+v\nout %+v", in, out)
		}
	})
}

// No parameters make the decoder panic, for any request.
func FuzzDecode(f *testing.F) {
	for _, q := range []string{
		"Tag.1.Key=a&Tag.1.Value=b&PrivateIpAddress.1=10.0.0.1", `InstanceIds=["i-1"]`, `Tag=[{"key":1}]`,
		"Permissions.3.IpProtocol=TCP&IpProtocol=UDP", "....=1&Tag..Key=2&Tag.1=3&Tag=4", `NetworkOptions={"EnableJumboFrame":"true"}`,
		`RouteEntries.1=[{}]&NextHopList={}`,
	} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		for _, dst := range []any{
			&state.CreateNetworkInterfaceRequest{}, &state.RunInstancesRequest{}, &state.DescribeInstancesRequest{},
			&state.AuthorizeSecurityGroupRequest{}, &state.CreateRouteEntriesRequest{}, &state.CreateRouteEntryRequest{},
			&state.DescribeInstanceTypesRequest{}, &state.ModifyNetworkInterfaceAttributeRequest{}, &sample{},
		} {
			if e := decode(q, dst); e != nil && (e.Code == "" || e.Status != 400) {
				t.Errorf("%q: %+v", query, e)
			}
		}
	})
}

// Every request struct of the state can be filled: a field of an unsupported kind would panic
// in production.
func TestEveryRequestFieldCanBeDecoded(t *testing.T) {
	api := reflect.TypeFor[state.API]()
	for i := range api.NumMethod() {
		m := api.Method(i)
		if m.Type.NumIn() != 1 || m.Type.In(0).Kind() != reflect.Struct || !strings.HasSuffix(m.Type.In(0).Name(), "Request") {
			continue
		}
		t.Run(m.Name, func(t *testing.T) {
			in := reflect.New(m.Type.In(0)).Elem()
			fill(in)
			q := url.Values{}
			encode(in, "", q)
			out := reflect.New(m.Type.In(0))
			if e := decode(q, out.Interface()); e != nil {
				t.Fatal(e)
			}
			if !reflect.DeepEqual(out.Elem().Interface(), in.Interface()) {
				t.Errorf("in  %+v\nout %+v", in.Interface(), out.Elem().Interface())
			}
		})
	}
}

// fill sets every field to a value other than zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0))
		fill(v.Index(1))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.String:
		v.SetString("x")
	case reflect.Int:
		v.SetInt(5)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(1.5)
	}
}
