package lab

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Progress reports the steps to the user and how long they took. It writes complete lines, so
// that several steps can run at once and a log file is readable.
type Progress struct {
	mu    sync.Mutex
	out   io.Writer
	now   func() time.Time
	start time.Time
}

// NewProgress writes to out; now is the clock.
func NewProgress(out io.Writer, now func() time.Time) *Progress {
	return &Progress{out: out, now: now, start: now()}
}

// Step runs f, reports it when it takes long, and reports its result.
func (p *Progress) Step(name string, f func() error) error {
	began := p.now()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				p.line("…", began, name)
			}
		}
	})
	err := f()
	close(stop)
	wg.Wait()
	if err != nil {
		p.line("FAILED", began, name)
		return fmt.Errorf("%s: %w", name, err)
	}
	p.line("ok", began, name)
	return nil
}

// Note prints a line that belongs to no step.
func (p *Progress) Note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// Elapsed returns the time since the start.
func (p *Progress) Elapsed() time.Duration { return p.now().Sub(p.start) }

func (p *Progress) line(mark string, began time.Time, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	fmt.Fprintf(p.out, "%7.1fs  %-6s %s (%.1fs)\n", now.Sub(p.start).Seconds(), mark, name, now.Sub(began).Seconds())
}
