package cloudtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Events keeps a controller's events, each as "kind type reason note (name)".
type Events struct {
	mu  sync.Mutex
	all []string
}

// Eventf implements events.EventRecorder.
func (e *Events) Eventf(regarding runtime.Object, _ runtime.Object, eventtype, reason, _, note string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, fmt.Sprintf("%T %s %s %s (%s)", regarding, eventtype, reason, fmt.Sprintf(note, args...), regarding.(client.Object).GetName()))
}

// All are the events so far.
func (e *Events) All() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.all)
}

// Count is how many events have all the parts in them.
func (e *Events) Count(parts ...string) int {
	n := 0
	for _, s := range e.All() {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(s, p) }) {
			n++
		}
	}
	return n
}

// Has says whether an event has a part in it.
func (e *Events) Has(part string) bool { return e.Count(part) > 0 }

// ErrCrash is what a controller gets that was killed.
var ErrCrash = errors.New("crashed")

// Fuse kills a controller. The zero one never does.
type Fuse struct {
	mu   sync.Mutex
	lit  bool
	left int
	last bool
}

// Light lets so many more calls of the cloud, or writes to the API server, be made; then
// all fail. The last one may still be carried out, with its answer lost.
func (f *Fuse) Light(calls int, last bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lit, f.left, f.last = true, calls, last
}

// Burnt says whether the controller is killed.
func (f *Fuse) Burnt() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lit && f.left == 0
}

// Do makes a call, or not.
func (f *Fuse) Do(call func() error) error {
	made, answered := f.pass()
	if !made {
		return ErrCrash
	}
	if err := call(); answered {
		return err
	}
	return ErrCrash
}

func (f *Fuse) pass() (made, answered bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !f.lit:
		return true, true
	case f.left == 0:
		return false, false
	}
	f.left--
	if f.left == 0 {
		return f.last, false
	}
	return true, true
}
