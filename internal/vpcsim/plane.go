package vpcsim

import (
	"context"
	"net"

	"terway.dev/terway/internal/vpcsim/state"
)

// Plane is a part of the cloud's data plane. A Server tells its planes, one after the
// other, what the cloud is; a plane tells the Server by its Feedback what it found out.
type Plane interface {
	// Connect gives the plane its Feedback. It is called once, before the first Apply.
	Connect(Feedback)
	// Apply makes the plane what view says; it only reads the view, which others get
	// too. It is called synchronously after each change, never twice at once, with
	// rising revisions; the API answers after it returns. An error is retried with the
	// then newest view, so Apply is idempotent and picks up what an earlier call left
	// half done.
	Apply(ctx context.Context, view *state.View) error
	// Close releases what the process holds.
	Close() error
}

// Feedback is what a plane may tell. Its methods never wait for an Apply, so they may be
// called at any time, also in one.
type Feedback interface {
	// Lost has everything applied again, to all planes: a device or a listener went that
	// Apply did not take.
	Lost()
	// Report runs f on the state: what the plane found out, such as the health of a backend. If the
	// state changed, the change is saved and applied soon after Report returned. A plane must
	// report only what is new: a report that changes the state has the plane called again.
	Report(f func(state.API) error) error
}

// Fabric is the plane in which instances are network namespaces and ENIs are devices. Package
// fabric implements it; without one the simulator only answers calls.
//
// It reports as lost a device that a guest destroyed with the namespace into which it
// had moved it, for example: real cards come back to the instance then, and the next
// Apply brings them.
type Fabric interface {
	Plane
	// Listen opens a listener inside an instance's namespace. The instance exists
	// since the last Apply. The address (100.100.100.200, …) is made local there by Listen.
	// A listener of an instance that stops or goes away fails its Accept.
	Listen(instanceID, network, addr string) (net.Listener, error)
}

// apply tells the planes what the cloud is. Planes after one that fails wait for it: they may
// depend on it.
func (s *Server) apply(view *state.View) error {
	for _, p := range s.planes {
		if err := p.Apply(s.ctx, view); err != nil {
			return err
		}
	}
	return nil
}

// feedback is a Server as its planes see it.
type feedback struct{ s *Server }

func (f feedback) Lost() {
	f.s.mu.Lock()
	f.s.committed, f.s.reapply = 0, true
	f.s.mu.Unlock()
	f.s.poke()
}

func (f feedback) Report(report func(state.API) error) error {
	err, clean := f.s.step(report)
	if !clean {
		f.s.poke()
	}
	return err
}
