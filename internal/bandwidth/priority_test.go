package bandwidth

import (
	"strings"
	"testing"
)

func TestPriorityOf(t *testing.T) {
	for _, right := range []Priority{Guaranteed, Burstable, BestEffort} {
		if got, err := PriorityOf(map[string]string{NetworkPriority: string(right)}); got != right || err != nil {
			t.Errorf("%s: %q, %v", right, got, err)
		}
	}
	if got, err := PriorityOf(map[string]string{Ingress: "1M"}); got != Burstable || err != nil {
		t.Errorf("without the annotation: %q, %v", got, err)
	}
	for _, wrong := range []string{"", "Guaranteed", "besteffort", "best_effort", " burstable", "high", "0"} {
		got, err := PriorityOf(map[string]string{NetworkPriority: wrong})
		if got != "" || err == nil || !strings.Contains(err.Error(), NetworkPriority+`: "`+wrong+`"`) || !strings.Contains(err.Error(), `such as "guaranteed"`) {
			t.Errorf("%q: %q, %v", wrong, got, err)
		}
	}
}
