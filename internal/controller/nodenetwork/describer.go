package nodenetwork

import (
	"context"
	"sync"
	"time"

	"terway.dev/terway/internal/cloud"
)

// describer makes one DescribeNetworkInterfaces call of what many nodes ask at
// nearly the same time: a hundred nodes that wait for an ENI cost one call.
type describer struct {
	api    cloud.API
	window time.Duration

	mu   sync.Mutex
	next *batch
}

type batch struct {
	ids  map[string]bool
	done chan struct{}
	enis map[string]cloud.ENI
	err  error
}

// get returns those of the ENIs that exist, by id.
func (d *describer) get(ctx context.Context, ids []string) (map[string]cloud.ENI, error) {
	d.mu.Lock()
	b := d.next
	if b == nil {
		b = &batch{ids: map[string]bool{}, done: make(chan struct{})}
		d.next = b
		time.AfterFunc(d.window, func() { d.run(context.WithoutCancel(ctx), b) })
	}
	for _, id := range ids {
		b.ids[id] = true
	}
	d.mu.Unlock()
	select {
	case <-b.done:
		return b.enis, b.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// describeTimeout bounds a batch, whoever asked first and may have gone.
const describeTimeout = 30 * time.Second

func (d *describer) run(ctx context.Context, b *batch) {
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	d.mu.Lock()
	d.next = nil
	ids := make([]string, 0, len(b.ids))
	for id := range b.ids {
		ids = append(ids, id)
	}
	d.mu.Unlock()
	list, err := d.api.DescribeENIs(ctx, cloud.ENIFilter{IDs: ids})
	b.err = err
	b.enis = make(map[string]cloud.ENI, len(list))
	for _, e := range list {
		b.enis[e.ID] = e
	}
	close(b.done)
}
