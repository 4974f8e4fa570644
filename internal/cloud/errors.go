package cloud

import (
	"errors"
	"fmt"
	"time"
)

// Class says how a caller can react to an error.
type Class string

const (
	NotFound    Class = "NotFound"    // the resource does not exist
	Conflict    Class = "Conflict"    // the resource is busy or in the wrong state: try again later
	Throttled   Class = "Throttled"   // too many calls: call less often
	Quota       Class = "Quota"       // a limit of the account, type or group is reached
	VSwitchFull Class = "VSwitchFull" // the vSwitch has no address left
	Auth        Class = "Auth"        // credential or permission
	Invalid     Class = "Invalid"     // the request is wrong; a retry does not help
	Transient   Class = "Transient"   // a network or server error: try again
)

// Error is a failed call. Code is the cloud's error code ("InvalidVSwitchId.IpNotEnough"), or
// empty if there was no answer.
//
// Errors are written to logs, events and conditions, so they never contain a credential: no
// signed URL, no string to sign, no security token.
type Error struct {
	Action    string
	Code      string
	Class     Class
	Status    int // HTTP status; 0 without an answer
	RequestID string
	Message   string
	// Err is the reason why there was no answer (a context's error, a network error), or nil.
	Err error
	// After, if not zero, says that the call was deferred because too many calls were queued,
	// and when to try again; see WithDeferral.
	After time.Duration
}

func (e *Error) Error() string {
	if e.RequestID != "" {
		return e.Brief() + " (request " + e.RequestID + ")"
	}
	return e.Brief()
}

// Brief returns the error without the request id, so that it is equal for repeated calls.
func (e *Error) Brief() string {
	code := e.Code
	if code == "" {
		code = string(e.Class)
	}
	return fmt.Sprintf("%s: %s: %s", e.Action, code, e.Message)
}

func (e *Error) Unwrap() error { return e.Err }

// Details are the answer for programs: {"action": …, "class": …, "code": …, "requestId": …}.
func (e *Error) Details() (name string, value any) {
	return "cloud", struct {
		Action    string `json:"action"`
		Class     Class  `json:"class"`
		Code      string `json:"code,omitempty"`
		RequestID string `json:"requestId,omitempty"`
	}{e.Action, e.Class, e.Code, e.RequestID}
}

// ClassOf returns the class of the *Error in err's chain. Any other error is Transient: its
// cause is unknown, and a retry is safe.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return Transient
}

// CodeOf returns the cloud's code of the *Error in err's chain, or "".
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
