package agent

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"terway.dev/terway/api/v1alpha1"
)

// An agent that has just started has not checked the node: the previous report stands until it has,
// good or bad.
func TestRestartReportsNothingYet(t *testing.T) {
	e := newEnv(t, 3)
	prev := e.a.Status(v1alpha1.NodeNetworkStatus{})
	if c := meta.FindStatusCondition(prev.Conditions, v1alpha1.ConditionReady); c == nil || c.Status != "True" || prev.Datapath == "" {
		t.Fatalf("before the restart: %+v", prev)
	}
	e.kill()
	e.start()
	if st := e.a.Status(prev); !reflect.DeepEqual(st.Conditions, prev.Conditions) || st.Datapath != prev.Datapath {
		t.Errorf("after the restart: datapath %q, %+v", st.Datapath, st.Conditions)
	}
	e.dp.failSync = errors.New("no netlink")
	if err := e.a.SetDesired(Desired{Known: true, Datapath: "auto"}); err != nil {
		t.Fatal(err)
	}
	if err := e.a.Repair(context.Background()); err == nil {
		t.Fatal("repair succeeded")
	}
	if c := meta.FindStatusCondition(e.a.Status(prev).Conditions, v1alpha1.ConditionReady); c.Status != "False" || !strings.Contains(c.Message, "no netlink") {
		t.Errorf("after a failed repair: %+v", c)
	}
}

// An agent that cannot check its node does not stay ready for ever.
func TestRestartThatHangsIsReported(t *testing.T) {
	e := newEnv(t, 3)
	prev := e.a.Status(v1alpha1.NodeNetworkStatus{})
	e.kill()
	e.start()
	ready := func() bool {
		return meta.IsStatusConditionTrue(e.a.Status(prev).Conditions, v1alpha1.ConditionReady)
	}
	e.sleep(startGrace - time.Second)
	if !ready() {
		t.Error("not ready before the agent has had time to look")
	}
	e.sleep(time.Second)
	if ready() {
		t.Error("still ready although the agent does not get round to looking")
	}
}
