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

// Events records a controller's events, each as "kind type reason note (name)".
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

// All returns the events so far.
func (e *Events) All() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.all)
}

// Count returns how many events contain all the parts.
func (e *Events) Count(parts ...string) int {
	n := 0
	for _, s := range e.All() {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(s, p) }) {
			n++
		}
	}
	return n
}

// Has reports whether an event contains a part.
func (e *Events) Has(part string) bool { return e.Count(part) > 0 }

// ErrCrash is the error of every call of a killed controller.
var ErrCrash = errors.New("crashed")

// Fuse kills a controller. The zero Fuse never does.
type Fuse struct {
	mu   sync.Mutex
	lit  bool
	left int
	last bool
}

// Light lets so many more calls to the cloud, or writes to the API server, pass; then all fail.
// With last set, the last one is carried out but its answer is lost.
func (f *Fuse) Light(calls int, last bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lit, f.left, f.last = true, calls, last
}

// Burnt reports whether the controller is killed.
func (f *Fuse) Burnt() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lit && f.left == 0
}

// Do makes a call, unless the controller is killed.
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
