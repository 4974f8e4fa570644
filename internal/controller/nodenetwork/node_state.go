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

// memory is what the process remembers of a node. Safety does not depend on it: a new process
// starts without it, and compares with the cloud. Only the node's reconcile uses it, except
// needsCompare, which the sweep sets too.
type memory struct {
	// needsCompare: the cloud must be compared with the spec before the next plan.
	needsCompare atomic.Bool
	// life is what is known of the node's agent; Agents sets it.
	life atomic.Int32
	// conditions are the controller's conditions of the node.
	conditions conditions
	// generation of the spec last written; 0: this process has not read the object yet.
	generation int64
	// written is what this process wrote last.
	written written
	// changed is when the last call that changes the node's ENIs ended. An older list of ENIs is
	// ignored.
	changed time.Time
	// firstSeen has the differences between cloud and spec, with the time at which each was first
	// seen.
	firstSeen map[string]time.Time
	// born is when this process first saw the node; calls has the times at which it created ENIs
	// (by id) and assigned addresses.
	born  time.Time
	calls map[string]time.Time
	// goes is why the ENIs of a node that has left are being given back, "" if they are not; away
	// has the cloud's answers about its instance.
	goes string
	away away
	// back: the node was leaving and exists again; takeBack is due.
	back bool
	// adopting: the cloud has ENIs that are not in the spec and may be adopted.
	adopting bool
	// lacking are addresses of the spec that the cloud does not have.
	lacking map[string]bool
	// unknown is how many addresses of an ENI (by token) may have to be adopted.
	unknown map[string]int
	// assigns are calls with an unknown outcome, by the ENI's token.
	assigns map[string]assignCall
	// attaching are ENIs that are being attached, by token; leaving are those being removed, by id.
	attaching map[string]*attaching
	leaving   map[string]*leaving
	// making are the ENIs that this process creates and attaches, by token.
	making map[string]*making
	// config is the configuration with which the node was last reconciled.
	config *config.Config
	// refused is what the cloud refused a while ago: createOperation or an ENI's token.
	refused map[string]refusal
	// pauses are those of failed operations, by name; needs is what the node needed last.
	pauses map[string]*pause
	needs  needs
	// listed: the node was compared with the cloud once.
	listed bool
	// failedRounds counts the reconciles in a row in which the node could not have what it needs.
	failedRounds int
	// behind is since when pods wait and all calls for them are deferred; zero if they are not.
	behind time.Time
	// foreign is how many slots of the instance are used by ENIs of others, as counted at
	// foreignAt; zero: not counted yet.
	foreign   int
	foreignAt time.Time
	// datapath is the last reported state of the node's datapath.
	datapath string
	// warned are warnings that were already recorded.
	warned map[string]bool

	missing missing
	// surplus and exclusiveSurplus are the last plan's.
	surplus, exclusiveSurplus ipam.Surplus
}

// written is a spec as it was written, with fields that the API server may not have stored.
type written struct {
	generation      int64
	takenAway, held int
}

// assignCall is an AssignAddresses call that can be repeated.
type assignCall struct {
	n     int
	token string
}

// attaching is the attachment of an ENI.
type attaching struct {
	since    time.Time
	attempts int
	next     time.Time // of the next AttachENI call
}

// making are the times of an ENI's creation and attachment.
type making struct {
	// created is when the creation was first requested, attached the attachment; zero: it was not yet.
	created, attached time.Time
	// available: the creation has ended.
	available bool
}

// leaving is the removal of an ENI.
type leaving struct {
	status   cloud.ENIStatus // the status in which the calls were made
	attempts int
	next     time.Time // of the next call
}

// refusal is what the cloud refused, and until when it is not tried again.
type refusal struct {
	why   cloud.Explanation
	until time.Time
}

func newMemory(now time.Time) *memory {
	m := &memory{
		born: now, calls: map[string]time.Time{}, lacking: map[string]bool{}, leaving: map[string]*leaving{},
		firstSeen: map[string]time.Time{}, unknown: map[string]int{}, assigns: map[string]assignCall{},
		attaching: map[string]*attaching{}, making: map[string]*making{}, refused: map[string]refusal{}, warned: map[string]bool{}, pauses: map[string]*pause{},
	}
	m.needsCompare.Store(true)
	return m
}

// memories has the memory of each node.
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

// forgetGone drops what is remembered of ENIs that the node no longer has.
func (m *memory) forgetGone(enis []v1alpha1.ENI) {
	gone := func(token string) bool {
		return !slices.ContainsFunc(enis, func(e v1alpha1.ENI) bool { return e.Token == token })
	}
	maps.DeleteFunc(m.assigns, func(token string, _ assignCall) bool { return gone(token) })
	maps.DeleteFunc(m.attaching, func(token string, _ *attaching) bool { return gone(token) })
	maps.DeleteFunc(m.making, func(token string, _ *making) bool { return gone(token) })
	maps.DeleteFunc(m.refused, func(what string, _ refusal) bool { return what != createOperation && gone(what) })
	maps.DeleteFunc(m.pauses, func(operation string, _ *pause) bool {
		_, token, of := strings.Cut(operation, " ")
		return of && gone(token)
	})
}
