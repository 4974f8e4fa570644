package cloud

import (
	"context"
	"errors"
	"net/http"
	"strings"
)

// Explanation explains an error to a user.
type Explanation struct {
	Class Class
	// Reason is in CamelCase and has few possible values: it fits events, conditions and metric
	// labels.
	Reason string
	// Code is the cloud's error code; empty without an answer.
	Code string
	// Cause is what happened, NextStep what to do.
	Cause    string
	NextStep string
}

// String returns one line: cause (code): next step.
func (x Explanation) String() string {
	s := x.Cause
	if x.Code != "" {
		s += " (" + x.Code + ")"
	}
	return s + "; " + x.NextStep
}

// Explain explains any error. A code that is not in the table is explained by its class. An
// error that is not from the cloud is explained as a network error.
func Explain(err error) Explanation {
	var e *Error
	if !errors.As(err, &e) {
		return explainNoAnswer(Transient, err)
	}
	if row := lookup(e.Code); row != nil {
		return Explanation{Class: row.class, Reason: row.reason, Code: e.Code, Cause: row.cause, NextStep: row.next}
	}
	switch {
	case e.Code != "":
	case e.Class == Transient && e.Status != 0:
		return badAnswer
	default:
		return explainNoAnswer(e.Class, e.Err)
	}
	x := byClass(e.Class)
	x.Code = e.Code
	return x
}

// Repeatable reports whether the same call may succeed a few seconds later.
func Repeatable(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	if e.Class == Throttled || e.Class == Transient {
		return true
	}
	row := lookup(e.Code)
	return row != nil && row.repeat
}

// Classify returns the class of a code. A code that is not in the table is classified by its
// form, then by the HTTP status.
func Classify(code string, httpStatus int) Class {
	if row := lookup(code); row != nil {
		return row.class
	}
	for _, f := range families {
		if f.match(code, f.part) {
			return f.class
		}
	}
	switch {
	case httpStatus == http.StatusUnauthorized:
		return Auth
	case httpStatus == http.StatusForbidden && code == "":
		return Auth // from a proxy or gateway; ECS itself uses 403 for many errors, always with a code
	case httpStatus == http.StatusNotFound:
		return NotFound
	case httpStatus == http.StatusConflict:
		return Conflict
	case httpStatus == http.StatusTooManyRequests:
		return Throttled
	case httpStatus == http.StatusRequestTimeout, httpStatus >= 500:
		return Transient
	case httpStatus >= 400:
		return Invalid
	}
	return Transient
}

// families are forms of codes, in order of precedence.
var families = []struct {
	match func(code, part string) bool
	part  string
	class Class
}{
	{strings.Contains, "Throttling", Throttled},
	{strings.Contains, "FlowControl", Throttled},
	{strings.HasSuffix, "IpNotEnough", VSwitchFull},
	{strings.HasPrefix, "InvalidAccessKey", Auth},
	{strings.HasPrefix, "InvalidSecurityToken", Auth},
	{strings.HasPrefix, "InvalidTimeStamp", Auth},
	{strings.HasPrefix, "Signature", Auth},
	{strings.HasPrefix, "Forbidden", Auth},
	{strings.HasPrefix, "NoPermission", Auth},
	{strings.HasPrefix, "PermissionDenied", Auth},
	{strings.HasPrefix, "Authentication", Auth},
	{strings.HasPrefix, "Unauthorized", Auth},
	{strings.HasPrefix, "QuotaExceed", Quota},
	{strings.HasSuffix, "QuotaExceeded", Quota},
	{strings.HasSuffix, "LimitExceed", Quota},
	{strings.HasSuffix, "LimitExceeded", Quota},
	{strings.HasSuffix, "CountExceeded", Quota},
	{strings.HasSuffix, ".NotFound", NotFound},
	{strings.HasSuffix, "Processing", Conflict},
	{strings.HasPrefix, "IncorrectStatus", Conflict},
	{strings.HasPrefix, "Conflict", Conflict},
	{strings.HasPrefix, "DependencyViolation", Conflict},
	{strings.HasPrefix, "ServiceUnavailable", Transient},
	{strings.HasPrefix, "InternalError", Transient},
}

// lookup returns the table's row for a code, or nil. The table is small and errors are rare, so
// it scans.
func lookup(code string) *entry {
	if code == "" {
		return nil
	}
	for i := range table {
		for _, c := range table[i].codes {
			if c == code {
				return &table[i]
			}
		}
	}
	return nil
}

// badAnswer explains answers that the cloud would not give.
var badAnswer = Explanation{Class: Transient, Reason: "BadAnswer",
	Cause:    "the endpoint's answer does not fit the cloud's API",
	NextStep: "check that the configured endpoint is the cloud's API, and what proxies are on the way to it; otherwise report a defect with the message",
}

// explainNoAnswer explains calls without an answer.
func explainNoAnswer(class Class, err error) Explanation {
	switch {
	case class == Auth:
		return Explanation{Class: Auth, Reason: "NoCredential",
			Cause:    "the controller has no credential for the cloud's API",
			NextStep: "mount a Secret with an access key, give the instance a RAM role, or set up RRSA"}
	case class == Throttled:
		return Explanation{Class: Throttled, Reason: "RateLimited",
			Cause:    "too many calls wait for the API's rate limit, so this one could not be made in time",
			NextStep: "nothing: it is tried again; if it lasts, raise the controller's rate limits (chart: controller.cloudLimits) to what the account may use"}
	case class == Transient && errors.Is(err, context.Canceled):
		return Explanation{Class: Transient, Reason: "Cancelled",
			Cause:    "the call was canceled because the program is stopping or the result is no longer needed",
			NextStep: "nothing"}
	case class == Transient:
		return Explanation{Class: Transient, Reason: "Unreachable",
			Cause:    "the cloud's API could not be reached or did not answer in time",
			NextStep: "check that the controller's node reaches the API endpoint (DNS, proxy, security group, VPC endpoint)"}
	}
	return byClass(class)
}

// byClass explains a code that is not in the table.
func byClass(class Class) Explanation {
	x := Explanation{Class: class, NextStep: "read the message; the code is described in the cloud's API reference"}
	switch class {
	case NotFound:
		x.Reason, x.Cause = "NotFound", "a resource that the request names does not exist"
	case Conflict:
		x.Reason, x.Cause = "Conflict", "the resource is busy or in a state that does not allow this"
	case Throttled:
		x.Reason, x.Cause = "Throttled", "the API is called more often than a limit allows"
		x.NextStep = "nothing: calls are slowed down and repeated"
	case Quota:
		x.Reason, x.Cause = "QuotaExceeded", "a quota of the account or a limit of a resource is reached"
		x.NextStep = "the message names the limit; ask for a higher quota in the Quota Center, or use less"
	case VSwitchFull:
		x.Reason, x.Cause = "VSwitchFull", "the vSwitch has no free address left"
		x.NextStep = "add a pod vSwitch with free addresses in this zone to the configuration"
	case Auth:
		x.Reason, x.Cause = "NotAllowed", "the cloud does not accept the credential, or it lacks a permission"
		x.NextStep = "check the credential, and that deploy/ram-policy.json is attached to its RAM user or role"
	case Invalid:
		x.Reason, x.Cause = "Refused", "the cloud does not accept the request"
	default:
		x.Reason, x.Cause = "CloudTrouble", "the cloud could not process the request"
		x.NextStep = "nothing: it is repeated; if it lasts, open a ticket with the request id"
	}
	return x
}
