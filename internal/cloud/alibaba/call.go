package alibaba

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/responses"

	"terway.dev/terway/internal/cloud"
)

// The pause before a retry grows from about backoffMin to backoffMax.
const (
	backoffMin = 200 * time.Millisecond
	backoffMax = 8 * time.Second
)

// A pause is reported if it is at least tellFrom and ends later than tellAfter. A missing
// answer is reported after 1/tellUnanswered of the request's timeout.
const (
	tellFrom       = time.Second
	tellAfter      = 2 * time.Second
	tellUnanswered = 4
)

// call performs one action: it waits for the rate limit, signs with the current credential, and
// retries until the call succeeds, the attempts are used up or ctx ends. fill sets the
// parameters. It is called for every attempt and must set the same values each time, above all
// the client token.
//
// Every error is a *cloud.Error.
func call[Q requests.AcsRequest, R responses.AcsResponse](ctx context.Context, c *Client, newRequest func() Q, newResponse func() R, fill func(Q)) (answer R, err error) {
	var none R
	action := actionName(newRequest())
	limit := c.limits[action]
	if limit == nil {
		return none, &cloud.Error{Action: action, Class: cloud.Invalid, Message: "the client does not call this action"}
	}
	if c.callLimit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.callLimit)
		defer cancel()
	}
	renewed, began := false, c.clock.Now()
	if after := limit.admit(ctx, began); after > 0 {
		c.metrics.deferred.WithLabelValues(action).Inc()
		return none, &cloud.Error{Action: action, Class: cloud.Throttled, After: after,
			Message: fmt.Sprintf("not sent: too many calls are queued; retry in %s", after.Round(time.Millisecond))}
	}
	defer limit.release(ctx)
	tell := func(pause time.Duration, err error) {
		if pause >= tellFrom && c.clock.Now().Add(pause).Sub(began) > tellAfter {
			c.slow(Pause{Action: action, For: pause, Err: err})
		}
	}
	var last error // the cloud's answer to the previous attempt
	sent := 0
	defer func() {
		// What fails for a pod that waits is found by its sandbox without another level.
		if sandboxes := cloud.SandboxesOf(ctx); err != nil && sent > 0 && len(sandboxes) > 0 {
			c.log.Info("cloud call failed", "action", action, "attempts", sent, "took", c.clock.Now().Sub(began), "request", requestID(none, err), "sandboxes", cloud.Few(sandboxes), "error", err)
		}
	}()
	for n := 1; ; n++ {
		if err := c.turn(ctx, action, limit, tell); err != nil {
			return none, cmp.Or(last, err) // which says more than a timeout
		}
		cred, err := c.creds.Get(ctx)
		if err != nil {
			return none, credentialError(action, err)
		}
		c.metrics.signed(cred)
		// A new request for each attempt: the SDK leaves the parameters of the last signature
		// in it.
		req, rsp := newRequest(), newResponse()
		fill(req)
		start := c.clock.Now()
		sent = n
		err = c.send(ctx, req, rsp, cred)
		now := c.clock.Now()
		c.metrics.attempt(action, now.Sub(start), err)
		c.pace(action, limit, now, err)
		if c.log.Enabled(ctx, slog.LevelDebug) {
			c.log.Debug("cloud call", "action", action, "attempt", n, "took", now.Sub(start), "request", requestID(rsp, err), "sandboxes", cloud.Few(cloud.SandboxesOf(ctx)), "error", err)
		}
		if err == nil {
			return rsp, nil
		}
		if credentialRefused(err) && !renewed {
			renewed = true
			if c.renew(ctx, cred) {
				c.log.Info("cloud credential refused, retrying with a new one", "action", action, "code", cloud.CodeOf(err))
				continue
			}
		}
		if n >= c.attempts || ctx.Err() != nil || !cloud.Repeatable(err) {
			return none, err
		}
		pause := backoff(n, c.random())
		if deadline, ok := ctx.Deadline(); ok && now.Add(pause).After(deadline) {
			return none, err
		}
		c.metrics.retries.WithLabelValues(action, string(cloud.ClassOf(err))).Inc()
		c.log.Debug("cloud call is retried", "action", action, "attempt", n, "pause", pause, "error", err)
		tell(pause, err)
		select {
		case <-ctx.Done():
			return none, err
		case <-c.clock.After(pause):
		}
		last = err
	}
}

// requestID returns the cloud's id of a request; empty if there was no answer.
func requestID(rsp responses.AcsResponse, err error) string {
	var e *cloud.Error
	if errors.As(err, &e) {
		return e.RequestID
	}
	if err != nil {
		return ""
	}
	// Each action's answer has the field, but the SDK has no interface for it.
	if id := reflect.ValueOf(rsp).Elem().FieldByName("RequestId"); id.IsValid() && id.Kind() == reflect.String {
		return id.String()
	}
	return ""
}

// turn waits for the action's rate limit.
func (c *Client) turn(ctx context.Context, action string, limit *limiter, tell func(time.Duration, error)) error {
	waited, err := limit.wait(ctx, c.clock, func(pause time.Duration) { tell(pause, nil) })
	c.metrics.wait.WithLabelValues(action).Observe(waited.Seconds())
	var late errTooLate
	switch {
	case err == nil:
		return nil
	case errors.As(err, &late):
		return &cloud.Error{Action: action, Class: cloud.Throttled, Message: late.Error(), Err: context.DeadlineExceeded}
	}
	return &cloud.Error{Action: action, Class: cloud.Transient, Message: "stopped waiting for the rate limit: " + err.Error(), Err: err}
}

// pace reports the result of the call to the limiter.
func (c *Client) pace(action string, limit *limiter, now time.Time, err error) {
	if cloud.ClassOf(err) == cloud.Throttled && err != nil {
		limit.slow(now)
	} else {
		limit.fine(now)
	}
	c.metrics.rate.WithLabelValues(action).Set(limit.rate())
}

// backoff returns the pause after the nth attempt: it grows exponentially, with a random factor
// from 1/2 to 1.
func backoff(n int, random float64) time.Duration {
	d := backoffMin << min(n-1, 16)
	d = min(d, backoffMax)
	return d/2 + time.Duration(random*float64(d/2))
}

// credentialRefused reports whether another credential might help.
func credentialRefused(err error) bool {
	switch cloud.Explain(err).Reason {
	case "BadAccessKey", "BadSecret", "TokenExpired":
		return cloud.CodeOf(err) != ""
	}
	return false
}

// renew drops the refused credential, and reports whether there is another one.
func (c *Client) renew(ctx context.Context, refused Credential) bool {
	c.creds.Forget(refused)
	next, err := c.creds.Get(ctx)
	return err == nil && (next.AccessKeyID != refused.AccessKeyID || next.AccessKeySecret != refused.AccessKeySecret || next.SecurityToken != refused.SecurityToken)
}

// credentialError returns the error for a call that could not be signed.
func credentialError(action string, err error) error {
	var e *cloud.Error
	if errors.As(err, &e) {
		// An answer of STS, or a network error: keep its class and code.
		copied := *e
		copied.Action = action
		copied.Message = fmt.Sprintf("no credential: %s: %s", e.Action, e.Message)
		return &copied
	}
	return &cloud.Error{Action: action, Class: cloud.Auth, Message: "no credential: " + err.Error(), Err: err}
}

// refuse returns the error for a request that must not be sent.
func refuse(action, format string, args ...any) error {
	return &cloud.Error{Action: action, Code: "InvalidParameter", Class: cloud.Invalid, Message: "not sent: " + fmt.Sprintf(format, args...)}
}
