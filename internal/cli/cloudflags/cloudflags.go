// Package cloudflags has the flags and environment variables by which commands of terwayctl
// choose the cloud: region, endpoint, and the variables of Alibaba Cloud's own tools. It makes
// the client and calls nothing.
package cloudflags

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"

	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/cloud/alibaba"
)

// Flags are the user's choices.
type Flags struct {
	// Timeout is --timeout.
	Timeout program.Timeout

	region, endpoint, network string
	noPlan                    bool
}

// patience is the default of --timeout: what fails at first, as a throttled call does, has time to
// be repeated.
const patience = time.Minute

// Add defines the flags of commands that may take a plan.
func (f *Flags) Add(set *pflag.FlagSet) {
	f.add(set, "region (default: the plan's if there is one, then $ALIBABA_CLOUD_REGION_ID)")
}

// AddWithoutPlan defines the flags of commands that take no plan.
func (f *Flags) AddWithoutPlan(set *pflag.FlagSet) {
	f.noPlan = true
	f.add(set, "region (default: $ALIBABA_CLOUD_REGION_ID)")
}

// AddWithCluster defines the flags of commands that find the region by the cluster's nodes.
func (f *Flags) AddWithCluster(set *pflag.FlagSet) {
	f.noPlan = true
	f.add(set, "region (default: that of the cluster's nodes, then $ALIBABA_CLOUD_REGION_ID)")
}

func (f *Flags) add(set *pflag.FlagSet, region string) {
	set.StringVar(&f.region, "region", "", region)
	set.StringVar(&f.endpoint, "endpoint", "", "one endpoint for ECS, VPC, SLB and NLB, host:port or URL (default: $ECS_ENDPOINT, $VPC_ENDPOINT, $SLB_ENDPOINT and $NLB_ENDPOINT, then the region's)")
	set.StringVar(&f.network, "endpoint-network", "public", "which of the region's endpoints: public, or vpc from inside a VPC")
	f.Timeout.Add(set, "the cloud", patience)
}

// Connect makes a client for a region: the plan's region if there is a plan, which the flag
// must not contradict. say gets a line each time a call takes long.
func (f *Flags) Connect(planned string, say func(line string)) (client *alibaba.Client, region string, err error) {
	return f.ConnectAs(alibaba.ChainCredentials(), planned, say)
}

// ConnectAs is Connect with a credential.
func (f *Flags) ConnectAs(as alibaba.CredentialSource, planned string, say func(line string)) (client *alibaba.Client, region string, err error) {
	switch region = f.region; {
	case planned != "" && region != "" && region != planned:
		return nil, "", program.Usagef("--region %s: the plan says region %s", region, planned)
	case planned != "":
		region = planned
	case region == "":
		region = os.Getenv("ALIBABA_CLOUD_REGION_ID")
	}
	switch {
	case region == "" && f.noPlan:
		return nil, "", program.Usagef("no region: give --region, for example cn-hangzhou")
	case region == "":
		return nil, "", program.Usagef("no region: give --region, for example cn-hangzhou, or a plan's file in place of its name")
	}
	ecs, vpc, slb, nlb := os.Getenv("ECS_ENDPOINT"), os.Getenv("VPC_ENDPOINT"), os.Getenv("SLB_ENDPOINT"), os.Getenv("NLB_ENDPOINT")
	if f.endpoint != "" {
		ecs, vpc, slb, nlb = f.endpoint, f.endpoint, f.endpoint, f.endpoint
	}
	client, err = alibaba.New(alibaba.Config{Region: region, ECSEndpoint: ecs, VPCEndpoint: vpc, SLBEndpoint: slb, NLBEndpoint: nlb, Network: f.network, Credentials: as,
		CallTimeout: time.Duration(f.Timeout),
		Slow:        func(p alibaba.Pause) { say(slow(p)) }})
	return client, region, err
}

// slow says why a call waits.
func slow(p alibaba.Pause) string {
	var e *cloud.Error
	switch {
	case p.Unanswered:
		return fmt.Sprintf("waiting up to %.0fs more for the answer to %s", p.For.Seconds(), p.Action)
	case errors.As(p.Err, &e):
		return fmt.Sprintf("waiting %.0fs to repeat %s", p.For.Seconds(), e.Brief())
	}
	return fmt.Sprintf("waiting %.0fs: %s may not be called more often", p.For.Seconds(), p.Action)
}
