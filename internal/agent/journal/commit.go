package journal

import (
	"sync"

	bolt "go.etcd.io/bbolt"
)

// commits shares the cost of fsync among concurrent writers: while one
// transaction is being written to disk the others gather for the next. A lone
// writer never waits for company, as it would in bolt.DB.Batch (10 ms).
type commits struct {
	update func(func(*bolt.Tx) error) error

	mu      sync.Mutex
	waiting []*change
	busy    bool // someone is writing, and will look at waiting afterwards
}

type change struct {
	apply func(*bolt.Tx) error
	done  chan error
}

// commit applies a change; it is on disk when commit returns.
func (c *commits) commit(apply func(*bolt.Tx) error) error {
	ch := &change{apply: apply, done: make(chan error, 1)}
	c.mu.Lock()
	c.waiting = append(c.waiting, ch)
	lead := !c.busy
	c.busy = true
	c.mu.Unlock()
	if lead {
		c.write()
	}
	return <-ch.done
}

// write commits what waits as one transaction. What gathered meanwhile is
// written by a goroutine, so that no writer is held up by later ones.
func (c *commits) write() {
	c.mu.Lock()
	batch := c.waiting
	c.waiting = nil
	c.mu.Unlock()

	err := c.update(func(tx *bolt.Tx) error {
		for _, ch := range batch {
			if err := ch.apply(tx); err != nil {
				return err
			}
		}
		return nil
	})
	for _, ch := range batch {
		if err != nil && len(batch) > 1 {
			// One bad change has rolled all of them back: each on its own.
			ch.done <- c.update(ch.apply)
			continue
		}
		ch.done <- err
	}

	c.mu.Lock()
	c.busy = len(c.waiting) > 0
	more := c.busy
	c.mu.Unlock()
	if more {
		go c.write()
	}
}
