package compare

import (
	"context"
	"errors"
	"fmt"
	"time"

	"terway.dev/terway/internal/lab"
)

// Options are how long is measured.
type Options struct {
	// Rounds of pods and nodes in turns.
	Rounds int
	// Turn is how long the stream and the requests of one turn last; opening
	// connections takes half of it.
	Turn time.Duration
	// Pods are started for the count of addresses.
	Pods int32
}

// Check says what is wrong with the options.
func (o *Options) Check() error {
	var wrong []error
	if o.Rounds < 1 || o.Rounds > 1000 {
		wrong = append(wrong, fmt.Errorf("--rounds %d: want 1 to 1000", o.Rounds))
	}
	if o.Turn < 10*time.Millisecond || o.Turn > time.Minute {
		wrong = append(wrong, fmt.Errorf("--turn %s: want 10ms to 1m", o.Turn))
	}
	if o.Pods < 2 {
		wrong = append(wrong, fmt.Errorf("--pods %d: want 2 or more", o.Pods))
	}
	return errors.Join(wrong...)
}

// Measure measures the network of a running lab.
func Measure(ctx context.Context, s *lab.State, o Options, progress *lab.Progress) (_ *Network, err error) {
	if len(s.Machines) < 2 {
		return nil, fmt.Errorf("the comparison needs two nodes, the lab has %d", len(s.Machines))
	}
	c, err := newCluster(s)
	if err != nil {
		return nil, err
	}
	if err := c.makeNamespace(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.cleanUp(ctx)) }()

	n := &Network{Name: s.Options.Network}
	a, b := s.Machines[0], s.Machines[1]
	var from, to end
	step := func(name string, f func() error) error { return progress.Step(n.Name+": "+name, f) }
	for _, st := range []struct {
		name string
		do   func() error
	}{
		{fmt.Sprintf("%d pods", o.Pods), func() error {
			pods, err := c.spreadPods(ctx, o.Pods)
			if err != nil {
				return err
			}
			for _, x := range []struct {
				node string
				end  *end
			}{{a.Name, &from}, {b.Name, &to}} {
				p, err := podOn(pods, x.node)
				if err != nil {
					return err
				}
				if *x.end, err = c.end(p); err != nil {
					return err
				}
			}
			n.Datapath, err = c.datapath(ctx)
			return err
		}},
		{"addresses held and used", func() (err error) {
			n.Addresses, err = c.addresses(ctx)
			return err
		}},
		{"the address that an instance of the VPC sees", func() (err error) {
			n.Seen, err = seenFrom(ctx, pair{from, machineEnd(&s.Master)}, a)
			return err
		}},
		{"speed, " + PathPodToPod, func() error {
			p, err := measurePath(ctx, o, PathPodToPod, pair{from, to}, pair{machineEnd(&a), machineEnd(&b)})
			n.Paths = append(n.Paths, p)
			return err
		}},
		{"speed, " + PathPodToInstance, func() error {
			master := machineEnd(&s.Master)
			p, err := measurePath(ctx, o, PathPodToInstance, pair{from, master}, pair{machineEnd(&a), master})
			n.Paths = append(n.Paths, p)
			return err
		}},
		{"a NetworkPolicy that denies all", func() (err error) {
			n.Policy, err = c.tryPolicy(ctx, pair{from, to})
			return err
		}},
		{"a pod that asks for limited bandwidth", func() (err error) {
			n.Limits, err = c.limits(ctx, a.Name, to, time.Second)
			return err
		}},
	} {
		if err := step(st.name, st.do); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// measurement is one kind of figure. It takes its turn on pods and nodes one right
// after the other, so that the machine is in the same mood for both.
type measurement func(ctx context.Context, p pair, d time.Duration, to *Speed) error

func measurements() []measurement {
	return []measurement{
		func(ctx context.Context, p pair, d time.Duration, to *Speed) (err error) {
			to.BitsPerSecond, err = p.stream(ctx, d)
			return err
		},
		func(ctx context.Context, p pair, d time.Duration, to *Speed) error {
			took, err := p.exchange(ctx, d)
			if err == nil {
				to.P50, to.P99 = quantile(took, 0.5), quantile(took, 0.99)
			}
			return err
		},
		func(ctx context.Context, p pair, d time.Duration, to *Speed) error {
			took, err := p.connects(ctx, d/2)
			if err == nil {
				to.Connect = quantile(took, 0.5)
			}
			return err
		},
	}
}

// measurePath measures pods and nodes in turns; who is first changes each round.
// Meanwhile the program is before others of the machine, as far as it may be.
func measurePath(ctx context.Context, o Options, name string, pods, nodes pair) (Path, error) {
	defer prioritise()()
	rounds, err := turns(ctx, o, pods, nodes)
	if err != nil {
		return Path{}, err
	}
	return summary(name, rounds), nil
}

func turns(ctx context.Context, o Options, pods, nodes pair) ([]Round, error) {
	var rounds []Round
	// Round 0 warms the path up: neighbours, routes, the kernel's buffers.
	for i := range o.Rounds + 1 {
		var r Round
		type side struct {
			pair pair
			to   *Speed
		}
		sides := []side{{pods, &r.Pods}, {nodes, &r.Nodes}}
		if i%2 == 1 {
			sides = []side{sides[1], sides[0]}
		}
		for _, measure := range measurements() {
			for _, side := range sides {
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				if err := measure(ctx, side.pair, o.Turn, side.to); err != nil {
					return nil, err
				}
			}
		}
		if i > 0 {
			rounds = append(rounds, r)
		}
	}
	return rounds, nil
}

// summary makes ratios of each round and sums them up.
func summary(name string, rounds []Round) Path {
	ratios := func(of func(Speed) float64) Spread {
		var all []float64
		for _, r := range rounds {
			all = append(all, of(r.Pods)/of(r.Nodes))
		}
		return spreadOf(all)
	}
	return Path{Name: name, Rounds: rounds,
		Stream:  ratios(func(s Speed) float64 { return s.BitsPerSecond }),
		P50:     ratios(func(s Speed) float64 { return s.P50 }),
		P99:     ratios(func(s Speed) float64 { return s.P99 }),
		Connect: ratios(func(s Speed) float64 { return s.Connect }),
	}
}
