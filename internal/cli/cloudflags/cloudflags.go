// Package cloudflags is how commands of terwayctl say which cloud they talk to:
// flags for region and endpoint, the access key from the environment. It makes the
// client and calls nothing.
package cloudflags

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"terway.dev/terway/internal/cloud/alibaba"
)

// The environment that Alibaba Cloud's own tools read too.
const (
	EnvAccessKeyID     = "ALIBABA_CLOUD_ACCESS_KEY_ID"
	EnvAccessKeySecret = "ALIBABA_CLOUD_ACCESS_KEY_SECRET"
)

// Flags are what the user says.
type Flags struct {
	Region, Endpoint string
}

// Add defines the flags.
func (f *Flags) Add(set *pflag.FlagSet) {
	set.StringVar(&f.Region, "region", "", "the cloud `region`, for example cn-hangzhou")
	set.StringVar(&f.Endpoint, "endpoint", "", "where the cloud's API answers, host:port or a `URL` (default: the region's)")
}

// Client makes a client; getenv reads the environment. All that is missing is named
// at once.
func (f *Flags) Client(getenv func(string) string) (*alibaba.Client, error) {
	var wrong []error
	if f.Region == "" {
		wrong = append(wrong, errors.New("--region is missing: say which region, for example cn-hangzhou"))
	}
	id, secret := getenv(EnvAccessKeyID), getenv(EnvAccessKeySecret)
	for name, value := range map[string]string{EnvAccessKeyID: id, EnvAccessKeySecret: secret} {
		if value == "" {
			wrong = append(wrong, fmt.Errorf("the environment variable %s is not set: the call must be signed with an access key", name))
		}
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}
	return alibaba.New(alibaba.Config{Region: f.Region, ECSEndpoint: f.Endpoint, VPCEndpoint: f.Endpoint,
		Credentials: alibaba.StaticCredentials(id, secret)})
}
