package faults

import (
	"net/url"
	"testing"
	"time"
)

// No accepted rule makes a decision panic.
func FuzzRules(f *testing.F) {
	for _, text := range []string{
		`{"action":"Describe*","stale":"40s"}`, `[{"name":"x","latency":{"min":"1s","max":"2s"},"count":1}]`,
		`{"after":"1s","for":"2s","every":"3s","error":{"code":"Throttling"}}`, `{"latency":{"mean":"1s","max":"9223372036s"}}`,
		`{"vSwitchFull":["vsw-1"],"for":"1s"}`, `{"strictDetach":true}`, `{"probability":0.5,"lostAnswer":true,"match":{"a":"b"}}`, `{"action":"[","lostAnswer":true}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := Parse([]byte(text))
		if err != nil {
			return
		}
		s := New(1)
		now := time.Unix(0, 0)
		if _, err := s.Add(now, rules...); err != nil {
			return
		}
		for range 3 {
			v := s.Decide("Ecs", "DescribeInstances", url.Values{"a": {"b"}}, now)
			if v.Delay < 0 || v.Stale < 0 || v.Error != nil && (v.Error.Status < 400 || v.Error.Code == "") {
				t.Errorf("%s: %+v", text, v)
			}
			s.Conditions(now)
			if at, ok := s.NextEdge(now); ok && !at.After(now) {
				t.Errorf("%s: at %s the next edge is %s", text, now, at)
			}
			now = now.Add(1500 * time.Millisecond)
		}
	})
}
