package alibaba

import (
	"context"
	"fmt"

	"github.com/aliyun/credentials-go/credentials"
)

// ChainCredentials looks for a credential where Alibaba Cloud's own tools do: the
// environment (ALIBABA_CLOUD_ACCESS_KEY_ID, _SECRET and _SECURITY_TOKEN), RRSA, the
// profiles of the aliyun command line, the instance's RAM role.
func ChainCredentials() (CredentialSource, error) {
	chain, err := credentials.NewCredential(nil)
	if err != nil {
		return nil, fmt.Errorf("find a credential: %w", err)
	}
	return chainSource{chain}, nil
}

type chainSource struct{ chain credentials.Credential }

// Format keeps the secrets in.
func (s chainSource) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprint(f, "credential chain") // a Formatter has nowhere to report to
}

func (s chainSource) Get(context.Context) (Credential, error) {
	c, err := s.chain.GetCredential()
	if err != nil {
		return Credential{}, fmt.Errorf("no credential in the environment (ALIBABA_CLOUD_ACCESS_KEY_ID, ALIBABA_CLOUD_ACCESS_KEY_SECRET), the aliyun profiles or the instance's RAM role: %w", err)
	}
	var out Credential
	for _, p := range []struct {
		to   *string
		from *string
	}{{&out.AccessKeyID, c.AccessKeyId}, {&out.AccessKeySecret, c.AccessKeySecret}, {&out.SecurityToken, c.SecurityToken}} {
		if p.from != nil {
			*p.to = *p.from
		}
	}
	return out, nil
}

func (s chainSource) Forget(Credential) {}
