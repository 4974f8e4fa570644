package state

import (
	"errors"
	"fmt"
	"net/http"
)

// Error is an error of the service.
type Error struct {
	HTTPStatus int
	Code       string
	Message    string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// CodeOf returns the code of the *Error in err's chain, or "".
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func badRequest(code, format string, args ...any) *Error {
	return &Error{http.StatusBadRequest, code, fmt.Sprintf(format, args...)}
}

func forbidden(code, format string, args ...any) *Error {
	return &Error{http.StatusForbidden, code, fmt.Sprintf(format, args...)}
}

func notFound(code, format string, args ...any) *Error {
	return &Error{http.StatusNotFound, code, fmt.Sprintf(format, args...)}
}

func missing(parameter string) *Error {
	return badRequest("MissingParameter", "The input parameter %q that is mandatory for processing this request is not supplied.", parameter)
}

func invalid(parameter, value, want string) *Error {
	return badRequest("InvalidParameter", "The specified parameter %q is not valid: %q, expected %s.", parameter, value, want)
}

func dryRun() *Error {
	return badRequest("DryRunOperation", "Request validation has been passed with DryRun flag set.")
}
