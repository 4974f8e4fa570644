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

// Audience is that of agents' tokens. A token for the API server is none for the hub, and the other
// way round.
const Audience = "terway-policy"

// What the API server says of a token that is bound to a pod (k8s.io/apiserver,
// pkg/authentication/serviceaccount). The node's name is there from Kubernetes 1.30 on.
const (
	extraPod    = "authentication.kubernetes.io/pod-name"
	extraPodUID = "authentication.kubernetes.io/pod-uid"
	extraNode   = "authentication.kubernetes.io/node-name"
)

// An Identity is what a token says of who has it.
type Identity struct {
	Node string
	// Expires is when the token is good no more.
	Expires time.Time
}

// An Authenticator says whose a token is. A RefusedError: nobody's who may follow.
type Authenticator interface {
	Review(ctx context.Context, token string) (Identity, error)
}

// A RefusedError says why a token is not good.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return "the token is refused: " + e.Why }

func refused(format string, args ...any) error { return &RefusedError{fmt.Sprintf(format, args...)} }

// Tokens is the Authenticator that asks the API server.
type Tokens struct {
	// Reviews creates a TokenReview; client-go's TokenReviewInterface does.
	Reviews interface {
		Create(ctx context.Context, r *authv1.TokenReview, o metav1.CreateOptions) (*authv1.TokenReview, error)
	}
	// ServiceAccount is the agents'.
	ServiceAccount policy.NamespacedName
	// NodeOf is the node of a pod, "" if there is no such pod, or one with another UID. It is asked where
	// the token does not say it.
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
	// An API server that knows no audiences says none.
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

// expiry is when a token expires. The API server has verified it.
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
