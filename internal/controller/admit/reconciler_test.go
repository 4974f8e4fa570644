package admit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	admission "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"pgregory.net/rapid"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"terway.dev/terway/internal/controller/certs"
)

// host is the name by which the API server calls the webhook.
const host = Name + ".ns.svc"

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world has the two objects that the chart creates, replicas of the controller, and a clock.
type world struct {
	kube     client.WithWatch
	now      time.Time
	replicas []*Webhook
	// burn is how many writes succeed before the writer is killed; -1: all of them.
	burn int
}

var errKilled = errors.New("killed")

func newWorld(replicas int) *world {
	w := &world{now: start, burn: -1}
	spend := func() error {
		if w.burn == 0 {
			return errKilled
		}
		w.burn--
		return nil
	}
	w.kube = fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(w.secret(), w.configuration()).WithInterceptorFuncs(interceptor.Funcs{
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			if err := spend(); err != nil {
				return err
			}
			return c.Update(ctx, o, opts...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			if err := spend(); err != nil {
				return err
			}
			return c.Patch(ctx, o, p, opts...)
		},
	}).Build()
	for range replicas {
		w.replicas = append(w.replicas, w.replica())
	}
	return w
}

func (w *world) replica() *Webhook {
	r := New(Options{Namespace: "ns", Port: 1, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.now }})
	r.client = w.kube
	return r
}

// secret and configuration are as the chart creates them.
func (w *world) secret() *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: Name}}
}

func (w *world) configuration() *admissionv1.MutatingWebhookConfiguration {
	path := PathExclusiveENI
	return &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: Name}, Webhooks: []admissionv1.MutatingWebhook{{
		Name:         "exclusive-eni.network.terway.dev",
		ClientConfig: admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: "ns", Name: Name, Path: &path}},
	}}}
}

func (w *world) setBundle(b []byte) error {
	c := w.configuration()
	if err := w.kube.Get(context.Background(), client.ObjectKeyFromObject(c), c); err != nil {
		return err
	}
	c.Webhooks[0].ClientConfig.CABundle = b
	return w.kube.Update(context.Background(), c)
}

// call is a TLS handshake as the API server makes it with a replica.
func (w *world) call(r *Webhook) error { return w.handshake(r.certificate) }

// handshake is one with a server that takes its certificate from a function.
func (w *world) handshake(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) error {
	c := w.configuration()
	if err := w.kube.Get(context.Background(), client.ObjectKeyFromObject(c), c); err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.Webhooks[0].ClientConfig.CABundle)
	clock := func() time.Time { return w.now }
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: certificate, Time: clock})
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_ = c.(*tls.Conn).Handshake() // the other end says what is wrong
			c.Close()
		}
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: roots, ServerName: host, Time: clock})
	if err != nil {
		return err
	}
	return conn.Close()
}

func (w *world) reconcile(t failer, r *Webhook) ctrl.Result {
	res, err := r.Reconcile(context.Background(), ctrl.Request{})
	if err != nil {
		t.Fatalf("reconcile: %v", err)
	}
	return res
}

type failer interface{ Fatalf(string, ...any) }

// Replicas start, stop and are killed between any two writes, while certificates turn. At any time,
// a replica that is ready is trusted by the API server.
func TestTheAPIServerTrustsEveryReplica(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(3)
		seen := make([]time.Time, 3) // when each replica last looked
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			i := rapid.IntRange(0, 2).Draw(t, "replica")
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				w.burn = rapid.IntRange(0, 1).Draw(t, "writes until it is killed")
				_, err := w.replicas[i].Reconcile(context.Background(), ctrl.Request{})
				w.burn = -1
				if err != nil && !errors.Is(err, errKilled) {
					t.Fatalf("reconcile: %v", err)
				}
				w.replicas[i] = w.replica()
			case 1:
				// A replica without an API server for longer does not count.
				w.now = w.now.Add(time.Duration(rapid.Int64Range(0, int64(certs.TurnEvery/2)).Draw(t, "time")))
				for i := range seen {
					if w.now.Sub(seen[i]) >= certs.TurnEvery/2 {
						w.reconcile(t, w.replicas[i])
						seen[i] = w.now
					}
				}
			default:
				w.reconcile(t, w.replicas[i])
				seen[i] = w.now
			}
			for i, r := range w.replicas {
				if r.serving.Load() == nil {
					continue
				}
				if err := w.call(r); err != nil {
					t.Fatalf("replica %d: %v", i, err)
				}
			}
		}
	})
}

