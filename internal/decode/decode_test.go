package decode_test

import (
	"net/netip"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/decode"
)

type inner struct {
	CIDR netip.Prefix `json:"cidr"`
}

type form struct {
	Name  string              `json:"name"`
	Count int                 `json:"count,omitempty"`
	On    bool                `json:"on"`
	Below inner               `json:"below"`
	List  []inner             `json:"list"`
	Map   map[string][]string `json:"map"`
	none  int
}

func TestObject(t *testing.T) {
	var got form
	if m := decode.Object(map[string]any{
		"name": "a", "count": 3.0, "on": true, "below": map[string]any{"cidr": "10.0.0.0/8"},
		"list": []any{map[string]any{"cidr": ""}}, "map": map[string]any{"x": []any{"1", "2"}, "y": nil},
	}, &got); len(m) > 0 {
		t.Fatal(m)
	}
	want := form{Name: "a", Count: 3, On: true, Below: inner{netip.MustParsePrefix("10.0.0.0/8")}, List: make([]inner, 1),
		Map: map[string][]string{"x": {"1", "2"}, "y": nil}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestMistakes: all mistakes are reported, and their fields stay as they were.
func TestMistakes(t *testing.T) {
	got := form{Count: 7, Name: "old"}
	mistakes := decode.Object(map[string]any{
		"name": 5.0, "count": 1.5, "on": "yes", "below": []any{}, "list": "x", "none": 1.0, "nane": "b",
		"map": map[string]any{"x": "1", "y": []any{true}},
	}, &got)
	want := []decode.Mistake{
		{"below", "a list", "keys with values below it"},
		{"count", "1.5", "a whole number"},
		{"list", `"x"`, "a list"},
		{"map.x", `"1"`, "a list"},
		{"map.y[0]", "true", "text (in quotes when it looks like a number or is a word such as no)"},
		{"name", "5", "text (in quotes when it looks like a number or is a word such as no)"},
		{"nane", "is not a key", "name"},
		{"none", "is not a key", "one of below, count, list, map, name, on"},
		{"on", `"yes"`, "true or false"},
	}
	if !reflect.DeepEqual(mistakes, want) {
		t.Errorf("got\n%v\nwant\n%v", mistakes, want)
	}
	if got.Count != 7 || got.Name != "old" || got.none != 0 {
		t.Errorf("%+v", got)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"min_pool_size", "region", "mode"}
	for word, want := range map[string]string{
		"min_pol_size": "min_pool_size", "Region": "region", "regoin": "region", "mod": "mode", "colour": "", "": "", "x": "",
	} {
		if got := decode.Nearest(word, known); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
	// A known word is found if one letter is missing.
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.SampledFrom(known).Draw(t, "word")
		i := rapid.IntRange(0, len(word)-1).Draw(t, "dropped")
		if got := decode.Nearest(word[:i]+word[i+1:], known); got != word {
			t.Fatalf("%s without letter %d: got %q", word, i, got)
		}
	})
}
