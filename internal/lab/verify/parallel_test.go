package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Only neighbours that may run beside each other are together.
func TestNeighbours(t *testing.T) {
	var rest []Check
	for name := range strings.FieldsSeq("a b+ c+ d e f+") {
		name, beside := strings.CutSuffix(name, "+")
		rest = append(rest, Check{Name: name, Beside: beside})
	}
	var got []string
	for len(rest) > 0 {
		var next []Check
		next, rest = neighbours(rest)
		got = append(got, strings.Join(names(next), ""))
	}
	if want := []string{"a", "bc", "d", "e", "f"}; !slices.Equal(got, want) {
		t.Errorf("together: %q, want %q", got, want)
	}
}

func names(checks []Check) (all []string) {
	for _, c := range checks {
		all = append(all, c.Name)
	}
	return all
}

// Two checks run at a time, and each waits until the other runs. The results are in the order of the checks, although each ends after
// the next one has.
func TestSideBySide(t *testing.T) {
	var pairs [2]sync.WaitGroup
	later := make([]chan struct{}, 4)
	var checks []Check
	for i := range later {
		later[i] = make(chan struct{})
		pairs[i/2].Add(1)
		checks = append(checks, Check{Name: fmt.Sprint(i)})
	}
	at := func(c Check) int { return slices.Index(names(checks), c.Name) }
	var got []string
	sideBySide(t.Context(), checks, 2, func(_ context.Context, c Check) Result {
		i := at(c)
		pairs[i/2].Done()
		pairs[i/2].Wait()
		if i%2 == 0 {
			<-later[i+1]
		}
		close(later[i])
		return Result{Name: c.Name, OK: i != 2}
	}, func(r Result) { got = append(got, fmt.Sprint(r.Name, r.OK)) })
	if want := []string{"0true", "1true", "2false", "3true"}; !slices.Equal(got, want) {
		t.Errorf("results %q, want %q", got, want)
	}
}

// After an interrupt the checks that run are reported, and no other one starts.
func TestInterruptSideBySide(t *testing.T) {
	ctx, interrupt := context.WithCancelCause(t.Context())
	checks := []Check{{Name: "a"}, {Name: "b"}, {Name: "c"}, {Name: "d"}}
	var both sync.WaitGroup
	both.Add(2)
	var got []string
	sideBySide(ctx, checks, 2, func(ctx context.Context, c Check) Result {
		both.Done()
		both.Wait()
		interrupt(errors.New("interrupted"))
		<-ctx.Done()
		return Result{Name: c.Name}
	}, func(r Result) { got = append(got, r.Name) })
	if !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("reported %q, want those that ran", got)
	}
}