// A request that comes before a replica has read its certificate is answered when it has.
func TestARequestWaitsForTheCertificate(t *testing.T) {
	w := newWorld(2)
	w.reconcile(t, w.replicas[0]) // the API server trusts what is in the Secret
	asked, answered := make(chan struct{}), make(chan error)
	go func() {
		answered <- w.handshake(func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			close(asked)
			return w.replicas[1].certificate(hello)
		})
	}()
	<-asked
	w.reconcile(t, w.replicas[1])
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// Changes of the two objects by others are reverted.
func TestPutRight(t *testing.T) {
	ctx := t.Context()
	for name, harm := range map[string]func(w *world) error{
		"the Secret is emptied": func(w *world) error { return w.kube.Update(ctx, w.secret()) },
		"the Secret is recreated": func(w *world) error {
			return errors.Join(w.kube.Delete(ctx, w.secret()), w.kube.Create(ctx, w.secret()))
		},
		"caBundle is gone":    func(w *world) error { return w.setBundle(nil) },
		"caBundle is another": func(w *world) error { return w.setBundle([]byte("x")) },
		"the configuration is recreated": func(w *world) error {
			return errors.Join(w.kube.Delete(ctx, w.configuration()), w.kube.Create(ctx, w.configuration()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(2)
			for _, r := range w.replicas {
				w.reconcile(t, r)
			}
			if err := harm(w); err != nil {
				t.Fatal(err)
			}
			for _, r := range w.replicas {
				w.reconcile(t, r)
			}
			for _, r := range w.replicas {
				if err := w.call(r); err != nil {
					t.Error(err)
				}
			}
			c := w.configuration()
			if err := w.kube.Get(ctx, client.ObjectKeyFromObject(c), c); err != nil {
				t.Fatal(err)
			}
			if s := c.Webhooks[0].ClientConfig.Service; s == nil || *s.Path != PathExclusiveENI {
				t.Errorf("the rest of the configuration: %+v", c.Webhooks[0].ClientConfig)
			}
		})
	}
}

// Of replicas that start together one creates the certificates, and the others wait for it.
func TestOneReplicaIsFaster(t *testing.T) {
	w := newWorld(2)
	slow := w.replicas[1]
	slow.client = staleReader{w.kube, w.secret()} // its cache has not heard of the first one's write
	if err := w.kube.Get(t.Context(), slow.key(), slow.client.(staleReader).secret); err != nil {
		t.Fatal(err)
	}
	w.reconcile(t, w.replicas[0])
	if res := w.reconcile(t, slow); res.RequeueAfter == 0 || slow.serving.Load() != nil {
		t.Errorf("%+v, and it serves %v", res, slow.serving.Load() != nil)
	}
	if err := slow.Ready(nil); err == nil || !strings.Contains(err.Error(), "ns/terway-webhook") {
		t.Errorf("ready without a certificate: %v", err)
	}
	slow.client = w.kube
	w.reconcile(t, slow)
	for _, r := range w.replicas {
		if err := w.call(r); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(slow.serving.Load().Certificate[0], w.replicas[0].serving.Load().Certificate[0]) {
		t.Error("the replicas serve different certificates")
	}
}

type staleReader struct {
	client.Client
	secret *corev1.Secret
}

func (s staleReader) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	if out, ok := o.(*corev1.Secret); ok {
		s.secret.DeepCopyInto(out)
		return nil
	}
	return s.Client.Get(ctx, key, o, opts...)
}

func TestWithoutTheObjects(t *testing.T) {
	w := newWorld(1)
	r := w.replicas[0]
	if err := errors.Join(w.kube.Delete(t.Context(), w.secret()), w.kube.Delete(t.Context(), w.configuration())); err != nil {
		t.Fatal(err)
	}
	w.reconcile(t, r)
	if r.serving.Load() != nil {
		t.Error("it serves a certificate that is nowhere kept")
	}
	if err := w.kube.Create(t.Context(), w.secret()); err != nil {
		t.Fatal(err)
	}
	if w.reconcile(t, r); r.serving.Load() == nil {
		t.Error("it waits for the configuration, which may never come")
	}
}

// A running manager serves the API server over TLS with the certificate that the API server trusts,
// up to a pod and its patch; it is not ready before.
func TestServed(t *testing.T) {
	w := newWorld(1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	hook := New(Options{Namespace: "ns", Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	l.Close()
	// The manager's own client uses an API server that does not exist.
	mgr, err := ctrl.NewManager(&rest.Config{Host: "http://127.0.0.1:1"}, ctrl.Options{Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := hook.SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	hook.client = w.kube
	w.reconcile(t, hook)
	if err := hook.Ready(nil); err == nil {
		t.Error("ready before it listens")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	defer func() { cancel(); <-done }()
	for deadline := time.Now().Add(30 * time.Second); hook.Ready(nil) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %v", hook.Ready(nil))
		}
	}
	c := w.configuration()
	if err := w.kube.Get(ctx, client.ObjectKeyFromObject(c), c); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.Webhooks[0].ClientConfig.CABundle)
	https := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: host}}}
	defer https.CloseIdleConnections()
	body := `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","operation":"CREATE","object":` +
		strings.NewReplacer("VALUE", "true", "RESOURCES", "{}").Replace(asks) + `}}`
	res, err := https.Post("https://"+address+*c.Webhooks[0].ClientConfig.Service.Path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var out admission.AdmissionReview
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	if out.Response == nil || out.Response.UID != "u" || !out.Response.Allowed || !strings.Contains(string(out.Response.Patch), "aliyun/eni") {
		t.Errorf("answer %+v", out.Response)
	}
}
