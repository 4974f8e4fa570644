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
		"while waiting: context canceled\ninterrupted: run the command again to go on": fmt.Errorf("stopped while waiting: %w", context.Canceled),
		"\ninterrupted: run the command again":                                         &cloud.Error{Class: cloud.Transient, Err: context.Canceled},
		"run the command again in a minute":                                            &cloud.Error{Class: cloud.Throttled, Code: "Throttling.User"},
		"check that this machine reaches the endpoint":                                 &cloud.Error{Class: cloud.Transient, Err: io.EOF},
		"\nthe access key's secret does not match the access key":                      &cloud.Error{Class: cloud.Auth, Code: "SignatureDoesNotMatch"},
		": do this": &cloud.Error{Class: cloud.Auth, Code: "Forbidden.RAM"},
	} {
		if got := Explain(fmt.Errorf("look: %w", err), "do this"); !strings.Contains(got.Error(), want) || !errors.Is(got, err) {
			t.Errorf("%v: want %q in it", got, want)
		}
	}
}
