package compare

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/lab"
)

// Auto is the datapath that Terway chooses by itself.
const Auto = "auto"

// Run starts a lab for each network, for Terway one for each datapath, measures it and
// takes it down. After an error what was measured before is returned with it.
func Run(ctx context.Context, base lab.Options, networks []string, o Options, progress *lab.Progress) ([]Network, error) {
	if len(networks) == 0 {
		return nil, errors.New("--networks is empty: want terway, flannel or both")
	}
	wrong := []error{o.Check()}
	if base.Nodes < 2 {
		wrong = append(wrong, fmt.Errorf("--nodes %d: the comparison needs two or more", base.Nodes))
	}
	// A network that this lab cannot install is found before minutes are spent.
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
			if d == config.ModeExclusive {
				l.Datapath, l.Mode = "", config.ModeExclusive
			}
			wrong = append(wrong, l.Normalize())
			labs = append(labs, &l)
		}
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}
	var measured []Network
	for _, l := range labs {
		if slices.ContainsFunc(measured, func(n Network) bool { return n.Default && n.Datapath == l.Datapath }) {
			continue // what Terway chose by itself
		}
		n, err := runOne(ctx, l, o, progress)
		if err != nil {
			return measured, fmt.Errorf("%s: %w", l.Network, err)
		}
		n.Default = l.Network == lab.NetworkTerway && l.Datapath == Auto && l.Mode != config.ModeExclusive
		measured = append(measured, *n)
	}
	return measured, nil
}

func runOne(ctx context.Context, l *lab.Options, o Options, progress *lab.Progress) (_ *Network, err error) {
	defer func() {
		if errors.Is(err, lab.ErrRunning) {
			return // it is somebody else's
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
