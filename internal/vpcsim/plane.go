package vpcsim

import (
	"context"
	"net"

	"terway.dev/terway/internal/vpcsim/state"
)

// Plane is a part of the cloud's data plane. A Server applies changes to its planes, one after
// the other; a plane reports what it finds out by its Feedback.
type Plane interface {
	// Connect gives the plane its Feedback. It is called once, before the first Apply.
	Connect(Feedback)
	// Apply makes the plane match view, which it must only read, because the planes share it.
	// It is called synchronously after each change, never concurrently, with rising revisions;
	// the API answers after it returns. After an error it is called again with the newest view,
	// so Apply must be idempotent and complete what an earlier call left undone.
	Apply(ctx context.Context, view *state.View) error
	// Close releases the resources of the process.
	Close() error
}

// Feedback is how a plane reports. Its methods never wait for an Apply, so they may be called
// at any time, also in an Apply.
type Feedback interface {
	// Lost has everything applied again, to all planes: a device or a listener disappeared that
	// Apply did not remove.
	Lost()
	// Report runs f on the state with what the plane found out, such as the health of a
	// backend. If f changed the state, the change is saved and applied soon after Report
	// returns. A plane must report only news: a report that changes the state causes another
	// Apply.
	Report(f func(state.API) error) error
}

// Fabric is the plane in which instances are network namespaces and ENIs are devices. Package
// fabric implements it; without one the simulator only answers calls.
//
// It reports a lost device, for example when a guest destroyed the namespace into which it had
// moved the device: real cards return to the instance then, and the next Apply does the same.
type Fabric interface {
	Plane
	// Listen opens a listener in an instance's namespace. The instance exists since the last
	// Apply. Listen makes the address (100.100.100.200, …) local there. Accept fails when the
	// instance stops or is deleted.
	Listen(instanceID, network, addr string) (net.Listener, error)
}

// apply applies the cloud to the planes. After an error the following planes are not called,
// because they may depend on the failed one.
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
