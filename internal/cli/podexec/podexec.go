// Package podexec is how commands run programs in a cluster's pods, by pods/exec: the API server says
// who may. It must not know which programs.
package podexec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
)

// Runner runs programs in pods.
type Runner struct {
	cfg  *rest.Config
	rest *rest.RESTClient
}

// New returns the Runner of a cluster.
func New(cfg *rest.Config) (*Runner, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = 0 // a program may go on
	cfg.APIPath, cfg.GroupVersion, cfg.NegotiatedSerializer = "/api", &corev1.SchemeGroupVersion, scheme.Codecs.WithoutConversion()
	r, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("make a client for the cluster at %s: %w", cfg.Host, err)
	}
	return &Runner{cfg, r}, nil
}

// ExitError is a program that has failed.
type ExitError struct {
	// Said is the beginning of what it wrote to its standard error.
	Said string
}

func (e *ExitError) Error() string { return e.Said }

// Run runs a program in a container, and writes its standard output. It may go on until the context is done. An error is an
// *ExitError, the API server's, or the context's.
func (r *Runner) Run(ctx context.Context, namespace, pod, container string, command []string, out io.Writer) error {
	url := r.rest.Get().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").VersionedParams(&corev1.PodExecOptions{
		Container: container, Command: command, Stdout: true, Stderr: true,
	}, scheme.ParameterCodec).URL()
	// Kubernetes 1.29 knows SPDY alone, and proxies may know websockets alone.
	websocket, err := remotecommand.NewWebSocketExecutor(r.cfg, "GET", url.String())
	if err != nil {
		return err
	}
	spdy, err := remotecommand.NewSPDYExecutor(r.cfg, "POST", url)
	if err != nil {
		return err
	}
	run, err := remotecommand.NewFallbackExecutor(websocket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return err
	}
	why := &firstBytes{most: 4096}
	err = run.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: out, Stderr: why})
	var exit exec.CodeExitError
	switch {
	case err == nil || ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit):
		return &ExitError{strings.TrimSpace(Printable(why.String()))}
	}
	return err
}

// firstBytes keeps the beginning of what is written.
type firstBytes struct {
	text []byte
	most int
}

func (w *firstBytes) Write(b []byte) (int, error) {
	w.text = append(w.text, b[:min(len(b), w.most-len(w.text))]...)
	return len(b), nil
}

func (w *firstBytes) String() string { return string(w.text) }

// Printable is what of a node's text may go to a terminal.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r >= ' ' && r != 0x7f && (r < 0x80 || r >= 0xa0) {
			return r
		}
		return '\ufffd'
	}, s)
}
