package cloudflags

import (
	"context"
	"errors"
	"fmt"

	"terway.dev/terway/internal/cloud"
)

// Explain adds advice for a user to an error of the cloud: the advice of cloud.Explain is for
// the controller, which has its own credential and retries calls. permission is what the
// command needs. If ctx was cancelled, the error is what the command was at.
func Explain(ctx context.Context, err error, permission string) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w\nrun the command again to continue", err)
	}
	var e *cloud.Error
	if err == nil || !errors.As(err, &e) {
		return err
	}
	x := cloud.Explain(err)
	switch {
	case x.Reason == "NoPermission":
		x.NextStep = permission
	case x.Class == cloud.Throttled:
		x.NextStep = "run the command again in a minute: it has slowed down and repeated the call already; if it lasts, look for other programs that use the same account"
	case x.Class == cloud.Transient:
		x.NextStep = "check that this machine reaches the endpoint (DNS, proxy, --endpoint, --endpoint-network), or give it more time (--timeout), and run the command again"
	case x.Class == cloud.Auth && x.Code == "": // err already names the missing credential
		return err
	case x.Class == cloud.Auth:
		return fmt.Errorf("%w\n%s", err, x.Cause)
	}
	return fmt.Errorf("%w\n%s: %s", err, x.Cause, x.NextStep)
}
