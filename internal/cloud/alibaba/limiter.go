package alibaba

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"terway.dev/terway/internal/cloud"
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

// limiter paces the calls of one action: a token bucket, and a queue for each priority.
type limiter struct {
	mu      sync.Mutex
	tokens  float64
	at      time.Time // when tokens were counted
	base    float64   // as configured
	burst   int
	current float64
	slowed  time.Time // last time it was slowed
	stepped time.Time // last time the rate changed

	queues     [cloud.Priorities][]*waiter
	turns      int  // given so far
	dispatches bool // somebody gives the turns
	// calls are those from their begin to their end, by priority.
	calls [cloud.Priorities]int
	// later is when the call that was last deferred should come again, by priority.
	later [cloud.Priorities]time.Time
}

// waiter is a call that waits for its turn.
type waiter struct {
	since time.Time
	turn  chan struct{} // closed when it has come
}

// Every fairTurn-th turn goes to the call that has waited longest, whatever its priority.
const fairTurn = 8

// A call that may be deferred is deferred if as many calls as take holdFor, and no fewer than
// holdMin, are under way. It is told to come again when half of the queue is done at the earliest,
// and after deferMax at the latest; deferMore times as many calls are told to come as there are
// turns, so that no turn is lost if some do not come.
const (
	holdFor   = 6 * time.Second
	holdMin   = 32
	deferMax  = 30 * time.Second
	deferMore = 4
)

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
	base := float64(perMinute) / 60
	burst := max(1, perMinute*burstSeconds/60)
	return &limiter{tokens: float64(burst), base: base, burst: burst, current: base}
}

// errTooLate says that a call's turn would come after its deadline.
type errTooLate struct{ wait time.Duration }

func (e errTooLate) Error() string {
	return fmt.Sprintf("the rate limit's queue is %s long, longer than the call may take", e.wait.Round(time.Millisecond))
}

// admit begins a call, which release ends. after is not zero if the call is deferred.
func (l *limiter) admit(ctx context.Context, now time.Time) (after time.Duration) {
	p := cloud.PriorityOf(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	before := 0
	for _, n := range l.calls[:p+1] {
		before += n
	}
	room := max(holdMin, int(l.base*holdFor.Seconds()))
	if before < room || !cloud.MayDefer(ctx) {
		l.calls[p]++
		return 0
	}
	soonest := now.Add(min(l.takes(room)/2, deferMax/2))
	next := l.later[p].Add(l.takes(1) / deferMore)
	if next.Before(soonest) || next.After(now.Add(deferMax)) {
		next = soonest
	}
	l.later[p] = next
	return next.Sub(now)
}

func (l *limiter) release(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls[cloud.PriorityOf(ctx)]--
}

// takes is how long n calls take at the present rate.
func (l *limiter) takes(n int) time.Duration {
	return time.Duration(math.Ceil(float64(n) / l.current * float64(time.Second)))
}

// wait returns when the call may be made, and says how long that took; before it waits it reports
// how long that will be, unless calls of a higher priority come. It does not begin to wait for a
// turn that would come after ctx's deadline.
func (l *limiter) wait(ctx context.Context, clock clock.Clock, tell func(time.Duration)) (time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	p := cloud.PriorityOf(ctx)
	w := &waiter{since: clock.Now(), turn: make(chan struct{})}
	l.mu.Lock()
	l.count(w.since)
	before := 0
	for _, q := range l.queues[:p+1] {
		before += len(q)
	}
	d := time.Duration(math.Ceil((float64(before+1) - l.tokens) / l.current * float64(time.Second)))
	if deadline, ok := ctx.Deadline(); ok && d > 0 && w.since.Add(d).After(deadline) {
		l.mu.Unlock()
		return 0, errTooLate{d}
	}
	l.queues[p] = append(l.queues[p], w)
	l.give()
	if !l.dispatches && l.waiting() {
		l.dispatches = true
		go l.dispatch(clock)
	}
	l.mu.Unlock()
	select {
	case <-w.turn:
		return 0, nil
	default:
		tell(d)
	}
	select {
	case <-w.turn:
		return clock.Now().Sub(w.since), nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.queues[p], w); i >= 0 {
		l.queues[p] = slices.Delete(l.queues[p], i, i+1)
	} else {
		l.tokens++ // its turn came at the same moment: it is given back
	}
	return clock.Now().Sub(w.since), ctx.Err()
}

// count adds what has come into the bucket; l.mu is held, as below.
func (l *limiter) count(now time.Time) {
	if !l.at.IsZero() {
		l.tokens += max(0, now.Sub(l.at).Seconds()) * l.current
	}
	burst := 1 // while it is slowed: saved-up calls are what the service complains about
	if l.current == l.base {
		burst = l.burst
	}
	l.tokens, l.at = min(l.tokens, float64(burst)), now
}

// waiting reports whether calls wait.
func (l *limiter) waiting() bool {
	return slices.ContainsFunc(l.queues[:], func(q []*waiter) bool { return len(q) > 0 })
}

// give gives the turns that there are.
func (l *limiter) give() {
	const rounding = 1e-9
	for l.tokens >= 1-rounding && l.waiting() {
		next := -1
		for p, q := range l.queues {
			if len(q) > 0 && (next < 0 || l.turns%fairTurn == fairTurn-1 && q[0].since.Before(l.queues[next][0].since)) {
				next = p
			}
		}
		close(l.queues[next][0].turn)
		l.queues[next] = l.queues[next][1:]
		l.turns++
		l.tokens--
	}
}

// dispatch gives turns until nobody waits.
func (l *limiter) dispatch(clock clock.Clock) {
	for {
		l.mu.Lock()
		l.count(clock.Now())
		l.give()
		if !l.waiting() {
			l.dispatches = false
			l.mu.Unlock()
			return
		}
		// At most a while: the rate may rise.
		d := min(time.Duration(math.Ceil((1-l.tokens)/l.current*float64(time.Second))), recoverStep)
		l.mu.Unlock()
		clock.Sleep(d)
	}
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
		l.set(now, min(l.base, l.current*math.Pow(recoverFactor, float64(steps))))
	}
}

// set changes the rate.
func (l *limiter) set(now time.Time, r float64) {
	l.count(now)
	l.current, l.stepped = r, now
	l.count(now)
}

// rate returns the calls per second allowed now.
func (l *limiter) rate() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}
