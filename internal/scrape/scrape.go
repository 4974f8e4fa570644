// Package scrape serves metrics to those who may read them, on an address that others reach too: by TLS, with a
// bearer token that Kubernetes knows (TokenReview) and whose user it allows to get the path
// (SubjectAccessReview), for example by the ClusterRole terway-metrics.
//
// It never decides by itself who may read, and remembers an answer of the API server for a minute at most.
// The certificate is the process's own: a scraper cannot check it, and the token is what counts.
package scrape

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/flowcontrol"
)

// How long an answer counts: a token that was refused may be allowed soon, by a new binding.
const (
	allowedFor = time.Minute
	refusedFor = 10 * time.Second
)

// The most questions about unknown tokens a second, and at once: anybody who reaches the port can make them up.
const (
	questionsPerSecond = 5
	questionsAtOnce    = 10
)

// maxAnswers limits the memory; more tokens than scrapers have are made up.
const maxAnswers = 1000

// timeout is how long the API server may take for one question.
const timeout = 10 * time.Second

// A Guard asks the API server who may read.
type Guard struct {
	client kubernetes.Interface
	log    *slog.Logger
	now    func() time.Time
	limit  interface{ TryAccept() bool }

	mu      sync.Mutex
	answers map[[sha256.Size]byte]answer
}

type answer struct {
	status int // http.StatusOK, Unauthorized or Forbidden
	user   string
	until  time.Time
}

// New returns a guard that asks the API server of cfg.
func New(cfg *rest.Config, log *slog.Logger) (*Guard, error) {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client of reviews: %w", err)
	}
	return newGuard(client, log, time.Now), nil
}

func newGuard(client kubernetes.Interface, log *slog.Logger, now func() time.Time) *Guard {
	return &Guard{
		client: client, log: log, now: now, limit: flowcontrol.NewTokenBucketRateLimiter(questionsPerSecond, questionsAtOnce),
		answers: map[[sha256.Size]byte]answer{},
	}
}

// Handler returns next for those who may get the path.
func (g *Guard) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") || token == "" {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "want a bearer token of a user who may get "+r.URL.Path, http.StatusUnauthorized)
			return
		}
		key := sha256.Sum256([]byte(r.URL.Path + " " + token))
		a, known := g.known(key)
		if !known {
			if !g.limit.TryAccept() {
				http.Error(w, "too many requests with unknown tokens: try again", http.StatusTooManyRequests)
				return
			}
			var err error
			if a, err = g.ask(r.Context(), token, r.URL.Path); err != nil {
				g.log.Warn("who may read metrics", "error", err)
				http.Error(w, "the API server does not say whether you may: try again", http.StatusServiceUnavailable)
				return
			}
			g.remember(key, a)
		}
		switch a.status {
		case http.StatusOK:
			next.ServeHTTP(w, r)
		case http.StatusForbidden:
			http.Error(w, fmt.Sprintf("%s may not get %s: bind the ClusterRole terway-metrics", a.user, r.URL.Path), a.status)
		default:
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "the token is not valid", a.status)
		}
	})
}

func (g *Guard) known(key [sha256.Size]byte) (answer, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a, ok := g.answers[key]
	return a, ok && g.now().Before(a.until)
}

func (g *Guard) remember(key [sha256.Size]byte, a answer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.answers) >= maxAnswers {
		clear(g.answers)
	}
	a.until = g.now().Add(refusedFor)
	if a.status == http.StatusOK {
		a.until = g.now().Add(allowedFor)
	}
	g.answers[key] = a
}

func (g *Guard) ask(ctx context.Context, token, path string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	who, err := g.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token},
	}, metav1.CreateOptions{})
	if err != nil {
		return answer{}, fmt.Errorf("TokenReview: %w", err)
	}
	if !who.Status.Authenticated {
		return answer{status: http.StatusUnauthorized}, nil
	}
	user := who.Status.User
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range user.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	may, err := g.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: path, Verb: "get"},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return answer{}, fmt.Errorf("SubjectAccessReview of %s: %w", user.Username, err)
	}
	if !may.Status.Allowed {
		return answer{status: http.StatusForbidden, user: user.Username}, nil
	}
	return answer{status: http.StatusOK, user: user.Username}, nil
}

// Listen returns a listener that speaks TLS, with a certificate of its own.
func Listen(address string) (net.Listener, error) {
	certificate, key, err := cert.GenerateSelfSignedCertKey("terway-metrics", nil, nil)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return tls.Listen("tcp", address, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
}

// Local says whether only the node itself reaches an address, host:port.
func Local(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
