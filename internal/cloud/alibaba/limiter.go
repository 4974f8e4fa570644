package alibaba

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Every action the client calls: its product, how often a minute it is called at
// most, and whose call it is. The controller's figures are what the service is
// known to allow one account; the operator's are low, as a person makes few calls.
var actions = map[string]struct {
	product   string
	perMinute int
	// by says who calls it: each has a RAM policy of its own.
	by caller
}{
	"AssignPrivateIpAddresses":   {productECS, 400, byController},
	"AttachNetworkInterface":     {productECS, 500, byController},
	"CreateNetworkInterface":     {productECS, 500, byController},
	"DeleteNetworkInterface":     {productECS, 500, byController},
	"DescribeInstanceTypes":      {productECS, 400, byController},
	"DescribeInstances":          {productECS, 400, byController},
	"DescribeNetworkInterfaces":  {productECS, 800, byController | byOperator},
	"DetachNetworkInterface":     {productECS, 400, byController},
	"UnassignPrivateIpAddresses": {productECS, 400, byController},
	"DescribeVSwitches":          {productVPC, 300, byController | byOperator},
	"DescribeVpcAttribute":       {productVPC, 300, byController},
	"CreateRouteEntries":         {productVPC, 60, byController},
	"DeleteRouteEntries":         {productVPC, 60, byController},
	"DescribeRouteEntryList":     {productVPC, 300, byController},
	"DescribeRouteTableList":     {productVPC, 300, byController},

	"AssociateVpcCidrBlock":          {productVPC, 60, byOperator},
	"AuthorizeSecurityGroup":         {productECS, 60, byOperator},
	"CreateSecurityGroup":            {productECS, 60, byOperator},
	"CreateVSwitch":                  {productVPC, 60, byOperator},
	"CreateVpc":                      {productVPC, 60, byOperator},
	"DeleteSecurityGroup":            {productECS, 60, byOperator},
	"DeleteVSwitch":                  {productVPC, 60, byOperator},
	"DeleteVpc":                      {productVPC, 60, byOperator},
	"DescribeSecurityGroupAttribute": {productECS, 200, byOperator},
	"DescribeSecurityGroups":         {productECS, 200, byOperator},
	"DescribeVpcs":                   {productVPC, 200, byOperator},
	"DescribeZones":                  {productVPC, 200, byOperator},
}

// caller is a set of the programs that use this package.
type caller int

const (
	byController caller = 1 << iota
	// byOperator is terwayctl.
	byOperator
)

// DefaultLimits returns the calls per minute by action.
func DefaultLimits() map[string]int {
	m := make(map[string]int, len(actions))
	for name, a := range actions {
		m[name] = a.perMinute
	}
	return m
}

// A throttled action goes on at half its rate, never below a fiftieth of what is
// configured, and gets a fifth faster every five seconds in which nobody complains.
const (
	slowFactor    = 0.5
	slowFloor     = 1.0 / 50
	slowPause     = time.Second // answers of calls already under way count once
	recoverFactor = 1.2
	recoverStep   = 5 * time.Second
	// burstSeconds is how many seconds' worth of calls may be made at once after a rest.
	burstSeconds = 2
)

// limiter paces the calls of one action.
type limiter struct {
	mu      sync.Mutex
	bucket  *rate.Limiter
	base    rate.Limit // as configured
	burst   int
	current rate.Limit
	slowed  time.Time // last time it was slowed
	stepped time.Time // last time the rate changed
}

func newLimiters(override map[string]int) (map[string]*limiter, error) {
	perMinute := DefaultLimits()
	for action, n := range override {
		if _, known := perMinute[action]; !known {
			return nil, fmt.Errorf("cloud client: rate limit: %q is not an action that the client calls", action)
		}
		if n <= 0 {
			return nil, fmt.Errorf("cloud client: rate limit of %s: %d per minute is not a positive number", action, n)
		}
		perMinute[action] = n
	}
	all := make(map[string]*limiter, len(perMinute))
	for action, n := range perMinute {
		all[action] = newLimiter(n)
	}
	return all, nil
}

func newLimiter(perMinute int) *limiter {
	base := rate.Limit(float64(perMinute) / 60)
	burst := max(1, perMinute*burstSeconds/60)
	return &limiter{bucket: rate.NewLimiter(base, burst), base: base, burst: burst, current: base}
}

// errTooLate says that a call's turn would come after its deadline.
type errTooLate struct{ wait time.Duration }

func (e errTooLate) Error() string {
	return fmt.Sprintf("the rate limit's queue is %s long, longer than the call may take", e.wait.Round(time.Millisecond))
}

// wait returns when the call may be made, and says how long that took; before it waits
// it tells how long that will be. It does not begin to wait for a turn that would come
// after ctx's deadline.
func (l *limiter) wait(ctx context.Context, clock Clock, tell func(time.Duration)) (time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	now := clock.Now()
	turn := l.bucket.ReserveN(now, 1)
	d := turn.DelayFrom(now)
	if d == 0 {
		return 0, nil
	}
	if deadline, ok := ctx.Deadline(); ok && now.Add(d).After(deadline) {
		turn.CancelAt(now)
		return 0, errTooLate{d}
	}
	tell(d)
	if err := clock.Sleep(ctx, d); err != nil {
		turn.CancelAt(clock.Now())
		return clock.Now().Sub(now), err
	}
	return d, nil
}

// slow is called after a Throttling answer.
func (l *limiter) slow(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.slowed.IsZero() && now.Sub(l.slowed) < slowPause {
		return
	}
	l.slowed = now
	l.set(now, max(l.current*slowFactor, l.base*slowFloor))
}

// fine is called after an answer without complaint.
func (l *limiter) fine(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == l.base {
		return
	}
	if steps := int(now.Sub(l.stepped) / recoverStep); steps > 0 {
		l.set(now, min(l.base, l.current*rate.Limit(math.Pow(recoverFactor, float64(steps)))))
	}
}

// set changes the rate. While it is below the configured one there are no
// bursts: saved-up calls are what the service has just complained about.
func (l *limiter) set(now time.Time, r rate.Limit) {
	l.current, l.stepped = r, now
	burst := 1
	if r == l.base {
		burst = l.burst
	}
	l.bucket.SetLimitAt(now, r)
	l.bucket.SetBurstAt(now, burst)
}

// rate returns the calls per second allowed now.
func (l *limiter) rate() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return float64(l.current)
}
