package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// Difference is a key whose value differs.
type Difference struct {
	Key      string
	Old, New string // in JSON; "null" when not set
}

func (d Difference) String() string { return fmt.Sprintf("%s: %s → %s", d.Key, d.Old, d.New) }

// Diff returns the keys in which two configurations differ.
func Diff(old, new *Config) (out []Difference) {
	was, is := old.values(), new.values()
	for _, k := range keys {
		if !reflect.DeepEqual(was[k.name], is[k.name]) {
			out = append(out, Difference{k.name, text(was[k.name]), text(is[k.name])})
		}
	}
	return out
}

// CanBecome returns an error that lists every difference that is not allowed on a running
// cluster.
func (c *Config) CanBecome(next *Config) error {
	var errs []error
	for _, d := range Diff(c, next) {
		if why := find(d.Key).fixed; why != "" {
			errs = append(errs, fmt.Errorf("%s cannot change from %s to %s on a running cluster: %s. Write %s again", d.Key, d.Old, d.New, why, d.Old))
		}
	}
	return errors.Join(errs...)
}

func (c *Config) values() map[string]any {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // only strings, numbers, lists and maps of strings
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		panic(err)
	}
	return out
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // it was marshalled above
	}
	return string(b)
}
