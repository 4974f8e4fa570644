package policyhub

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/controller/certs"
)

func (s *Server) key() types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: Name}
}

// Host is the name in the hub's certificate, by which agents know a replica whatever its address is.
func Host(namespace string) string { return Name + "." + namespace + ".svc" }

func (s *Server) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := s.serving.Load(); c != nil {
		return c, nil
	}
	return nil, s.noCertificate()
}

func (s *Server) noCertificate() error {
	return fmt.Errorf("the policy hub has no certificate: the Secret %s, which the chart makes, has not been read", s.key())
}

// keepCertificate renews the certificate, and what agents trust. It reads both objects without a cache: they are two among the
// many of their kinds.
func (s *Server) keepCertificate(ctx context.Context) error {
	said := ""
	for {
		now := s.Clock.Now()
		pause, problem := s.Retry, ""
		r, err := s.renew(ctx, now)
		if r.Why != "" {
			s.Log.Info("the policy hub's certificates were renewed", "why", r.Why)
		}
		switch {
		case err == nil:
			s.serving.Store(r.Certificate)
			pause = max(min(s.Look, r.Due.Sub(now)), time.Second)
		case apierrors.IsConflict(err): // another replica was faster
		default:
			problem = err.Error()
		}
		if problem != said && problem != "" && ctx.Err() == nil {
			s.Log.Error("keep the policy hub's certificates", "error", problem)
		}
		said = problem
		if !s.sleep(ctx, pause) {
			return nil
		}
	}
}

func (s *Server) renew(ctx context.Context, now time.Time) (certs.Renewed, error) {
	var secret corev1.Secret
	if err := s.Live.Get(ctx, s.key(), &secret); err != nil {
		return certs.Renewed{}, fmt.Errorf("read Secret %s, which the chart makes: %w", s.key(), err)
	}
	r, err := certs.Server{Name: Name, Host: Host(s.Namespace)}.Renew(secret.Data, now, func(data map[string][]byte) error {
		secret.Data = data
		return s.Client.Update(ctx, &secret)
	}, func(bundle []byte) error { return s.trust(ctx, bundle) })
	if err != nil {
		return r, fmt.Errorf("renew Secret %s: %w", s.key(), err)
	}
	return r, nil
}

// trust writes the certificates to trust where agents read them. The Secret, with the keys, is for the controller alone.
func (s *Server) trust(ctx context.Context, bundle []byte) error {
	var m corev1.ConfigMap
	if err := s.Live.Get(ctx, s.key(), &m); err != nil {
		return fmt.Errorf("read ConfigMap %s, which the chart makes: %w", s.key(), err)
	}
	if m.Data[certs.Trust] == string(bundle) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"data": map[string]string{certs.Trust: string(bundle)}})
	if err != nil {
		return err
	}
	if err := s.Client.Patch(ctx, &m, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return fmt.Errorf("write the policy hub's certificates into ConfigMap %s: %w", s.key(), err)
	}
	return nil
}

// sleep is false if the context ends first.
func (s *Server) sleep(ctx context.Context, d time.Duration) bool {
	t := s.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return true
	case <-ctx.Done():
		return false
	}
}
