package config

import (
	"fmt"
	"slices"
	"strings"

	"terway.dev/terway/internal/datapath/claims"
)

// value is a value of a key, and whether this version supports it.
type value struct {
	name  string
	there bool
}

// choices are the values of the keys with a fixed set of values. Only this table says what this
// version supports.
var choices = map[string][]value{
	"network":                  {{claims.NetworkTerway, true}, {claims.NetworkFlannel, true}},
	"mode":                     {{claims.ModeShared, true}, {claims.ModeExclusive, true}},
	"datapath":                 {{claims.Auto, true}, {claims.Route, true}, {claims.EBPF, true}, {claims.IPvlan, true}, {claims.Netkit, true}},
	"network_policy":           {{"false", true}, {"true", false}},
	"vswitch_selection_policy": {{"most", true}, {"ordered", true}, {"random", true}},
}

// Choices returns the values of a key that this version supports, in the documentation's order.
func Choices(key string) []string {
	var names []string
	for _, v := range choices[key] {
		if v.there {
			names = append(names, v.name)
		}
	}
	return names
}

// has reports whether this version supports a value of a key.
func has(key, name string) bool { return slices.Contains(choices[key], value{name, true}) }

// choice validates a value of a key.
func choice(key, name string) error {
	there := Choices(key)
	switch want := strings.Join(there, ", "); {
	case slices.Contains(there, name):
		return nil
	case slices.Contains(choices[key], value{name, false}):
		return fmt.Errorf("%s %s: not supported yet; this version supports %s", key, name, want)
	default:
		return fmt.Errorf("%s %q: want one of %s", key, name, want)
	}
}
