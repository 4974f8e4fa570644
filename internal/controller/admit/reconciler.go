package admit

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"terway.dev/terway/internal/controller/certs"
	"terway.dev/terway/internal/loadbalancer"
)

// Options configure a Webhook.
type Options struct {
	// Namespace of the Secret and the Service.
	Namespace string
	// Host is the address to listen on; empty means all.
	Host string
	Port int
	Log  *slog.Logger
	Now  func() time.Time
	// LoadBalancers are the cluster's settings of load balancers.
	LoadBalancers func() loadbalancer.Settings
}

// Webhook serves requests and renews its certificate.
type Webhook struct {
	Options
	client client.Client
	server webhook.Server
	// serving is nil until the Secret has been read; then has is closed.
	serving atomic.Pointer[tls.Certificate]
	has     chan struct{}
	first   sync.Once
}

// certificatePatience is how long a request waits for the certificate of a replica that has just started. It is less than
// the API server waits for an answer, timeoutSeconds in the chart.
const certificatePatience = 4 * time.Second

// lookEvery is how often the certificates are checked when nothing changes.
const lookEvery = 12 * time.Hour

// New makes a Webhook. Pass Cached to the manager's options, then call SetupWithManager.
func New(o Options) *Webhook {
	w := &Webhook{Options: o, has: make(chan struct{})}
	w.server = webhook.NewServer(webhook.Options{Host: o.Host, Port: o.Port, TLSOpts: []func(*tls.Config){func(c *tls.Config) {
		c.MinVersion, c.GetCertificate = tls.VersionTLS12, w.certificate
	}}})
	w.server.Register(PathExclusiveENI, &admission.Webhook{Handler: admission.HandlerFunc(HandleExclusiveENI)})
	w.server.Register(PathBandwidth, &admission.Webhook{Handler: admission.HandlerFunc(HandleBandwidth)})
	w.server.Register(PathLoadBalancers, &admission.Webhook{Handler: admission.HandlerFunc(w.handleLoadBalancers)})
	w.server.Register(PathGatesRequired, &admission.Webhook{Handler: admission.HandlerFunc(w.handleGatesRequired)})
	return w
}

// Cached returns the two objects that the Webhook may read.
func (w *Webhook) Cached() map[client.Object]cache.ByObject {
	name := fields.OneTermEqualSelector("metadata.name", Name)
	return map[client.Object]cache.ByObject{
		&corev1.Secret{}: {Namespaces: map[string]cache.Config{w.Namespace: {FieldSelector: name}}},
		&admissionv1.MutatingWebhookConfiguration{}: {Field: name},
	}
}

// SetupWithManager serves the webhook and renews the certificate, on all replicas.
func (w *Webhook) SetupWithManager(mgr ctrl.Manager) error {
	w.client = mgr.GetClient()
	if err := mgr.Add(w.server); err != nil {
		return fmt.Errorf("serve the admission webhook: %w", err)
	}
	if err := mgr.Add(watchServices{w}); err != nil {
		return err
	}
	everywhere := false
	secret := func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: w.key()}}
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("webhook").
		For(&corev1.Secret{}).
		Watches(&admissionv1.MutatingWebhookConfiguration{}, handler.EnqueueRequestsFromMapFunc(secret)).
		WithOptions(controller.Options{NeedLeaderElection: &everywhere}).
		Complete(w)
}

// watchServices starts the watch of Services on all replicas, so that the first request need not wait for it.
type watchServices struct{ *Webhook }

func (watchServices) NeedLeaderElection() bool { return false }

func (w watchServices) Start(ctx context.Context) error {
	if err := w.client.List(ctx, &corev1.ServiceList{}, client.Limit(1)); err != nil && ctx.Err() == nil {
		w.Log.Warn("read Services, whose pods get readiness gates", "error", err) // each request tries again
	}
	return nil
}

func (w *Webhook) key() types.NamespacedName {
	return types.NamespacedName{Namespace: w.Namespace, Name: Name}
}

// certs returns the server with the host name that the API server expects in the certificate.
func (w *Webhook) certs() certs.Server {
	return certs.Server{Name: Name, Host: Name + "." + w.Namespace + ".svc"}
}

// Ready reports whether the webhook can answer requests.
func (w *Webhook) Ready(r *http.Request) error {
	if w.serving.Load() == nil {
		return w.noCertificate()
	}
	return w.server.StartedChecker()(r)
}

// certificate waits for the first one: a replica that was killed and started again at once gets requests before it has read
// the Secret, and without an answer the API server creates the pod as it is.
func (w *Webhook) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	ctx, cancel := context.WithTimeout(hello.Context(), certificatePatience)
	defer cancel()
	select {
	case <-w.has:
		return w.serving.Load(), nil
	case <-ctx.Done():
		return nil, w.noCertificate()
	}
}

func (w *Webhook) noCertificate() error {
	return fmt.Errorf("the admission webhook has no certificate: the Secret %s, which the chart makes, has not been read", w.key())
}

// Reconcile renews the Secret, what the API server trusts, and what is served.
func (w *Webhook) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	var s corev1.Secret
	if err := w.client.Get(ctx, w.key(), &s); apierrors.IsNotFound(err) {
		w.Log.Error("the Secret with the admission webhook's certificate is gone: install the chart again (helm upgrade)", "secret", w.key().String())
		return ctrl.Result{}, nil
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("read Secret %s: %w", w.key(), err)
	}
	now := w.Now()
	r, err := w.certs().Renew(s.Data, now, func(data map[string][]byte) error {
		s.Data = data
		return w.client.Update(ctx, &s)
	}, func(bundle []byte) error { return w.trust(ctx, bundle) })
	if r.Why != "" {
		w.Log.Info("the admission webhook's certificates were renewed", "why", r.Why)
	}
	// The resource version detects that another replica was faster.
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: time.Second}, nil
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("renew Secret %s: %w", w.key(), err)
	}
	w.serving.Store(r.Certificate)
	w.first.Do(func() { close(w.has) })
	return ctrl.Result{RequeueAfter: min(lookEvery, r.Due.Sub(now))}, nil
}

// trust writes our certificates into the MutatingWebhookConfiguration.
func (w *Webhook) trust(ctx context.Context, bundle []byte) error {
	var c admissionv1.MutatingWebhookConfiguration
	if err := w.client.Get(ctx, types.NamespacedName{Name: Name}, &c); apierrors.IsNotFound(err) {
		return nil // its creation starts the next reconcile
	} else if err != nil {
		return fmt.Errorf("read MutatingWebhookConfiguration %s: %w", Name, err)
	}
	old := c.DeepCopy()
	changed := false
	for i := range c.Webhooks {
		if b := &c.Webhooks[i].ClientConfig.CABundle; !bytes.Equal(*b, bundle) {
			*b, changed = bundle, true
		}
	}
	if !changed {
		return nil
	}
	if err := w.client.Patch(ctx, &c, client.StrategicMergeFrom(old)); err != nil {
		return fmt.Errorf("write the certificates into MutatingWebhookConfiguration %s: %w", Name, err)
	}
	return nil
}
