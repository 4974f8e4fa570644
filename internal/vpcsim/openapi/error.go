package openapi

import (
	"fmt"
	"net/http"
)

// Error is an answer that is not success, as the wire has it.
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

// Missing is the answer to a call without a mandatory parameter.
func missing(name string) *Error {
	return errorf(http.StatusBadRequest, "MissingParameter",
		"The input parameter %q that is mandatory for processing this request is not supplied.", name)
}

// invalid is the answer to a parameter that cannot be understood.
func invalid(name, value, want string) *Error {
	if len(value) > 100 {
		value = value[:100] + "…"
	}
	return errorf(http.StatusBadRequest, "InvalidParameter",
		"The specified parameter %q is not valid: %q is not %s.", name, value, want)
}

// throttled is the answer to a call beyond the action's rate.
func throttled() *Error {
	return errorf(http.StatusBadRequest, "Throttling", "Request was denied due to request throttling.")
}
