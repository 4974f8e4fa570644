package alibaba

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"
	nlbsdk "github.com/aliyun/alibaba-cloud-sdk-go/services/nlb"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/slb"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/vpc"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"terway.dev/terway/internal/cloud"
)

// Config configures a Client.
type Config struct {
	// Region is the region of the cluster's instances; required.
	Region string
	// The endpoints are "host", "host:port" or a URL with http or https; the default scheme is
	// https. Empty: the SDK's endpoint for the region.
	ECSEndpoint string
	VPCEndpoint string
	SLBEndpoint string
	NLBEndpoint string
	// Network selects the SDK's endpoints if none are given: "public" (default), or "vpc" for
	// endpoints inside the VPC, without internet access.
	Network string
	// Credentials are required.
	Credentials CredentialSource
	// Limits are calls per minute by action. They override DefaultLimits.
	Limits map[string]int
	// Metrics is where the metrics are registered; nil disables them.
	Metrics prometheus.Registerer
	// ConnectTimeout (5 s) and RequestTimeout (20 s) apply to each attempt of a call.
	ConnectTimeout time.Duration
	RequestTimeout time.Duration
	// CallTimeout applies to a whole call, with all attempts and pauses; 0: no limit.
	CallTimeout time.Duration
	// Attempts is the maximum number of attempts of a call (8).
	Attempts int
	// Slow, if not nil, is called before each pause in a call that takes long. It may be called
	// concurrently.
	Slow func(Pause)
	// Clock, Random and Log have defaults; tests set their own.
	Clock  clock.Clock
	Random func() float64 // uniform in [0,1)
	Log    *slog.Logger
}

// Pause describes why a call waits: for the rate limit, before a retry, or for the answer.
type Pause struct {
	Action string
	// For is the duration of the pause; for the answer it is the maximum.
	For time.Duration
	// Err is the answer that causes the retry.
	Err error
	// Unanswered: the request was sent some time ago, and no answer has come.
	Unanswered bool
}

// Client implements cloud.API and cloud.RouteAPI, and has the calls for load balancers. All users of a Client share its rate limits.
type Client struct {
	region    string
	network   string
	endpoints map[string]endpoint // by product
	creds     CredentialSource
	limits    map[string]*limiter // by action
	jobs      *jobs
	metrics   *metrics
	http      http.RoundTripper
	timeout   time.Duration
	callLimit time.Duration
	attempts  int
	slow      func(Pause)
	clock     clock.Clock
	random    func() float64
	log       *slog.Logger
}

var (
	_ cloud.API      = (*Client)(nil)
	_ cloud.RouteAPI = (*Client)(nil)
)

// The SDK's names for the products.
const (
	productECS = "Ecs"
	productVPC = "Vpc"
	productSLB = "Slb"
	productNLB = "Nlb"
)

// actionName returns the name by which an action is limited, counted and reported. SLB and NLB
// have actions of equal names, so theirs have the product before them.
func actionName(r requests.AcsRequest) string {
	if p := r.GetProduct(); p == productSLB || p == productNLB {
		return strings.ToLower(p) + ":" + r.GetActionName()
	}
	return r.GetActionName()
}

// endpoint is the address of a product's API. With an empty host the SDK chooses it by region.
type endpoint struct {
	scheme string // the SDK requires upper case
	host   string
	// byRegion and kind are the SDK's table of the product's endpoints.
	byRegion map[string]string
	kind     string
}

// New returns a client. It sends no request.
func New(cfg Config) (*Client, error) {
	if !regexp.MustCompile(`^[a-z0-9-]+$`).MatchString(cfg.Region) {
		return nil, fmt.Errorf("cloud client: region: %q is not a region id such as cn-hangzhou", cfg.Region)
	}
	if cfg.Credentials == nil {
		return nil, fmt.Errorf("cloud client: no credential source given")
	}
	switch cfg.Network {
	case "", "public", "vpc":
	default:
		return nil, fmt.Errorf("cloud client: network: %q is neither public nor vpc", cfg.Network)
	}
	endpoints := map[string]endpoint{}
	// The SDK fills its tables of endpoints on first use without a lock, so read them once here.
	for _, p := range []struct {
		product, at string
		byRegion    map[string]string
		kind        string
	}{
		{productECS, cfg.ECSEndpoint, ecs.GetEndpointMap(), ecs.GetEndpointType()},
		{productVPC, cfg.VPCEndpoint, vpc.GetEndpointMap(), vpc.GetEndpointType()},
		{productSLB, cfg.SLBEndpoint, slb.GetEndpointMap(), slb.GetEndpointType()},
		{productNLB, cfg.NLBEndpoint, nlbsdk.GetEndpointMap(), nlbsdk.GetEndpointType()},
	} {
		at, err := parseEndpoint(strings.ToUpper(p.product)+" endpoint", p.at)
		if err != nil {
			return nil, err
		}
		at.byRegion, at.kind = p.byRegion, p.kind
		endpoints[p.product] = at
	}
	c := &Client{
		region:    cfg.Region,
		network:   cfg.Network,
		endpoints: endpoints,
		jobs:      &jobs{},
		creds:     cfg.Credentials,
		timeout:   orDefault(cfg.RequestTimeout, 20*time.Second),
		callLimit: cfg.CallTimeout,
		attempts:  orDefault(cfg.Attempts, 8),
		slow:      cfg.Slow,
		clock:     cfg.Clock,
		random:    cfg.Random,
		log:       cfg.Log,
	}
	if c.clock == nil {
		c.clock = clock.RealClock{}
	}
	if c.slow == nil {
		c.slow = func(Pause) {}
	}
	if c.random == nil {
		c.random = rand.Float64
	}
	if c.log == nil {
		c.log = slog.Default()
	}
	c.http = newTransport(orDefault(cfg.ConnectTimeout, 5*time.Second))
	var err error
	if c.limits, err = newLimiters(cfg.Limits); err != nil {
		return nil, err
	}
	if c.metrics, err = newMetrics(cfg.Metrics); err != nil {
		return nil, fmt.Errorf("cloud client: register metrics: %w", err)
	}
	return c, nil
}

// parseEndpoint parses "host", "host:port" or a URL.
func parseEndpoint(field, s string) (endpoint, error) {
	if s == "" {
		return endpoint{scheme: "HTTPS"}, nil
	}
	raw := s
	if !strings.Contains(raw, "://") {
		raw = "https://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return endpoint{}, fmt.Errorf("cloud client: %s: %q is neither host, host:port nor http(s)://host:port", field, s)
	}
	return endpoint{scheme: strings.ToUpper(u.Scheme), host: u.Host}, nil
}

func newTransport(connectTimeout time.Duration) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: connectTimeout}).DialContext,
		TLSHandshakeTimeout:   connectTimeout,
		MaxIdleConnsPerHost:   128,
		IdleConnTimeout:       90 * time.Second,
		ForceAttemptHTTP2:     true,
		ExpectContinueTimeout: time.Second,
	}
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
