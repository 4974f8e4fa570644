package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/agent/podapi"
	"terway.dev/terway/internal/agent/policyapi"
)

// An agent without policies answers about pods, and says why it does not about policies.
func TestAskWithoutPolicies(t *testing.T) {
	j, err := journal.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(agent.Options{Log: slog.New(slog.DiscardHandler), Now: time.Now, Journal: j})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "ask.sock")
	l, err := agent.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = agent.ServeHTTP(t.Context(), l, answers(a, nil)) }()
	var out bytes.Buffer
	if err := ask(t.Context(), socket, podapi.PathBandwidth, &out); err != nil {
		t.Fatal(err)
	}
	if b, err := podapi.ReadBandwidth(&out); err != nil || b.Uptime <= 0 || len(b.Pods) != 0 {
		t.Errorf("%+v, %v", b, err)
	}
	if err := ask(t.Context(), socket, policyapi.PathCounters, &out); err == nil || !strings.Contains(err.Error(), "503 Service Unavailable: the agent of this node runs without policies") {
		t.Error(err)
	}
}

// What the agent answers is written, and why it does not is an error.
func TestAsk(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "run", "ask.sock")
	if err := ask(t.Context(), socket, "/x", nil); err == nil || !strings.Contains(err.Error(), "does not run") {
		t.Errorf("no agent: %v", err)
	}
	l, err := agent.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = agent.ServeHTTP(t.Context(), l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/policy/verdict" {
				http.Error(w, "no such page", http.StatusNotFound)
				return
			}
			fmt.Fprint(w, r.URL.Query().Get("pod"))
		}))
	}()
	var out bytes.Buffer
	if err := ask(t.Context(), socket, "/policy/verdict?pod=shop/web", &out); err != nil || out.String() != "shop/web" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := ask(t.Context(), socket, "/other", &out); err == nil || err.Error() != "404 Not Found: no such page" {
		t.Errorf("another page: %v", err)
	}
	if err := ask(t.Context(), socket, "other", &out); err == nil || !strings.Contains(err.Error(), "want a path such as /pods/bandwidth") {
		t.Errorf("no path: %v", err)
	}
}
