package instruments

import "testing"

func TestWithWords(t *testing.T) {
	lines := []string{"node1: a b", "node2: a c"}
	for want, words := range map[string][]string{"node1: a b": {"a"}, "node2: a c": {"a", "c"}, "": {"b", "c"}} {
		if got := WithWords(lines, words...); got != want {
			t.Errorf("%v: %q, want %q", words, got, want)
		}
	}
}
