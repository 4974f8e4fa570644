package hub_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/controller/certs"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/hub"
	"terway.dev/terway/internal/policy/wire"
	"terway.dev/terway/internal/testutil/testclock"
)

// jwt returns an unsigned token; the API server of the tests checks no signature.
func jwt(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

// An apiServer reviews tokens.
type apiServer map[string]authv1.TokenReviewStatus

func (a apiServer) Create(_ context.Context, r *authv1.TokenReview, _ metav1.CreateOptions) (*authv1.TokenReview, error) {
	if len(r.Spec.Audiences) != 1 || r.Spec.Audiences[0] != "terway-policy" {
		return nil, fmt.Errorf("audiences %v", r.Spec.Audiences)
	}
	s, ok := a[r.Spec.Token]
	if !ok {
		s.Error = "unknown"
	}
	return &authv1.TokenReview{Status: s}, nil
}

func TestWhoseATokenIs(t *testing.T) {
	const agents = "system:serviceaccount:kube-system:terway"
	bound := func(more ...string) map[string]authv1.ExtraValue {
		e := map[string]authv1.ExtraValue{"authentication.kubernetes.io/pod-name": {"terway-x"}, "authentication.kubernetes.io/pod-uid": {"1"}}
		for i := 0; i < len(more); i += 2 {
			e[more[i]] = authv1.ExtraValue{more[i+1]}
		}
		return e
	}
	good := func(user string, extra map[string]authv1.ExtraValue, audiences ...string) authv1.TokenReviewStatus {
		return authv1.TokenReviewStatus{Authenticated: true, User: authv1.UserInfo{Username: user, Extra: extra}, Audiences: audiences}
	}
	const onNode = "authentication.kubernetes.io/node-name"
	exp := jwt(`{"exp":2000000000}`)
	for _, tt := range []struct {
		what   string
		token  string
		review authv1.TokenReviewStatus
		node   string
		why    string
	}{
		{"the token says the node", exp, good(agents, bound(onNode, "node1"), hub.Audience), "node1", ""},
		{"the pod says the node", exp, good(agents, bound(), hub.Audience), "node2", ""},
		{"a pod that is gone", exp, good(agents, map[string]authv1.ExtraValue{"authentication.kubernetes.io/pod-name": {"terway-x"}, "authentication.kubernetes.io/pod-uid": {"2"}}, hub.Audience), "", "is not there"},
		{"no pod", exp, good(agents, map[string]authv1.ExtraValue{onNode: {"node1"}}, hub.Audience), "", "not bound to a pod"},
		{"another service account", exp, good("system:serviceaccount:shop:terway", bound(onNode, "node1"), hub.Audience), "", "want system:serviceaccount:kube-system:terway"},
		{"a person", exp, good("admin", nil, hub.Audience), "", "it is of admin"},
		{"another audience", exp, good(agents, bound(onNode, "node1"), "https://kubernetes.default.svc"), "", "want the audience terway-policy"},
		{"no audience", exp, good(agents, bound(onNode, "node1")), "", "want the audience"},
		{"nobody's", exp, authv1.TokenReviewStatus{Error: "signature"}, "", "signature"},
		{"without an end", jwt(`{}`), good(agents, bound(onNode, "node1"), hub.Audience), "", "when it expires"},
		{"no JWT", "abc", good(agents, bound(onNode, "node1"), hub.Audience), "", "no JWT"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			tokens := hub.Tokens{
				Reviews: apiServer{tt.token: tt.review}, ServiceAccount: policy.NamespacedName{Namespace: "kube-system", Name: "terway"},
				NodeOf: func(_ context.Context, pod policy.NamespacedName, uid string) (string, error) {
					if pod.String() == "kube-system/terway-x" && uid == "1" {
						return "node2", nil
					}
					return "", nil
				},
			}
			id, err := tokens.Review(context.Background(), tt.token)
			if tt.why == "" {
				if err != nil || id.Node != tt.node || id.Expires.Unix() != 2000000000 {
					t.Errorf("%+v, %v: want %s", id, err, tt.node)
				}
				return
			}
			var refused *hub.RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("%v: want a refusal with %q", err, tt.why)
			}
		})
	}
}

// call opens a stream to a hub without the agent's client.
func call(t *testing.T, addr string, creds credentials.TransportCredentials, header ...string) (wire.Hub_FollowClient, error) {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), header...))
	t.Cleanup(cancel)
	return wire.NewHubClient(conn).Follow(ctx)
}

func overTLS(versions ...uint16) credentials.TransportCredentials {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificates()[certs.Trust])
	c := &tls.Config{RootCAs: roots, ServerName: host}
	if len(versions) > 0 {
		c.MaxVersion = versions[0]
	}
	return credentials.NewTLS(c)
}

// hello sends Hello and returns the first answer.
func hello(s wire.Hub_FollowClient, err error) (*wire.ToNode, error) {
	if err != nil {
		return nil, err
	}
	_ = s.Send(&wire.FromNode{Message: &wire.FromNode_Hello{Hello: &wire.Hello{Format: 1}}}) // Recv returns the error
	return s.Recv()
}

