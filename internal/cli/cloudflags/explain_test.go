package cloudflags

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"terway.dev/terway/internal/cloud"
)

// TestExplain: the advice is about the user's command, not the controller.
func TestExplain(t *testing.T) {
	for want, err := range map[string]error{
		"run the command again in a minute":                       &cloud.Error{Class: cloud.Throttled, Code: "Throttling.User"},
		"check that this machine reaches the endpoint":            &cloud.Error{Class: cloud.Transient, Err: io.EOF},
		"\nthe access key's secret does not match the access key": &cloud.Error{Class: cloud.Auth, Code: "SignatureDoesNotMatch"},
		": do this": &cloud.Error{Class: cloud.Auth, Code: "Forbidden.RAM"},
	} {
		if got := Explain(t.Context(), fmt.Errorf("look: %w", err), "do this"); !strings.Contains(got.Error(), want) || !errors.Is(got, err) {
			t.Errorf("%v: want %q in it", got, want)
		}
	}
	// After an interrupt the error is what was being done: its advice would be wrong.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := &cloud.Error{Action: "DescribeVpcs", Class: cloud.Transient, Code: "ServiceUnavailable", Message: "later"}
	if got, want := Explain(ctx, err, "do this").Error(), "DescribeVpcs: ServiceUnavailable: later\nrun the command again to continue"; got != want {
		t.Errorf("interrupted: %q, want %q", got, want)
	}
	if got := Explain(ctx, nil, ""); got != nil {
		t.Errorf("%v: nothing is wrong", got)
	}
}
