package alibaba

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"k8s.io/utils/clock"

	"terway.dev/terway/internal/answers"
)

// Credential signs requests. Printing it with any verb omits the secrets.
type Credential struct {
	AccessKeyID     string
	AccessKeySecret string `json:"-"`
	// SecurityToken and Expires are set for temporary credentials.
	SecurityToken string `json:"-"`
	Expires       time.Time
}

// Format implements fmt.Formatter.
func (c Credential) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "credential %s", c.AccessKeyID) // a Formatter cannot return an error
}

// LogValue implements slog.LogValuer.
func (c Credential) LogValue() slog.Value { return slog.StringValue("credential " + c.AccessKeyID) }

// CredentialSource returns the current credential.
type CredentialSource interface {
	Get(ctx context.Context) (Credential, error)
	// Forget tells the source that the cloud refused this credential, so that Get fetches
	// another one.
	Forget(Credential)
}

// StaticCredentials always returns the same access key.
func StaticCredentials(accessKeyID, accessKeySecret string) CredentialSource {
	return staticSource{Credential{AccessKeyID: accessKeyID, AccessKeySecret: accessKeySecret}}
}

type staticSource struct{ cred Credential }

// Format hides the secret when a Config is printed: fmt does not call the Format of unexported
// fields.
func (s staticSource) Format(f fmt.State, verb rune) { s.cred.Format(f, verb) }

func (s staticSource) Get(context.Context) (Credential, error) { return s.cred, nil }
func (s staticSource) Forget(Credential)                       {}

// FileCredentials reads an access key from two files, such as those of a mounted Secret. It
// reads them for every request, so a changed Secret takes effect without a restart.
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

// renewedSource keeps a temporary credential. It fetches the next one in the background, before
// the current one expires.
type renewedSource struct {
	clock clock.Clock
	cred  *answers.Cache[struct{}, Credential]
}

// Format hides the secrets.
func (s *renewedSource) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprint(f, "temporary credential") // a Formatter cannot return an error
}

const (
	// renewMargin is how long before its expiry a credential is replaced. A short-lived one is
	// replaced after four fifths of its lifetime.
	renewMargin = 5 * time.Minute
	// renewRetry is the pause after a failed fetch.
	renewRetry = 5 * time.Second
)

func newRenewedSource(c clock.Clock, log *slog.Logger, fetch func(context.Context) (Credential, error)) *renewedSource {
	if c == nil {
		c = clock.RealClock{}
	}
	if log == nil {
		log = slog.Default()
	}
	s := &renewedSource{clock: c}
	s.cred = answers.New(answers.Options[struct{}, Credential]{
		Ask: func(ctx context.Context, keys []struct{}) (map[struct{}]Credential, error) {
			cred, err := fetch(ctx)
			if err == nil && !cred.Expires.After(c.Now()) {
				err = fmt.Errorf("the credential that was fetched expired at %s", cred.Expires.Format(time.RFC3339))
			}
			if err != nil {
				if old, ok := s.cred.Known(keys[0]); ok {
					log.Warn("cloud credential could not be renewed, using the old one while it lasts", "expires", old.Expires, "error", err)
				}
				return nil, err
			}
			return map[struct{}]Credential{keys[0]: cred}, nil
		},
		Times: func(c Credential, answered time.Time) (fresh, usable time.Time) {
			return c.Expires.Add(-min(renewMargin, c.Expires.Sub(answered)/5)), c.Expires
		},
		Retry: renewRetry, Now: c.Now,
	})
	return s
}

func (s *renewedSource) Get(ctx context.Context) (Credential, error) {
	return s.cred.Get(ctx, struct{}{})
}

func (s *renewedSource) Forget(c Credential) {
	s.cred.Drop(struct{}{}, func(known Credential) bool {
		return known.AccessKeyID == c.AccessKeyID && known.SecurityToken == c.SecurityToken
	})
}
