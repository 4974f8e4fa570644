package hub

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/policy"
)

// Audience is the audience of the agents' tokens. The hub rejects tokens for the API server,
// and the API server rejects these.
const Audience = "terway-policy"

// Keys in the API server's answer for a token that is bound to a pod (k8s.io/apiserver,
// pkg/authentication/serviceaccount). The node's name is there since Kubernetes 1.30.
const (
	extraPod    = "authentication.kubernetes.io/pod-name"
	extraPodUID = "authentication.kubernetes.io/pod-uid"
	extraNode   = "authentication.kubernetes.io/node-name"
)

// An Identity is the result of a token review.
type Identity struct {
	Node string
	// Expires is when the token expires.
	Expires time.Time
}

// An Authenticator reviews tokens. It returns a RefusedError for a token that may not connect.
type Authenticator interface {
	Review(ctx context.Context, token string) (Identity, error)
}

// A RefusedError says why a token is not valid.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return "the token is refused: " + e.Why }

func refused(format string, args ...any) error { return &RefusedError{fmt.Sprintf(format, args...)} }

// Tokens is the Authenticator that uses the API server.
type Tokens struct {
	// Reviews creates a TokenReview. client-go's TokenReviewInterface implements it.
	Reviews interface {
		Create(ctx context.Context, r *authv1.TokenReview, o metav1.CreateOptions) (*authv1.TokenReview, error)
	}
	// ServiceAccount is the service account of the agents.
	ServiceAccount policy.NamespacedName
	// NodeOf returns the node of a pod, or "" if there is no pod with this UID. It is called if
	// the token does not have the node.
	NodeOf func(ctx context.Context, pod policy.NamespacedName, uid string) (string, error)
}

// Review implements Authenticator.
func (t Tokens) Review(ctx context.Context, token string) (Identity, error) {
	r, err := t.Reviews.Create(ctx, &authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: token, Audiences: []string{Audience}}}, metav1.CreateOptions{})
	if err != nil {
		return Identity{}, err
	}
	s := r.Status
	if !s.Authenticated {
		return Identity{}, refused("the API server does not know it for audience %s: %s", Audience, s.Error)
	}
	// An API server that does not support audiences returns none.
	if !slices.Contains(s.Audiences, Audience) {
		return Identity{}, refused("it is for %q: want the audience %s", s.Audiences, Audience)
	}
	if want := "system:serviceaccount:" + t.ServiceAccount.Namespace + ":" + t.ServiceAccount.Name; s.User.Username != want {
		return Identity{}, refused("it is of %s: want %s", s.User.Username, want)
	}
	one := func(key string) string {
		if v := s.User.Extra[key]; len(v) == 1 {
			return v[0]
		}
		return ""
	}
	pod, uid, node := one(extraPod), one(extraPodUID), one(extraNode)
	if pod == "" || uid == "" {
		return Identity{}, refused("it is not bound to a pod")
	}
	if node == "" {
		name := policy.NamespacedName{Namespace: t.ServiceAccount.Namespace, Name: pod}
		if node, err = t.NodeOf(ctx, name, uid); err != nil {
			return Identity{}, err
		}
		if node == "" {
			return Identity{}, refused("its pod %s with UID %s is not there, or on no node", name, uid)
		}
	}
	expires, err := expiry(token)
	return Identity{node, expires}, err
}

// expiry returns when a token expires. The API server has verified the token.
func expiry(token string) (time.Time, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, refused("it is no JWT: it has %d parts, want 3", len(parts))
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Exp int64 `json:"exp"`
	}
	if err == nil {
		err = json.Unmarshal(body, &claims)
	}
	if err != nil || claims.Exp <= 0 {
		return time.Time{}, refused("it does not say when it expires")
	}
	return time.Unix(claims.Exp, 0), nil
}
