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

// All actions that the client calls, with the product, the maximum number of calls per minute,
// and the caller. The controller's numbers are what the service is known to allow an account.
// The operator's are low, because a person makes few calls. What the
// service allows for load balancers is not known: their numbers are what rolling upgrades of many
// Services need, also at the tenth part to which throttling may slow them: pods that terminate
// wait at most 15 s by default. They fall when the cloud throttles.
var actions = map[string]struct {
	product   string
	perMinute int
	// by is the program that calls it: each has a RAM policy of its own.
	by caller
}{
	"AssignPrivateIpAddresses":   {productECS, 400, byController},
	"AttachNetworkInterface":     {productECS, 500, byController},
	"CreateNetworkInterface":     {productECS, 500, byController},
	"DeleteNetworkInterface":     {productECS, 500, byController},
	"DescribeInstanceTypes":      {productECS, 400, byController},
	"DescribeInstances":          {productECS, 400, byController | byOperator},
	"DescribeNetworkInterfaces":  {productECS, 800, byController | byOperator},
	"DetachNetworkInterface":     {productECS, 400, byController},
	"UnassignPrivateIpAddresses": {productECS, 400, byController},
	"DescribeVSwitches":          {productVPC, 300, byController | byOperator},
	"DescribeVpcAttribute":       {productVPC, 300, byController},
	"CreateRouteEntries":         {productVPC, 60, byController},
	"DeleteRouteEntries":         {productVPC, 60, byController},
	"DescribeRouteEntryList":     {productVPC, 300, byController},
	"DescribeRouteTableList":     {productVPC, 300, byController},

	"nlb:AddServersToServerGroup":               {productNLB, 3000, byController},
	"nlb:CreateListener":                        {productNLB, 300, byController},
	"nlb:CreateLoadBalancer":                    {productNLB, 60, byController},
	"nlb:CreateServerGroup":                     {productNLB, 300, byController},
	"nlb:DeleteListener":                        {productNLB, 300, byController},
	"nlb:DeleteLoadBalancer":                    {productNLB, 60, byController},
	"nlb:DeleteServerGroup":                     {productNLB, 300, byController},
	"nlb:GetListenerHealthStatus":               {productNLB, 600, byController},
	"nlb:GetLoadBalancerAttribute":              {productNLB, 600, byController},
	"nlb:ListAsynJobs":                          {productNLB, 3000, byController},
	"nlb:ListListeners":                         {productNLB, 600, byController},
	"nlb:ListLoadBalancers":                     {productNLB, 600, byController},
	"nlb:ListServerGroupServers":                {productNLB, 600, byController},
	"nlb:ListServerGroups":                      {productNLB, 600, byController},
	"nlb:LoadBalancerJoinSecurityGroup":         {productNLB, 300, byController},
	"nlb:LoadBalancerLeaveSecurityGroup":        {productNLB, 300, byController},
	"nlb:RemoveServersFromServerGroup":          {productNLB, 3000, byController},
	"nlb:StartListener":                         {productNLB, 300, byController},
	"nlb:TagResources":                          {productNLB, 300, byController},
	"nlb:UntagResources":                        {productNLB, 300, byController},
	"nlb:UpdateListenerAttribute":               {productNLB, 300, byController},
	"nlb:UpdateLoadBalancerAddressTypeConfig":   {productNLB, 300, byController},
	"nlb:UpdateLoadBalancerAttribute":           {productNLB, 300, byController},
	"nlb:UpdateLoadBalancerProtection":          {productNLB, 300, byController},
	"nlb:UpdateLoadBalancerZones":               {productNLB, 300, byController},
	"nlb:UpdateServerGroupAttribute":            {productNLB, 300, byController},
	"nlb:UpdateServerGroupServersAttribute":     {productNLB, 3000, byController},
	"RevokeSecurityGroup":                       {productECS, 60, byController},
	"slb:AddAccessControlListEntry":             {productSLB, 300, byController},
	"slb:CreateAccessControlList":               {productSLB, 60, byController},
	"slb:DeleteAccessControlList":               {productSLB, 60, byController},
	"slb:DescribeAccessControlListAttribute":    {productSLB, 300, byController},
	"slb:DescribeAccessControlLists":            {productSLB, 300, byController},
	"slb:RemoveAccessControlListEntry":          {productSLB, 300, byController},
	"slb:AddVServerGroupBackendServers":         {productSLB, 3000, byController},
	"slb:CreateLoadBalancer":                    {productSLB, 60, byController},
	"slb:CreateLoadBalancerHTTPListener":        {productSLB, 300, byController},
	"slb:CreateLoadBalancerTCPListener":         {productSLB, 300, byController},
	"slb:CreateLoadBalancerUDPListener":         {productSLB, 300, byController},
	"slb:CreateVServerGroup":                    {productSLB, 300, byController},
	"slb:DeleteLoadBalancer":                    {productSLB, 60, byController},
	"slb:DeleteLoadBalancerListener":            {productSLB, 300, byController},
	"slb:DeleteVServerGroup":                    {productSLB, 300, byController},
	"slb:DescribeHealthStatus":                  {productSLB, 600, byController},
	"slb:DescribeLoadBalancerAttribute":         {productSLB, 600, byController},
	"slb:DescribeLoadBalancerListeners":         {productSLB, 600, byController},
	"slb:DescribeLoadBalancers":                 {productSLB, 600, byController},
	"slb:DescribeVServerGroupAttribute":         {productSLB, 600, byController},
	"slb:DescribeVServerGroups":                 {productSLB, 600, byController},
	"slb:ModifyLoadBalancerInstanceChargeType":  {productSLB, 300, byController},
	"slb:ModifyLoadBalancerInstanceSpec":        {productSLB, 300, byController},
	"slb:ModifyLoadBalancerInternetSpec":        {productSLB, 300, byController},
	"slb:RemoveVServerGroupBackendServers":      {productSLB, 3000, byController},
	"slb:SetLoadBalancerDeleteProtection":       {productSLB, 300, byController},
	"slb:SetLoadBalancerHTTPListenerAttribute":  {productSLB, 300, byController},
	"slb:SetLoadBalancerModificationProtection": {productSLB, 300, byController},
	"slb:SetLoadBalancerName":                   {productSLB, 300, byController},
	"slb:SetLoadBalancerTCPListenerAttribute":   {productSLB, 300, byController},
	"slb:SetLoadBalancerUDPListenerAttribute":   {productSLB, 300, byController},
	"slb:SetVServerGroupAttribute":              {productSLB, 3000, byController},
	"slb:StartLoadBalancerListener":             {productSLB, 300, byController},
	"slb:TagResources":                          {productSLB, 300, byController},
	"slb:UntagResources":                        {productSLB, 300, byController},

	"AssociateVpcCidrBlock":          {productVPC, 60, byOperator},
	"AuthorizeSecurityGroup":         {productECS, 60, byController | byOperator},
	"CreateSecurityGroup":            {productECS, 60, byController | byOperator},
	"CreateVSwitch":                  {productVPC, 60, byOperator},
	"CreateVpc":                      {productVPC, 60, byOperator},
	"DeleteSecurityGroup":            {productECS, 60, byController | byOperator},
	"DeleteVSwitch":                  {productVPC, 60, byOperator},
	"DeleteVpc":                      {productVPC, 60, byOperator},
	"DescribeSecurityGroupAttribute": {productECS, 200, byController | byOperator},
	"DescribeSecurityGroups":         {productECS, 200, byController | byOperator},
	"DescribeVpcs":                   {productVPC, 200, byOperator},
	"DescribeZones":                  {productVPC, 200, byOperator},
}

