package compare

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
)

// Options are the durations and sizes of the measurements.
type Options struct {
	// Rounds is the number of rounds, each with pods and nodes.
	Rounds int
	// Turn is how long pods, and nodes, stream and send requests in one round; opening
	// connections takes half of it.
	Turn time.Duration
	// Upgrades is how often the pods behind a load balancer are made anew.
	Upgrades int
	// Pods is the number of pods to count addresses with; with exclusive ENIs it is limited to
	// the number of ENIs.
	Pods int32
	// Datapaths are the datapaths of Terway to measure, with one lab for each.
	Datapaths []string
}

// Check validates the options.
func (o *Options) Check() error {
	var wrong []error
	if o.Rounds < 1 || o.Rounds > 1000 {
		wrong = append(wrong, fmt.Errorf("--rounds %d: want 1 to 1000", o.Rounds))
	}
	if o.Turn < 10*time.Millisecond || o.Turn > time.Minute {
		wrong = append(wrong, fmt.Errorf("--turn %s: want 10ms to 1m", o.Turn))
	}
	if o.Upgrades < 1 || o.Upgrades > 1000 {
		wrong = append(wrong, fmt.Errorf("--upgrades %d: want 1 to 1000", o.Upgrades))
	}
	if o.Pods < 2 {
		wrong = append(wrong, fmt.Errorf("--pods %d: want 2 or more", o.Pods))
	}
	if len(o.Datapaths) == 0 {
		wrong = append(wrong, fmt.Errorf("--datapath is empty: want one or more of %s and %s", strings.Join(config.Choices("datapath"), ", "), claims.ModeExclusive))
	}
	return errors.Join(wrong...)
}

// Measure measures the network of a running lab. With Terway it turns policies on in the end, and leaves them on.
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
	label := n.Name
	if n.Datapath, err = c.datapath(ctx); err != nil {
		return nil, err
	}
	if n.Datapath != "" {
		label += " " + n.Datapath
	}
	pods := o.Pods
	if c.exclusiveENIs() {
		room, err := c.room(ctx)
		if err != nil {
			return nil, err
		}
		pods = min(pods, room)
	}
	a, b := s.Machines[0], s.Machines[1]
	var between instruments.Pair // pods of the two nodes
	step := func(name string, f func() error) error { return progress.Step(label+": "+name, f) }
	for _, st := range []struct {
		name string
		do   func() error
	}{
		{fmt.Sprintf("%d pods", pods), func() error {
			pods, err := c.spreadPods(ctx, pods)
			if err != nil {
				return err
			}
			for _, x := range []struct {
				node string
				end  *instruments.End
			}{{a.Name, &between.From}, {b.Name, &between.To}} {
				p, err := podOn(pods, x.node)
				if err != nil {
					return err
				}
				if *x.end, err = c.end(p); err != nil {
					return err
				}
			}
			return nil
		}},
		{"addresses held and used", func() (err error) {
			n.Addresses, err = c.addresses(ctx)
			return err
		}},
		{"the address that an instance of the VPC sees", func() (err error) {
			n.Seen, err = seenFrom(ctx, instruments.Pair{From: between.From, To: instruments.MachineEnd(s.Master)}, a)
			return err
		}},
		{"speed, " + PathPodToPod, func() error {
			p, err := measurePath(ctx, o, PathPodToPod, between, instruments.Pair{From: instruments.MachineEnd(a), To: instruments.MachineEnd(b)})
			n.Paths = append(n.Paths, p)
			return err
		}},
		{"speed, " + PathPodToInstance, func() error {
			master := instruments.MachineEnd(s.Master)
			p, err := measurePath(ctx, o, PathPodToInstance, instruments.Pair{From: between.From, To: master}, instruments.Pair{From: instruments.MachineEnd(a), To: master})
			n.Paths = append(n.Paths, p)
			return err
		}},
		{"a pod that asks for limited bandwidth", func() (err error) {
			n.Limits, err = c.limits(ctx, a.Name, between.To, time.Second)
			return err
		}},
		// After the others, which are measured as the chart comes, with policies off.
		{"a NetworkPolicy that denies all", func() (err error) {
			if s.Options.Network == lab.NetworkTerway && !s.Options.Policy {
				if err := s.SwitchPolicy(ctx, true); err != nil {
					return err
				}
			}
			n.Policy, err = c.tryPolicy(ctx, between)
			return err
		}},
		// The last one: with exclusive ENIs the pods from before have all of them.
		{"an upgrade behind a load balancer", func() (err error) {
			before := c.NewDeployment(app, 0)
			if err := before.Scale(ctx, 0); err != nil {
				return err
			}
			n.LoadBalancer, err = c.balanced(ctx, o.Upgrades)
			return err
		}},
	} {
		if err := step(st.name, st.do); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// measurement is one kind of measurement.
type measurement func(ctx context.Context, p instruments.Pair, d time.Duration, to *samples) error

// samples are all values of one side in a round.
type samples struct{ streams, requests, connects []float64 }

func (s *samples) speed() Speed {
	return Speed{BitsPerSecond: quantile(s.streams, 0.5), P50: quantile(s.requests, 0.5), P99: quantile(s.requests, 0.99), Connect: quantile(s.connects, 0.5)}
}

func measurements() []measurement {
	return []measurement{
		func(ctx context.Context, p instruments.Pair, d time.Duration, to *samples) error {
			speed, err := p.Stream(ctx, d)
			to.streams = append(to.streams, speed)
			return err
		},
		func(ctx context.Context, p instruments.Pair, d time.Duration, to *samples) error {
			took, err := p.Exchange(ctx, d)
			to.requests = append(to.requests, took...)
			return err
		},
		func(ctx context.Context, p instruments.Pair, d time.Duration, to *samples) error {
			took, err := p.Connects(ctx, d/2)
			to.connects = append(to.connects, took...)
			return err
		},
	}
}

// measurePath measures pods and nodes alternately; each round starts with the other side.
// During the measurement this program has a higher priority than others, if it is allowed to.
func measurePath(ctx context.Context, o Options, name string, pods, nodes instruments.Pair) (Path, error) {
	defer prioritise()()
	rounds, err := turns(ctx, o, pods, nodes)
	if err != nil {
		return Path{}, err
	}
	return summary(name, rounds), nil
}

func turns(ctx context.Context, o Options, pods, nodes instruments.Pair) ([]Round, error) {
	var rounds []Round
	// Round 0 warms up the path: neighbours, routes, the kernel's buffers.
	for i := range o.Rounds + 1 {
		type side struct {
			pair instruments.Pair
			samples
		}
		p, n := &side{pair: pods}, &side{pair: nodes}
		first, second := p, n
		if i%2 == 1 {
			first, second = n, p
		}
		for _, measure := range measurements() {
			// Forth and back, so that a steady change affects both sides equally.
			for _, side := range []*side{first, second, second, first} {
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				if err := measure(ctx, side.pair, o.Turn/2, &side.samples); err != nil {
					return nil, err
				}
			}
		}
		if i > 0 {
			rounds = append(rounds, Round{Pods: p.speed(), Nodes: n.speed()})
		}
	}
	return rounds, nil
}

// summary computes ratios for each round and summarizes them.
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
		Connect: ratios(func(s Speed) float64 { return s.Connect }),
	}
}
