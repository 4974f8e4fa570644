package alibaba

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// Credential signs requests. It prints without its secrets, whatever the verb.
type Credential struct {
	AccessKeyID     string
	AccessKeySecret string `json:"-"`
	// SecurityToken and Expires are set for temporary credentials.
	SecurityToken string `json:"-"`
	Expires       time.Time
}

// Format implements fmt.Formatter.
func (c Credential) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "credential %s", c.AccessKeyID) // a Formatter has nowhere to report to
}

// LogValue implements slog.LogValuer.
func (c Credential) LogValue() slog.Value { return slog.StringValue("credential " + c.AccessKeyID) }

// CredentialSource gives the credential to sign with now.
type CredentialSource interface {
	Get(ctx context.Context) (Credential, error)
	// Forget says that the cloud refused this credential: get another one.
	Forget(Credential)
}

// StaticCredentials always gives the same access key.
func StaticCredentials(accessKeyID, accessKeySecret string) CredentialSource {
	return staticSource{Credential{AccessKeyID: accessKeyID, AccessKeySecret: accessKeySecret}}
}

type staticSource struct{ cred Credential }

// Format keeps the secret in when a Config is printed: fmt does not ask the
// unexported field for its own.
func (s staticSource) Format(f fmt.State, verb rune) { s.cred.Format(f, verb) }

func (s staticSource) Get(context.Context) (Credential, error) { return s.cred, nil }
func (s staticSource) Forget(Credential)                       {}

// FileCredentials reads an access key from two files, such as those of a
// mounted Secret. They are read for every request, so a changed Secret takes
// effect with no restart.
func FileCredentials(accessKeyIDFile, accessKeySecretFile string) CredentialSource {
	return fileSource{accessKeyIDFile, accessKeySecretFile}
}

type fileSource struct{ id, secret string }

func (s fileSource) Get(context.Context) (Credential, error) {
	id, err := readCredentialFile("access key id", s.id)
	if err != nil {
		return Credential{}, err
	}
	secret, err := readCredentialFile("access key secret", s.secret)
	if err != nil {
		return Credential{}, err
	}
	return Credential{AccessKeyID: id, AccessKeySecret: secret}, nil
}

func (s fileSource) Forget(Credential) {}

func readCredentialFile(what, path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the %s: %w", what, err)
	}
	v := strings.TrimSpace(string(b))
	if v == "" {
		return "", fmt.Errorf("read the %s: %s is empty", what, path)
	}
	return v, nil
}

// renewedSource keeps a temporary credential and fetches the next one in time.
type renewedSource struct {
	fetch func(context.Context) (Credential, error)
	clock Clock
	log   *slog.Logger

	mu      sync.Mutex // held while fetching: one fetch serves all who wait
	cred    Credential
	renewAt time.Time
}

// Format keeps the secrets in.
func (s *renewedSource) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprint(f, "temporary credential") // a Formatter has nowhere to report to
}

// renewMargin is how long before its end a credential is replaced; a short-lived
// one is replaced after four fifths of its life.
const renewMargin = 5 * time.Minute

func (s *renewedSource) Get(ctx context.Context) (Credential, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	if s.cred.AccessKeyID != "" && now.Before(s.renewAt) {
		return s.cred, nil
	}
	cred, err := s.fetch(ctx)
	if err == nil && !cred.Expires.After(now) {
		err = fmt.Errorf("the credential that was fetched expired at %s", cred.Expires.Format(time.RFC3339))
	}
	if err != nil {
		if s.cred.AccessKeyID != "" && now.Before(s.cred.Expires) {
			s.log.Warn("cloud credential could not be renewed, using the old one while it lasts", "expires", s.cred.Expires, "error", err)
			return s.cred, nil
		}
		return Credential{}, err
	}
	s.cred = cred
	s.renewAt = cred.Expires.Add(-min(renewMargin, cred.Expires.Sub(now)/5))
	return cred, nil
}

func (s *renewedSource) Forget(c Credential) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cred.AccessKeyID == c.AccessKeyID && s.cred.SecurityToken == c.SecurityToken {
		s.cred = Credential{}
	}
}
