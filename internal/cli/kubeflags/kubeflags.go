// Package kubeflags is how commands of terwayctl say which cluster they talk to, as kubectl does.
// It finds the cluster and asks it nothing.
package kubeflags

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Flags are what the user says.
type Flags struct {
	kubeconfig, context string
	timeout             time.Duration
}

// Add defines the flags.
func (f *Flags) Add(set *pflag.FlagSet) {
	set.StringVar(&f.kubeconfig, "kubeconfig", "", "the cluster's kubeconfig (default: KUBECONFIG, ~/.kube/config, or the pod's own account)")
	set.StringVar(&f.context, "context", "", "the context of the kubeconfig (default: its current one)")
	set.DurationVar(&f.timeout, "timeout", 10*time.Second, "how long the cluster may take to answer")
}

// Config is how the cluster is reached.
func (f *Flags) Config() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: f.context}).ClientConfig()
	switch {
	case err == nil:
		cfg.Timeout = f.timeout
		return cfg, nil
	case clientcmd.IsEmptyConfig(err):
		return nil, errors.New("no cluster is named: give --kubeconfig, or set KUBECONFIG")
	case f.kubeconfig != "":
		return nil, fmt.Errorf("--kubeconfig %s: %w", f.kubeconfig, err)
	}
	return nil, fmt.Errorf("read the kubeconfig: %w", err)
}
