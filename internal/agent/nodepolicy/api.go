package nodepolicy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/datapath/policyask"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

// Handler answers what terwayctl asks (package policyapi). It belongs on a socket that only root can open. kindOf returns the kind of a pod that
// is wired here, empty for others.
func (p *Policies) Handler(kindOf func(policy.NamespacedName) string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+policyapi.PathVerdict, func(w http.ResponseWriter, r *http.Request) {
		q, err := policyapi.ReadQuestion(r.URL.Query())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		d, err := p.verdict(q)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, reason, message := p.State()
		a := policyapi.Answer{Decision: policyapi.DecisionOf(d), Judged: true, State: reason + ": " + message}
		if why := p.Lacks(kindOf(q.Pod)); why != nil {
			a.Judged, a.Why = false, why.Error()
		}
		p.answer(w, a)
	})
	return mux
}

func (p *Policies) answer(w http.ResponseWriter, a any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(a); err != nil {
		p.Log.Debug("a question about policies was not answered to its end", "why", err)
	}
}

// verdict asks the kernel.
func (p *Policies) verdict(q policyapi.Question) (d policy.Decision, err error) {
	kernel := p.judging.Load()
	if kernel == nil {
		if failure := p.failed(); failure != nil {
			return d, fmt.Errorf("the kernel has no policies: %w", failure)
		}
		return d, errors.New("the kernel has no policies yet: the agent has just started")
	}
	if !p.written.Load() {
		return d, errors.New("the kernel decides by what an earlier agent has written, if anything: this one has written nothing yet")
	}
	asker, err := policyask.Load(kernel.maps)
	if err != nil {
		return d, fmt.Errorf("load the programs that ask: %w", err)
	}
	defer func() { err = errors.Join(err, asker.Close()) }()
	endpoint, err := asker.Endpoint(q.Own)
	if err != nil {
		return d, err
	}
	_, row, err := asker.Ask(compile.Packet{
		Endpoint: endpoint, Direction: q.Direction, Peer: q.Peer, Protocol: q.Protocol,
		SourcePort: q.SourcePort, DestinationPort: q.DestinationPort, ICMPType: q.ICMPType, ICMPCode: q.ICMPCode,
	})
	if err != nil {
		return d, err
	}
	d, known := kernel.writer.Decision(row)
	if !known {
		return d, errors.New("the rules changed while the kernel was asked: ask again")
	}
	return d, nil
}
