package cloud

import (
	"errors"
	"fmt"
	"time"
)

// Class is what a caller can do about an error.
type Class string

const (
	NotFound    Class = "NotFound"    // the resource does not exist
	Conflict    Class = "Conflict"    // the resource is busy or in the wrong state: try again later
	Throttled   Class = "Throttled"   // too many calls: slow down
	Quota       Class = "Quota"       // a limit of the account, type or group is reached
	VSwitchFull Class = "VSwitchFull" // the vSwitch has no address left
	Auth        Class = "Auth"        // credential or permission
	Invalid     Class = "Invalid"     // the request is wrong; a retry does not help
	Transient   Class = "Transient"   // network or server trouble: try again
)

// Error is an answer of the cloud that is not success. Code is the cloud's own
// ("InvalidVSwitchId.IpNotEnough"); empty when the call did not get an answer.
//
// An Error ends in logs, events and conditions, so it never holds a credential:
// no signed URL, no string to sign, no security token.
type Error struct {
	Action    string
	Code      string
	Class     Class
	Status    int // HTTP status; 0 without an answer
	RequestID string
	Message   string
	// Err is what stopped a call that got no answer (a context's error, a
	// network error), nil otherwise.
	Err error
	// After, if not zero, says that the call was deferred, as too many were queued before it, and
	// when to try again; see WithDeferral.
	After time.Duration
}

func (e *Error) Error() string {
	if e.RequestID != "" {
		return e.Brief() + " (request " + e.RequestID + ")"
	}
	return e.Brief()
}

// Brief is the error without the request's id: the same again when a call is repeated.
func (e *Error) Brief() string {
	code := e.Code
	if code == "" {
		code = string(e.Class)
	}
	return fmt.Sprintf("%s: %s: %s", e.Action, code, e.Message)
}

func (e *Error) Unwrap() error { return e.Err }

// ClassOf returns the class of the *Error in err's chain. Any other error is
// Transient: nothing is known of it, so a retry is the safe answer.
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
