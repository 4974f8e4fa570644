package uninstall

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"terway.dev/terway/internal/vpcsim/faults"
)

// The time counts from the Job's start: a pod that starts late has less, and one that is too late has none.
func TestWithin(t *testing.T) {
	start := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "terway-uninstall", CreationTimestamp: metav1.NewTime(start.Add(-time.Hour))}}
	at := metav1.NewTime(start)
	job.Status.StartTime = &at
	c := fake.NewClientBuilder().WithObjects(job).WithStatusSubresource(job).Build()
	for after, want := range map[time.Duration]time.Duration{
		-time.Minute:     29 * time.Minute, // this node's clock is late: it never has more than the timeout
		0:                30 * time.Minute,
		20 * time.Minute: 30 * time.Minute,
		30 * time.Minute: 0,
		34 * time.Minute: 0,
	} {
		ctx, cancel, err := Within(t.Context(), c, ns, "terway-uninstall", 30*time.Minute, start.Add(after))
		if want == 0 {
			if err == nil || !strings.Contains(err.Error(), after.String()+" ago") {
				t.Errorf("after %s: %v, want that it is too late", after, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if end, ok := ctx.Deadline(); !ok || !end.Equal(start.Add(want)) {
			t.Errorf("after %s: it ends %s after the start, want %s", after, end.Sub(start), want)
		}
		<-ctx.Done() // in the past of this test
		if cause := context.Cause(ctx); !strings.Contains(cause.Error(), "30m0s (--timeout) after Job") {
			t.Errorf("after %s: %v", after, cause)
		}
		cancel()
	}
	if _, _, err := Within(t.Context(), c, ns, "other", time.Minute, start); err == nil || !strings.Contains(err.Error(), "--job: read Job kube-system/other") {
		t.Errorf("no Job: %v", err)
	}
}

// The time may end while ENIs are left and no call has failed: then there is no error to name.
func TestTimeEndsWithENIs(t *testing.T) {
	r := newRig(t)
	over := errors.New("time is up")
	r.o.Sleep = func(context.Context, time.Duration) error { return over }
	u := &uninstaller{Options: r.o}
	r.Fault(faults.Rule{Name: "detach", Action: "DetachNetworkInterface", Error: &faults.Error{Code: "IncorrectInstanceStatus"}})
	if err := u.giveBack(t.Context()); !errors.Is(err, over) || !strings.Contains(err.Error(), "2 are left: ENI eni-") {
		t.Errorf("a call has failed: %v", err)
	}
	r.Sim.RemoveFault("detach")
	err := u.giveBack(t.Context())
	if want := "give back the cluster's ENIs: time is up; by the cloud's last list 2 are left"; !errors.Is(err, over) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
