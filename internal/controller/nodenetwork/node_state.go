package nodenetwork

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/ipam"
)

// memory is what the process remembers of a node. Nothing in it is needed for
// safety: a new process starts without it, and then compares with the cloud.
// Only the node's reconcile touches it, except doubt, which the sweep sets too.
type memory struct {
	// doubt: the cloud must be compared with the spec before the next plan.
	doubt atomic.Bool
	// life is what is known of the node's agent; Agents sets it.
	life atomic.Int32
	// conditions are what the controller says of the node.
	conditions conditions
	// generation is that of the spec last written; 0: not read by this process yet.
	generation int64
	// written is what this process wrote last.
	written written
	// changed is when the last call that changes the node's ENIs ended. An older
	// list of ENIs says nothing.
	changed time.Time
	// suspects are differences between cloud and spec, by when they were first seen.
	suspects map[string]time.Time
	// born is when this process first saw the node; calls are when it put ENIs (by id)
	// and addresses there.
	born  time.Time
	calls map[string]time.Time
	// goes is why the ENIs of a node that has left are being given back; "": they are not.
	// away is what the cloud says of its instance meanwhile.
	goes string
	away away
	// back: the node was leaving and is there again; what it was asked to give up is taken back.
	back bool
	// adopting: ENIs are in the cloud that the spec does not know and that may be adopted.
	adopting bool
	// lacking are addresses of the spec that the cloud does not have.
	lacking map[string]bool
	// unknown is how many addresses of an ENI (by token) are suspects to be adopted.
	unknown map[string]int
	// assigns are calls whose outcome is open, by the ENI's token.
	assigns map[string]assignCall
	// attaching are ENIs on their way, by token; leaving are those on their way out, by id.
	attaching map[string]*attaching
	leaving   map[string]*leaving
	// config is the configuration that the node was last served with.
	config *config.Config
	// refused are what the cloud does not give for a while: createOperation or an ENI's token.
	refused map[string]refusal
	// pauses are of operations that failed, by name; wish is what the node wanted last.
	pauses map[string]*pause
	wish   wish
	// listed: the node was compared with the cloud once.
	listed bool
	// troubles counts how often in a row the node could not have what it needs.
	troubles int
	// behind is since when pods wait and all calls for them are deferred; zero: it is not so.
	behind time.Time
	// foreign is how many slots of the instance ENIs take that are not ours, as counted at
	// foreignAt; zero: not counted yet.
	foreign   int
	foreignAt time.Time
	// datapath is what was last told of the node's datapath.
	datapath string
	// told are warnings that were given already.
	told map[string]bool

	missing missing
	// surplus and exclusiveSurplus are the last plan's.
	surplus, exclusiveSurplus ipam.Surplus
}

// written is a spec as it was written, as far as the API server may not have kept it.
type written struct {
	generation int64
	takenAway  int
}

// assignCall is an AssignAddresses call that can be repeated.
type assignCall struct {
	n     int
	token string
}

// attaching is an ENI's way into service.
type attaching struct {
	since    time.Time
	attempts int
	next     time.Time // of the next AttachENI call
}

// leaving is an ENI's way out of service.
type leaving struct {
	status   cloud.ENIStatus // in which the calls were made
	attempts int
	next     time.Time // of the next call
}

// refusal is what the cloud said, and until when it is believed.
type refusal struct {
	why   cloud.Explanation
	until time.Time
}

func newMemory(now time.Time) *memory {
	m := &memory{
		born: now, calls: map[string]time.Time{}, lacking: map[string]bool{}, leaving: map[string]*leaving{},
		suspects: map[string]time.Time{}, unknown: map[string]int{}, assigns: map[string]assignCall{},
		attaching: map[string]*attaching{}, refused: map[string]refusal{}, told: map[string]bool{}, pauses: map[string]*pause{},
	}
	m.doubt.Store(true)
	return m
}

// memories are those of all nodes.
type memories struct {
	now func() time.Time
	mu  sync.Mutex
	of  map[string]*memory
}

func (m *memories) get(node string) *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of[node] == nil {
		m.of[node] = newMemory(m.now())
	}
	return m.of[node]
}

func (m *memories) forget(node string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.of, node)
}

// forgetGone drops what is remembered of ENIs that the node does not have any more.
func (m *memory) forgetGone(enis []v1alpha1.ENI) {
	gone := func(token string) bool {
		return !slices.ContainsFunc(enis, func(e v1alpha1.ENI) bool { return e.Token == token })
	}
	maps.DeleteFunc(m.assigns, func(token string, _ assignCall) bool { return gone(token) })
	maps.DeleteFunc(m.attaching, func(token string, _ *attaching) bool { return gone(token) })
	maps.DeleteFunc(m.refused, func(what string, _ refusal) bool { return what != createOperation && gone(what) })
	maps.DeleteFunc(m.pauses, func(operation string, _ *pause) bool {
		_, token, of := strings.Cut(operation, " ")
		return of && gone(token)
	})
}