func TestWhoMayFollow(t *testing.T) {
	t.Parallel()
	h := serve(t, newHub("a"))
	if err := h.Apply(compile.All(shop())); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what   string
		creds  credentials.TransportCredentials
		header []string
		code   codes.Code
	}{
		{"a node", overTLS(), []string{"authorization", "Bearer token of node1"}, codes.OK},
		{"no token", overTLS(), nil, codes.Unauthenticated},
		{"another token", overTLS(), []string{"authorization", "Bearer abc"}, codes.Unauthenticated},
		{"no bearer", overTLS(), []string{"authorization", "Basic token of node1"}, codes.Unauthenticated},
		{"two tokens", overTLS(), []string{"authorization", "Bearer token of node1", "authorization", "Bearer token of node2"}, codes.Unauthenticated},
		{"no TLS", insecure.NewCredentials(), []string{"authorization", "Bearer token of node1"}, codes.Unavailable},
		{"an old TLS", overTLS(tls.VersionTLS12), []string{"authorization", "Bearer token of node1"}, codes.Unavailable},
	} {
		t.Run(tt.what, func(t *testing.T) {
			_, err := hello(call(t, h.addr, tt.creds, tt.header...))
			if status.Code(err) != tt.code {
				t.Errorf("%v: want %s", err, tt.code)
			}
		})
	}
	if n := h.Stats().Refused; n != 4 {
		t.Errorf("%d streams were refused: want 4", n)
	}
	t.Run("the first message is no Hello", func(t *testing.T) {
		s, err := call(t, h.addr, overTLS(), "authorization", "Bearer token of node1")
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Send(&wire.FromNode{Message: &wire.FromNode_Ack{Ack: &wire.Ack{}}})
		if _, err := s.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: want InvalidArgument", err)
		}
	})
	t.Run("a hub that knows nothing", func(t *testing.T) {
		_, err := hello(call(t, serve(t, newHub("b")).addr, overTLS(), "authorization", "Bearer token of node1"))
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%v: want Unavailable: a node must not mistake it for a cluster without policies", err)
		}
	})
	t.Run("a node connects twice", func(t *testing.T) {
		first, err := call(t, h.addr, overTLS(), "authorization", "Bearer token of node1")
		if _, err := hello(first, err); err != nil {
			t.Fatal(err)
		}
		if _, err := hello(call(t, h.addr, overTLS(), "authorization", "Bearer token of node1")); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err = first.Recv(); err != nil {
				break
			}
		}
		if status.Code(err) != codes.Aborted {
			t.Errorf("the first stream ends with %v: want Aborted", err)
		}
	})
}

// A stream ends when its token expires, unless the node has sent a newer token for the same
// node.
func TestATokenExpires(t *testing.T) {
	t.Parallel()
	now := testclock.New(time.Now())
	var mu sync.Mutex
	expires, reviews := now.Now().Add(time.Hour), 0
	h := hub.New(hub.Config{
		Name: "a", Budget: compile.DefaultBudget, Log: slog.New(slog.DiscardHandler), Clock: now.FakeClock,
		Authenticator: byName{func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			reviews++
			return expires
		}},
	})
	if err := h.Apply(compile.All(shop())); err != nil {
		t.Fatal(err)
	}
	r := serve(t, h)
	follow := func() wire.Hub_FollowClient {
		s, err := call(t, r.addr, overTLS(), "authorization", "Bearer token of node1")
		if _, err := hello(s, err); err != nil {
			t.Fatal(err)
		}
		return s
	}
	ends := func(s wire.Hub_FollowClient) error {
		for {
			if _, err := s.Recv(); err != nil {
				return err
			}
		}
	}
	token := func(s wire.Hub_FollowClient, token string) {
		t.Helper()
		if err := s.Send(&wire.FromNode{Message: &wire.FromNode_Token{Token: &wire.Token{Token: token}}}); err != nil {
			t.Fatal(err)
		}
	}
	s := follow()
	token(s, "token of node2")
	if err := ends(s); status.Code(err) != codes.Unauthenticated {
		t.Errorf("with a token of another node the stream ends with %v: want Unauthenticated", err)
	}
	s = follow()
	token(s, "no token")
	if err := ends(s); status.Code(err) != codes.Unauthenticated {
		t.Errorf("with no token the stream ends with %v: want Unauthenticated", err)
	}
	s = follow()
	mu.Lock()
	before := reviews
	expires = expires.Add(time.Hour)
	mu.Unlock()
	token(s, "token of node1")
	eventually(t, "the newer token", func() error {
		mu.Lock()
		defer mu.Unlock()
		if reviews == before {
			return errors.New("it has not been reviewed")
		}
		return nil
	})
	now.Step(90 * time.Minute)
	if err := h.Apply(compile.Delta{Namespaces: map[string]policy.Labels{"late": {}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Errorf("after the first token's time: %v", err)
	}
	now.Step(time.Hour)
	if err := ends(s); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "expired") {
		t.Errorf("after the newer token's time the stream ends with %v: want Unauthenticated", err)
	}
}