// caller is a set of programs that use this package.
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

// A throttled action continues at half its rate, but never below 1/50 of the configured rate, nor below 1/10 if it is about
// load balancers: a pod that terminates waits for one such call, in a queue with those of other pods.
// The rate grows by a fifth after every five seconds without throttling.
const (
	slowFactor    = 0.5
	slowFloor     = 1.0 / 50
	balancerFloor = 1.0 / 10
	slowPause     = time.Second // throttled answers within this time count as one
	recoverFactor = 1.2
	recoverStep   = 5 * time.Second
	// burstSeconds limits a burst after a pause, to the calls of so many seconds.
	burstSeconds = 2
)

// limiter limits the rate of one action: a token bucket, and a queue for each priority.
type limiter struct {
	mu      sync.Mutex
	tokens  float64
	at      time.Time // when tokens was updated
	base    float64   // as configured
	floor   float64   // the lowest that throttling leaves
	burst   int
	current float64
	slowed  time.Time // last time the rate was halved
	stepped time.Time // last time the rate changed

	queues     [cloud.Priorities][]*waiter
	turns      int  // number of calls admitted
	dispatches bool // a goroutine is dispatching
	// calls is the number of calls in progress or waiting, by priority.
	calls [cloud.Priorities]int
	// later is the time at which the last deferred call should retry, by priority.
	later [cloud.Priorities]time.Time
}

