package openapi

import (
	"fmt"
	"net/http"
)

// Error is an error answer as it is sent.
type Error struct {
	Status  int
	Code    string
	Message string
	// Header are extra response headers.
	Header map[string]string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Code, e.Message) }

func errorf(status int, code, format string, args ...any) *Error {
	return &Error{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

// missing returns the error for a missing mandatory parameter.
func missing(name string) *Error {
	return errorf(http.StatusBadRequest, "MissingParameter",
		"The input parameter %q that is mandatory for processing this request is not supplied.", name)
}

// invalid returns the error for an invalid parameter.
func invalid(name, value, want string) *Error {
	if len(value) > 100 {
		value = value[:100] + "…"
	}
	return errorf(http.StatusBadRequest, "InvalidParameter",
		"The specified parameter %q is not valid: %q is not %s.", name, value, want)
}

// throttled returns the error for a call beyond the action's rate.
func throttled() *Error {
	return errorf(http.StatusBadRequest, "Throttling", "Request was denied due to request throttling.")
}
