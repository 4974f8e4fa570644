package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/wire"
)

const (
	// AddressWait is how long PodAddress waits. The hub waits a little less.
	AddressWait = 500 * time.Millisecond
	// requests at a time: fewer than the hub handles, so that none waits at the hub.
	requests = 32
	// othersEvery is the interval for reading the replicas' addresses.
	othersEvery = 5 * time.Second
)

// ErrAway means that there is no stream to a hub.
var ErrAway = errors.New("no connection to a policy hub")

// PodAddress reports the addresses of a pod of this node to all replicas of the hub. No
// addresses: the pod has none any more. It returns the number of nodes whose rules select the
// pod, after they have the addresses. It waits at most AddressWait; an error then says which
// nodes or replicas may not have the addresses. The pod may start nevertheless.
func (c *Client) PodAddress(ctx context.Context, pod policy.NamespacedName, addresses ...netip.Addr) (nodes int, err error) {
	c.stats.addresses.Add(1)
	defer func() {
		if err != nil {
			c.stats.late.Add(1)
			err = fmt.Errorf("tell the nodes whose policies name pod %s its address: %w", pod, err)
		}
	}()
	timer := c.Clock.NewTimer(AddressWait)
	defer timer.Stop()
	select {
	case c.requests <- struct{}{}:
		defer func() { <-c.requests }()
	case <-timer.C():
		return 0, fmt.Errorf("%d others wait for the policy hub", requests)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	main := c.stream.Load()
	if main == nil {
		return 0, ErrAway
	}
	streams := []*stream{main}
	c.others.Range(func(target, st any) bool {
		if target != main.target {
			streams = append(streams, st.(*stream))
		}
		return true
	})
	m := &wire.PodAddress{Id: c.ask.Add(1), Namespace: pod.Namespace, Pod: pod.Name}
	for _, a := range addresses {
		m.Addresses = append(m.Addresses, a.AsSlice())
	}
	answers := make(chan answer, len(streams))
	c.waiting.Store(m.Id, answers)
	defer c.waiting.Delete(m.Id)
	for _, st := range streams {
		err := st.send(&wire.FromNode{Message: &wire.FromNode_PodAddress{PodAddress: m}})
		if err != nil && st == main {
			return 0, ErrAway
		}
	}
	// Each replica says how many nodes need the address, and how many of the nodes connected to
	// it have it.
	need, asked := -1, 0
	for {
		select {
		case a := <-answers:
			if a.Refused != "" && a.from == main {
				return nodes, errors.New(a.Refused)
			}
			asked++
			nodes += int(a.Nodes)
			if a.Refused == "" {
				need = max(need, int(a.Nodes+a.Late+a.Elsewhere))
			}
			switch {
			case need >= 0 && nodes >= need:
				return nodes, nil
			case asked == len(streams):
				return nodes, fmt.Errorf("%d of %d have it", nodes, need)
			}
		case <-main.Context().Done():
			return nodes, ErrAway
		case <-timer.C():
			return nodes, fmt.Errorf("%d of %d replicas of the policy hub have answered within %s", asked, len(streams), AddressWait)
		case <-ctx.Done():
			return nodes, ctx.Err()
		}
	}
}

// An answer is a replica's answer.
type answer struct {
	*wire.AddressKnown
	from *stream
}

func (c *Client) answer(from *stream, m *wire.AddressKnown) {
	if to, ok := c.waiting.Load(m.Id); ok {
		select {
		case to.(chan answer) <- answer{m, from}:
		default: // a hub that answers twice
		}
	}
}

// tellOthers keeps a stream for addresses to each replica that the node is not connected to.
func (c *Client) tellOthers(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	told := map[string]context.CancelFunc{}
	ended := make(chan string)
	for {
		hubs, err := c.hubs(ctx) // the main stream reports the error
		main := c.stream.Load()
		if err == nil && main != nil {
			for target, cancel := range told {
				if target == main.target || !slices.Contains(hubs, target) {
					cancel()
				}
			}
			for _, target := range hubs {
				if target == main.target || told[target] != nil {
					continue
				}
				one, cancel := context.WithCancel(ctx)
				told[target] = cancel
				all.Go(func() {
					defer cancel()
					err := c.tell(one, target)
					if one.Err() == nil {
						c.Log.Debug("a replica of the policy hub cannot be told addresses", "replica", target, "why", err)
					}
					select {
					case ended <- target:
					case <-ctx.Done():
					}
				})
			}
		}
		t := c.Clock.NewTimer(othersEvery)
		select {
		case target := <-ended:
			delete(told, target)
			// The ticker limits retries if a replica ends each stream at once.
			t.Stop()
			if !c.sleep(ctx, retryFirst) {
				return
			}
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// tell runs a stream for addresses until it ends.
func (c *Client) tell(ctx context.Context, target string) error {
	st, closeAll, err := c.open(ctx, target, &wire.Hello{Format: wire.Format, Version: c.Version, AddressesOnly: true})
	if err != nil {
		return err
	}
	defer closeAll()
	c.others.Store(target, st)
	defer c.others.CompareAndDelete(target, st)
	for {
		m, err := st.Recv()
		if err != nil {
			return err
		}
		if a := m.GetAddressKnown(); a != nil {
			c.answer(st, a)
		}
	}
}