// waiter is a call in the queue.
type waiter struct {
	since time.Time
	turn  chan struct{} // closed when the call may start
}

// Every fairTurn-th slot goes to the call that has waited longest, whatever its priority.
const fairTurn = 8

// A deferrable call is deferred if at least holdMin calls, and at least those of holdFor, are
// in progress or waiting. It is told to retry when half of the queue is done, and after
// deferMax at the latest. The retries are planned at deferMore times the rate, so that no slot
// is unused if some callers do not return.
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
		floor := slowFloor
		if p := actions[action].product; p == productSLB || p == productNLB {
			floor = balancerFloor
		}
		all[action] = newLimiter(n, floor)
	}
	return all, nil
}

// newLimiter returns a limiter that throttling slows to the part floor of perMinute.
func newLimiter(perMinute int, floor float64) *limiter {
	base := float64(perMinute) / 60
	burst := max(1, perMinute*burstSeconds/60)
	return &limiter{tokens: float64(burst), base: base, floor: base * floor, burst: burst, current: base}
}

// errTooLate says that the call could start only after its deadline.
type errTooLate struct{ wait time.Duration }

func (e errTooLate) Error() string {
	return fmt.Sprintf("the rate limit's queue is %s long, longer than the call may take", e.wait.Round(time.Millisecond))
}

// admit registers a call, which release ends. after is not zero if the call is deferred.
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

// takes returns how long n calls take at the current rate.
func (l *limiter) takes(n int) time.Duration {
	return time.Duration(math.Ceil(float64(n) / l.current * float64(time.Second)))
}

// wait blocks until the call may start, and returns how long that took. Before it blocks it
// reports the expected time, which grows if calls of a higher priority come. It fails at once
// if the call could start only after ctx's deadline.
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
		l.tokens++ // admitted at the same moment: return the token
	}
	return clock.Now().Sub(w.since), ctx.Err()
}

// count adds new tokens to the bucket. The caller holds l.mu, also for the functions below.
func (l *limiter) count(now time.Time) {
	if !l.at.IsZero() {
		l.tokens += max(0, now.Sub(l.at).Seconds()) * l.current
	}
	burst := 1 // while the rate is reduced: the service complains about bursts
	if l.current == l.base {
		burst = l.burst
	}
	l.tokens, l.at = min(l.tokens, float64(burst)), now
}

// waiting reports whether calls wait.
func (l *limiter) waiting() bool {
	return slices.ContainsFunc(l.queues[:], func(q []*waiter) bool { return len(q) > 0 })
}

// give admits calls while there are tokens.
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

// dispatch admits calls until none waits.
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
		// Wait at most this long: the rate may grow.
		d := min(time.Duration(math.Ceil((1-l.tokens)/l.current*float64(time.Second))), recoverStep)
		l.mu.Unlock()
		clock.Sleep(d)
	}
}

// slow is called after a throttled answer.
func (l *limiter) slow(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.slowed.IsZero() && now.Sub(l.slowed) < slowPause {
		return
	}
	l.slowed = now
	l.set(now, max(l.current*slowFactor, l.floor))
}

// fine is called after any other answer.
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
