package main

import (
	"strings"
	"testing"
	"time"
)

func TestClockError(t *testing.T) {
	for _, c := range []struct {
		guest, here time.Duration
		wrong       bool
	}{
		{0, 0, false},
		{3 * time.Second, 2 * time.Second, false},
		{2 * time.Minute, 2 * time.Minute, false},
		{110 * time.Second, 2 * time.Minute, false},
		{30 * time.Minute, 2 * time.Minute, true},
		{2 * time.Minute, 30 * time.Minute, true},
		{150 * time.Second, 2 * time.Minute, true},
		{90 * time.Second, 2 * time.Minute, true},
	} {
		if err := clockError(c.guest, c.here); (err != nil) != c.wrong {
			t.Errorf("%s in the guest, %s here: %v", c.guest, c.here, err)
		}
	}
}

// What the guest says comes line by line, and may end before its program does.
func TestListen(t *testing.T) {
	for text, want := range map[string]heard{
		"":                        {},
		"start\n":                 {},
		"start\nend 5000000000 3": {ended: true, guest: 5 * time.Second, code: 3},
		"start\nend 5000000000\n": {},
	} {
		got := listen(strings.NewReader(text))
		if (got.here > time.Minute) || got.ended != want.ended || got.guest != want.guest || got.code != want.code {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

// The counter of the machine that runs the test counts with its clock, twice the same.
func TestCounterKHz(t *testing.T) {
	a, b := counterKHz(), counterKHz()
	if counter() == 0 {
		if a != 0 || b != 0 {
			t.Errorf("%d and %d kHz without a counter", a, b)
		}
		return
	}
	if a < 100_000 || (a-b)*(a-b) > (a/100)*(a/100) {
		t.Errorf("%d kHz, then %d kHz", a, b)
	}
}
