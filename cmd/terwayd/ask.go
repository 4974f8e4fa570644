package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/agent/podapi"
)

// askCommand asks the agent of this node: terwayctl runs it in the agent's pod, so that whoever may run commands there may ask, and nobody else.
func askCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "ask PATH",
		Short: "Ask the agent of this node (for terwayctl)",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ask(cmd.Context(), f.askSocket, args[0], cmd.OutOrStdout())
		},
	}
}

// answers is what the agent answers.
func answers(a *agent.Agent, p *policies) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/pods/", a.AskHandler())
	if p != nil {
		mux.Handle("/policy/", p.Handler())
	} else {
		mux.HandleFunc("/policy/", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "the agent of this node runs without policies (policy.enabled of the chart)", http.StatusServiceUnavailable)
		})
	}
	return mux
}

// ask writes the answer of the agent behind a socket.
func ask(ctx context.Context, socket, path string, out io.Writer) error {
	if !strings.HasPrefix(path, "/") {
		return fmt.Errorf("%.80q: want a path such as %s", path, podapi.PathBandwidth)
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://terwayd"+path, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("the agent of this node does not run: %w", err)
	case err != nil:
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
		return fmt.Errorf("%s: %s", answer.Status, strings.TrimSpace(string(why)))
	}
	_, err = io.Copy(out, answer.Body)
	return err
}
