// Package kubeflags is how commands of terwayctl say which cluster they talk to, as kubectl does.
// It finds the cluster and asks it nothing.
package kubeflags

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"terway.dev/terway/internal/cli/program"
)

// Flags are what the user says.
type Flags struct {
	// Timeout is --timeout. A command that has one for another purpose too sets it before Add.
	Timeout *program.Timeout
	// Terway is the namespace in which the cluster has Terway, if there is AddTerway.
	Terway string

	kubeconfig, context string
}

// Add defines the flags.
func (f *Flags) Add(set *pflag.FlagSet) {
	set.StringVar(&f.kubeconfig, "kubeconfig", "", "the cluster's kubeconfig (default: KUBECONFIG, ~/.kube/config, or the pod's own account)")
	set.StringVar(&f.context, "context", "", "the context of the kubeconfig (default: its current one)")
	if f.Timeout == nil {
		f.Timeout = new(program.Timeout)
		f.Timeout.Add(set, "the cluster", 10*time.Second)
	}
}

// FlagTerway is the flag of AddTerway.
const FlagTerway = "terway-namespace"

// AddTerway defines the flag for the namespace of Terway.
func (f *Flags) AddTerway(set *pflag.FlagSet) {
	set.StringVar(&f.Terway, FlagTerway, metav1.NamespaceSystem, "where the cluster has Terway")
}

// ErrNoCluster says that nothing names a cluster.
var ErrNoCluster = errors.New("no cluster is named: give --kubeconfig, or set KUBECONFIG")

// Config is how the cluster is reached. Requests end with the context, also those of libraries that
// take none.
func (f *Flags) Config(ctx context.Context) (*rest.Config, error) {
	cfg, err := f.Unbound()
	if err != nil {
		return nil, err
	}
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return bound{ctx, next} })
	return cfg, nil
}

// Unbound is Config for what has something to do when a context has ended.
func (f *Flags) Unbound() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: f.context}).ClientConfig()
	switch {
	case err == nil:
		cfg.Timeout = time.Duration(*f.Timeout)
		return cfg, nil
	case clientcmd.IsEmptyConfig(err):
		return nil, program.Usage(ErrNoCluster)
	case f.kubeconfig != "":
		return nil, program.Usage(fmt.Errorf("--kubeconfig %s: %w", f.kubeconfig, err))
	}
	return nil, fmt.Errorf("read the kubeconfig: %w", err)
}

// bound ends requests when ctx ends: discovery has none of its own.
type bound struct {
	ctx  context.Context
	next http.RoundTripper
}

func (b bound) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	unbind := context.AfterFunc(b.ctx, cancel)
	end := func() {
		unbind()
		cancel()
	}
	answer, err := b.next.RoundTrip(r.WithContext(ctx))
	switch {
	case err != nil:
		end()
		return nil, err
	case answer.StatusCode != http.StatusSwitchingProtocols: // its body is a connection
		answer.Body = body{answer.Body, end}
	}
	return answer, nil
}

// body is read until it is closed.
type body struct {
	io.ReadCloser
	end func()
}

func (b body) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}
