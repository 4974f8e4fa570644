package alibaba

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/aliyun/credentials-go/credentials/providers"
)

// ChainCredentials searches for a credential in the places that Alibaba Cloud's own tools use,
// in the same order: the environment, RRSA, the profiles of the aliyun command line and of the
// SDKs, the instance's RAM role, a credentials URI. Each call searches until one place has a
// credential. From then on this place is used.
func ChainCredentials() CredentialSource { return &chainSource{places: places()} }

// place is a place that may have a credential.
type place struct {
	name string
	// missing returns why the place cannot have a credential; empty: try it.
	missing func() string
	// failed returns why the place has no credential, where the SDK's own message may contain a
	// secret or is not helpful; nil: use the SDK's message.
	failed func() string
	open   func() (providers.CredentialsProvider, error)
}

func places() []place {
	unset := func(names ...string) func() string {
		return func() string {
			var missing []string
			for _, n := range names {
				if os.Getenv(n) == "" {
					missing = append(missing, n)
				}
			}
			if len(missing) == 0 {
				return ""
			}
			return strings.Join(missing, " and ") + " not set"
		}
	}
	file := func(variable, path, off string) func() string {
		return func() string {
			if off != "" && strings.EqualFold(os.Getenv(off), "true") {
				return "switched off by " + off
			}
			if file := fileOf(variable, path); !exists(file) {
				return "no file " + file
			}
			return ""
		}
	}
	return []place{
		{
			name:    "environment",
			missing: unset("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
			open: func() (providers.CredentialsProvider, error) {
				return providers.NewEnvironmentVariableCredentialsProviderBuilder().Build()
			},
		},
		{
			name: "RRSA",
			missing: func() string {
				token := "ALIBABA_CLOUD_OIDC_TOKEN_FILE"
				if os.Getenv("ALIBABA_CLOUD_OIDC_TOKEN") != "" {
					token = "ALIBABA_CLOUD_OIDC_TOKEN"
				}
				return unset(token, "ALIBABA_CLOUD_OIDC_PROVIDER_ARN", "ALIBABA_CLOUD_ROLE_ARN")()
			},
			open: func() (providers.CredentialsProvider, error) {
				return providers.NewOIDCCredentialsProviderBuilder().Build()
			},
		},
		{
			name:    "aliyun profile",
			missing: file("ALIBABA_CLOUD_CONFIG_FILE", ".aliyun/config.json", "ALIBABA_CLOUD_CLI_PROFILE_DISABLED"),
			// The SDK quotes the whole file if it cannot parse it.
			failed: func() string {
				return fmt.Sprintf("%s gives none: aliyun configure list shows its profiles", fileOf("ALIBABA_CLOUD_CONFIG_FILE", ".aliyun/config.json"))
			},
			open: func() (providers.CredentialsProvider, error) {
				return providers.NewCLIProfileCredentialsProviderBuilder().Build()
			},
		},
		{
			name:    "credentials file",
			missing: file("ALIBABA_CLOUD_CREDENTIALS_FILE", ".alibabacloud/credentials", ""),
			failed: func() string {
				return fmt.Sprintf("%s gives none: look at its section %q", fileOf("ALIBABA_CLOUD_CREDENTIALS_FILE", ".alibabacloud/credentials"), profileName())
			},
			open: func() (providers.CredentialsProvider, error) {
				return providers.NewProfileCredentialsProviderBuilder().Build()
			},
		},
		{
			name: "instance's RAM role",
			missing: func() string {
				if strings.EqualFold(os.Getenv("ALIBABA_CLOUD_ECS_METADATA_DISABLED"), "true") {
					return "switched off by ALIBABA_CLOUD_ECS_METADATA_DISABLED"
				}
				return ""
			},
			open: func() (providers.CredentialsProvider, error) {
				return providers.NewECSRAMRoleCredentialsProviderBuilder().Build()
			},
		},
		{
			name:    "credentials URI",
			missing: unset("ALIBABA_CLOUD_CREDENTIALS_URI"),
			failed:  func() string { return "ALIBABA_CLOUD_CREDENTIALS_URI gives none" },
			open: func() (providers.CredentialsProvider, error) {
				return providers.NewURLCredentialsProviderBuilder().Build()
			},
		},
	}
}

func fileOf(variable, path string) string {
	if named := os.Getenv(variable); named != "" {
		return named
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "~/" + path
	}
	return filepath.Join(home, path)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func profileName() string {
	if name := os.Getenv("ALIBABA_CLOUD_PROFILE"); name != "" {
		return name
	}
	return "default"
}

type chainSource struct {
	places []place

	mu  sync.Mutex
	now *chainLook // nil: no search is running

	// from is the place that had a credential, and provider is the SDK's source for it. Only
	// the running search uses them.
	from     *place
	provider providers.CredentialsProvider
}

// chainLook is one search for a credential, shared by all concurrent callers.
type chainLook struct {
	done chan struct{}
	cred Credential
	err  error
	// at is the place that is being tried.
	at atomic.Pointer[place]
}

// Format hides the secrets.
func (s *chainSource) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprint(f, "credential chain") // a Formatter cannot return an error
}

// Get returns the credential of the place that had one before, or of the first place that has
// one. The error has a line for each place. If ctx ends, the error names the place that has not
// answered: the SDK's sources take no context, so the search continues in the background.
func (s *chainSource) Get(ctx context.Context) (Credential, error) {
	s.mu.Lock()
	l := s.now
	if l == nil {
		l = &chainLook{done: make(chan struct{})}
		s.now = l
		go func() {
			l.cred, l.err = s.find(l)
			s.mu.Lock()
			s.now = nil
			s.mu.Unlock()
			close(l.done)
		}()
	}
	s.mu.Unlock()
	select {
	case <-l.done:
		return l.cred, l.err
	case <-ctx.Done():
		at := "a place"
		if p := l.at.Load(); p != nil {
			at = "the " + p.name
		}
		return Credential{}, fmt.Errorf("look for a credential: %s has not answered: %w", at, context.Cause(ctx))
	}
}

func (s *chainSource) find(l *chainLook) (Credential, error) {
	if s.from != nil {
		l.at.Store(s.from)
		c, err := s.provider.GetCredentials()
		if err != nil || c == nil {
			return Credential{}, fmt.Errorf("renew the credential of the %s: %s", s.from.name, s.from.why(err))
		}
		return credentialOf(c), nil
	}
	var said strings.Builder
	for i := range s.places {
		p := &s.places[i]
		l.at.Store(p)
		c, why := s.look(p)
		if c != nil {
			return credentialOf(c), nil
		}
		fmt.Fprintf(&said, "\n  %-20s %s", p.name, why)
	}
	return Credential{}, errors.New("set ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET, or run aliyun configure; looked at:" + said.String())
}

// look tries one place, and returns why it has no credential.
func (s *chainSource) look(p *place) (*providers.Credentials, string) {
	if why := p.missing(); why != "" {
		return nil, why
	}
	provider, err := p.open()
	if err == nil {
		var c *providers.Credentials
		if c, err = provider.GetCredentials(); err == nil && c != nil {
			s.from, s.provider = p, provider
			return c, ""
		}
	}
	return nil, p.why(err)
}

func (p *place) why(err error) string {
	if p.failed != nil {
		return p.failed()
	}
	return oneLine(err)
}

func credentialOf(c *providers.Credentials) Credential {
	return Credential{AccessKeyID: c.AccessKeyId, AccessKeySecret: c.AccessKeySecret, SecurityToken: c.SecurityToken}
}

// oneLine returns an error of another library as one line that is safe for a terminal.
func oneLine(err error) string {
	if err == nil {
		return "nothing there"
	}
	text := strings.Join(strings.Fields(err.Error()), " ")
	const most = 160
	if len(text) > most {
		text = text[:most] + "…"
	}
	return text
}

func (s *chainSource) Forget(Credential) {}
