package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"terway.dev/terway/internal/agent/podapi"
)

// stuck is how long the repair loop may go without completing a round. One round includes a Sync of
// a full node and the clean-up of dead pods.
const stuck = 2 * time.Minute

// Handler serves /metrics, /healthz (liveness: the process makes progress) and /readyz (readiness:
// pods can be wired).
func Handler(a *Agent, g prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", MetricsHandler(g))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !a.Healthy(stuck) {
			http.Error(w, fmt.Sprintf("the repair loop has completed no round for %v", stuck), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if ok, why := a.Ready(); !ok {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// MetricsHandler serves metrics on every path.
func MetricsHandler(g prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(g, promhttp.HandlerOpts{})
}

// AskHandler answers what terwayctl asks about pods (package podapi). It belongs on a socket that only root can open.
func (a *Agent) AskHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+podapi.PathBandwidth, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(a.bandwidth()); err != nil {
			a.Log.Warn("answer about pods' bandwidth", "error", err)
		}
	})
	return mux
}

// DebugHandler serves profiles. It belongs on a socket that only root can open.
func DebugHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	return mux
}

// ServeHTTP serves h on l until ctx is done.
func ServeHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // Close's error says no more than that the listener is closed
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
