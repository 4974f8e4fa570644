package faults

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Parse parses one rule or a list of rules in JSON. Unknown fields are errors: a misspelt fault
// would have no effect.
func Parse(data []byte) ([]Rule, error) {
	data = bytes.TrimSpace(data)
	var rules []Rule
	var into any = &rules
	one := len(data) > 0 && data[0] == '{'
	if one {
		rules = make([]Rule, 1)
		into = &rules[0]
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return nil, fmt.Errorf("fault rules: %w; want one JSON object or an array of them", err)
	}
	if d.More() {
		return nil, fmt.Errorf("fault rules: more text after the JSON")
	}
	return rules, nil
}

// Handler serves the rules: GET lists, POST adds (one rule or a list), DELETE removes the one
// of ?name=… or, without a name, all. changed is called after each change.
func (s *Set) Handler(now func() time.Time, changed func()) http.Handler {
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		// The only error left is a client that went away.
		_ = json.NewEncoder(w).Encode(v)
	}
	fail := func(w http.ResponseWriter, status int, err error) {
		reply(w, status, map[string]string{"error": err.Error()})
	}
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusOK, s.List(now()))
	})
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			fail(w, http.StatusBadRequest, err)
			return
		}
		rules, err := Parse(data)
		if err != nil {
			fail(w, http.StatusBadRequest, err)
			return
		}
		added, err := s.Add(now(), rules...)
		if err != nil {
			fail(w, http.StatusBadRequest, err)
			return
		}
		changed()
		reply(w, http.StatusOK, added)
	})
	mux.HandleFunc("DELETE /", func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("name")
		if !s.Remove(name) && name != "" {
			fail(w, http.StatusNotFound, fmt.Errorf("no fault rule %q", name))
			return
		}
		changed()
		reply(w, http.StatusOK, s.List(now()))
	})
	return mux
}
