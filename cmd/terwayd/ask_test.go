package main

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"terway.dev/terway/internal/agent"
)

// What the agent answers is written, and why it does not is an error.
func TestAsk(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "run", "policy.sock")
	if err := ask(t.Context(), socket, "/x", nil); err == nil || !strings.Contains(err.Error(), "does not run, or runs without policies") {
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
	if err := ask(t.Context(), socket, "other", &out); err == nil || !strings.Contains(err.Error(), "want a path such as /policy/verdict") {
		t.Errorf("no path: %v", err)
	}
}
