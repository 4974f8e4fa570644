package nodepolicy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"terway.dev/terway/internal/agent/flowlog"
	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/datapath/policyask"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
)

// Handler answers what terwayctl asks (package policyapi). It belongs on a socket that only root can open.
func (p *Policies) Handler() http.Handler {
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
		p.answer(w, policyapi.Answer{Decision: policyapi.DecisionOf(d), State: reason + ": " + message})
	})
	mux.HandleFunc("GET "+policyapi.PathCounters, func(w http.ResponseWriter, _ *http.Request) {
		kernel, err := p.judges()
		var c policyapi.Counters
		if err == nil {
			c, err = p.counters(kernel)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		p.answer(w, c)
	})
	mux.HandleFunc("GET "+policyapi.PathFlows, func(w http.ResponseWriter, r *http.Request) {
		q, err := policyapi.ReadFlowsQuery(r.URL.Query())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		kernel, err := p.judges()
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		p.sendFlows(w, r, kernel.flows, q)
	})
	return mux
}

func (p *Policies) answer(w http.ResponseWriter, a any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(a); err != nil {
		p.Log.Debug("a question about policies was not answered to its end", "why", err)
	}
}

// judges returns what the programs judge by.
func (p *Policies) judges() (*judging, error) {
	if kernel := p.judging.Load(); kernel != nil {
		return kernel, nil
	}
	if failure := p.failed(); failure != nil {
		return nil, fmt.Errorf("the kernel has no policies: %w", failure)
	}
	return nil, errors.New("the kernel has no policies yet: the agent has just started")
}

// sendFlows sends flows, and if they are followed those that come.
func (p *Policies) sendFlows(w http.ResponseWriter, r *http.Request, flows *flowlog.Log, q policyapi.FlowsQuery) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	var coming <-chan policyapi.Flow
	if q.Follow {
		c, stop := flows.Follow()
		defer stop()
		coming = c
	}
	lines := json.NewEncoder(w)
	send := func(f policyapi.Flow) bool {
		if !q.Wants(f) {
			return true
		}
		if err := lines.Encode(f); err != nil {
			p.Log.Debug("flows were not sent to their end", "why", err)
			return false
		}
		return true
	}
	for _, f := range flows.Flows() {
		if !send(f) {
			return
		}
	}
	for q.Follow {
		_ = http.NewResponseController(w).Flush() // what cannot be flushed cannot be sent
		select {
		case f := <-coming:
			if !send(f) {
				return
			}
		case <-p.Clock.After(policyapi.Beat):
			if _, err := w.Write([]byte("\n")); err != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// counters reads how often rules have decided.
func (p *Policies) counters(kernel *judging) (c policyapi.Counters, err error) {
	list, gone, uncounted, err := kernel.writer.Counts()
	if err != nil {
		return c, err
	}
	counted := func(n [2]uint64) policyapi.Counted {
		return policyapi.Counted{Ingress: n[policy.Ingress], Egress: n[policy.Egress]}
	}
	c = policyapi.Counters{Since: p.since.UTC(), Rules: []policyapi.Counter{}, Gone: map[string]policyapi.Counted{}, Uncounted: uncounted}
	for _, n := range list {
		c.Rules = append(c.Rules, policyapi.Counter{Decision: policyapi.DecisionOf(n.Decision), Counted: counted(n.Decided)})
	}
	for action, n := range gone {
		c.Gone[action.String()] = counted(n)
	}
	return c, nil
}

// verdict asks the kernel.
func (p *Policies) verdict(q policyapi.Question) (d policy.Decision, err error) {
	kernel, err := p.judges()
	if err != nil {
		return d, err
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
