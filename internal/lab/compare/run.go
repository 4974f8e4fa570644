package compare

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
)

// Auto lets Terway choose the datapath.
const Auto = claims.Auto

// Run starts a lab for each network, and for each datapath of Terway, measures it and takes it
// down. After an error it also returns the results so far.
func Run(ctx context.Context, base lab.Options, networks []string, o Options, progress *lab.Progress) ([]Network, error) {
	if len(networks) == 0 {
		return nil, errors.New("--networks is empty: want terway, flannel or both")
	}
	wrong := []error{o.Check()}
	if base.Nodes < 2 {
		wrong = append(wrong, fmt.Errorf("--nodes %d: the comparison needs two or more", base.Nodes))
	}
	// Check first whether the lab can install each network, before minutes are spent.
	var labs []*lab.Options
	for _, name := range networks {
		if name == lab.NetworkNone {
			wrong = append(wrong, fmt.Errorf("--networks %s: there is nothing to measure without a pod network", name))
		}
		datapaths := []string{""}
		if name == lab.NetworkTerway && len(o.Datapaths) > 0 {
			datapaths = o.Datapaths
		}
		for _, d := range datapaths {
			l := base
			l.Network, l.Datapath = name, d
			if d == claims.ModeExclusive {
				l.Datapath, l.Mode = "", claims.ModeExclusive
			}
			wrong = append(wrong, l.Normalize())
			labs = append(labs, &l)
		}
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}
	return runEach(labs, func(l *lab.Options) (*Network, error) { return runOne(ctx, l, o, progress) })
}

// runEach measures the labs that differ, and keeps their order in the results. It starts with
// the automatic choice: only then is it known whether a named datapath is the same.
func runEach(labs []*lab.Options, run func(*lab.Options) (*Network, error)) ([]Network, error) {
	type column struct {
		at int
		*Network
	}
	var measured []column
	result := func() []Network {
		slices.SortFunc(measured, func(a, b column) int { return cmp.Compare(a.at, b.at) })
		var all []Network
		for _, c := range measured {
			all = append(all, *c.Network)
		}
		return all
	}
	type asked struct{ network, datapath, mode string }
	seen := map[asked]bool{}
	for _, auto := range []bool{true, false} {
		for at, l := range labs {
			what := asked{l.Network, l.Datapath, l.Mode}
			if byItself(l) != auto || seen[what] {
				continue
			}
			seen[what] = true
			same := func(c column) bool { return c.Default && l.Network == lab.NetworkTerway && c.Datapath == l.Datapath }
			if i := slices.IndexFunc(measured, same); i >= 0 {
				measured[i].at = min(measured[i].at, at)
				continue
			}
			n, err := run(l)
			if err != nil {
				return result(), fmt.Errorf("%s: %w", l.Network, err)
			}
			n.Default = auto
			measured = append(measured, column{at, n})
		}
	}
	return result(), nil
}

// byItself reports whether Terway chooses the datapath of the lab.
func byItself(l *lab.Options) bool {
	return l.Network == lab.NetworkTerway && l.Datapath == Auto && l.Mode != claims.ModeExclusive
}

func runOne(ctx context.Context, l *lab.Options, o Options, progress *lab.Progress) (_ *Network, err error) {
	defer func() {
		if errors.Is(err, lab.ErrRunning) {
			return // it belongs to another program
		}
		err = errors.Join(err, progress.Step(l.Network+": lab down", func() error {
			_, err := lab.Down(context.WithoutCancel(ctx), l)
			return err
		}))
	}()
	s, err := lab.Up(ctx, l, progress)
	if err != nil {
		return nil, err
	}
	return Measure(ctx, s, o, progress)
}
