package instruments

import (
	"slices"
	"strings"
	"testing"
)

func TestAccountsSayWhatIsWrong(t *testing.T) {
	good := Account{Node: "n", pods: []string{"a"}, used: []string{"a"}, spec: []string{"a", "b", "c"}, cloud: []string{"a", "b", "c"}, devices: 1, Min: 1, Max: 3}
	if w := good.Wrong(); w != "" {
		t.Fatalf("a good account is wrong: %s", w)
	}
	for name, spoil := range map[string]func(*Account){
		"the agent reports":  func(a *Account) { a.used = nil },
		"the cloud has":      func(a *Account) { a.cloud = append(slices.Clone(a.cloud), "d") },
		"devices for":        func(a *Account) { a.devices = 2 },
		"at most":            func(a *Account) { a.Max = 1 },
		"at least":           func(a *Account) { a.Min = 3 },
		"controller lets it": func(a *Account) { a.spec = nil },
	} {
		a := good
		spoil(&a)
		if w := a.Wrong(); !strings.Contains(w, name) {
			t.Errorf("spoiled account: %q, want something with %q", w, name)
		}
	}
}
