package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/datapath"
)

func TestAnENIWhoseDeviceGoesIsReported(t *testing.T) {
	e := newEnv(t, 1)
	onNode := map[string]Device{}
	e.configure = func(o *Options) { o.Devices = func() (map[string]Device, error) { return onNode, nil } }
	e.restart()
	missing := func() []string { return e.a.Status(v1alpha1.NodeNetworkStatus{}).MissingENIs }
	if m := missing(); m != nil {
		t.Errorf("missing %v: it may be on its way", m)
	}
	onNode[eniMAC] = Device{Name: "eth1"}
	e.repair()
	delete(onNode, eniMAC)
	e.repair()
	if m := missing(); !slices.Equal(m, []string{"eni-1"}) {
		t.Errorf("missing %v at once when the device went, want eni-1", m)
	}
	w := e.a.want
	w.ENIs = slices.Clone(w.ENIs)
	w.ENIs[0].Ready = false
	e.setWant(w)
	if m := missing(); m != nil {
		t.Errorf("missing %v: the controller attaches it again", m)
	}
	w.ENIs = slices.Clone(w.ENIs)
	w.ENIs[0].Ready = true
	e.setWant(w)
	if m := missing(); m != nil {
		t.Errorf("missing %v just after it was attached", m)
	}
	e.sleep(arrival)
	if m := missing(); !slices.Equal(m, []string{"eni-1"}) {
		t.Errorf("missing %v when it has not come for %v, want eni-1", m, arrival)
	}
}

// An ENI that a pod has to itself is on the node, in the pod, or on its way between: only
// one that is nowhere is missing.
func TestAnExclusiveENIWhoseDeviceGoesIsReported(t *testing.T) {
	e, onNode := mixed(t)
	is := func(when string, want ...string) {
		t.Helper()
		if m := e.a.Status(v1alpha1.NodeNetworkStatus{}).MissingENIs; !slices.Equal(m, want) {
			t.Errorf("%s: missing %v, want %v", when, m, want)
		}
	}
	lost := func(err error) {
		e.dp.failSync = nil
		if err != nil {
			e.dp.failSync = errors.Join(&datapath.PodError{Sandbox: "own1", IfName: "eth0", Err: fmt.Errorf("ENI eni-2: %w", err)})
		}
		e.repair() // finds it out
		e.repair() // the next look knows
	}
	e.dp.onAdd = func(at step) {
		delete(onNode, exclusiveMAC)
		e.a.lookForDevices()
		e.sleep(arrival)
		is("ADD, " + string(at))
	}
	e.mustAdd("own1")
	e.sleep(arrival)
	e.repair()
	is("in the pod")
	lost(errors.New("no route"))
	is("in the pod, which has other trouble")
	lost(datapath.ErrNoDevice)
	is("detached from the pod", "eni-2")
	lost(nil)
	is("attached again, and in the pod")
	e.dp.onDel = func(at step) {
		e.a.lookForDevices()
		e.sleep(arrival)
		is("DEL, " + string(at))
	}
	e.del("own1")
	is("a moment after DEL")
	onNode[exclusiveMAC] = Device{Name: "eth2", MTU: 1500}
	e.repair()
	delete(onNode, exclusiveMAC)
	e.repair()
	is("gone from the node a moment ago: a pod may have it by now")
	e.sleep(arrival)
	is("gone from the node", "eni-2")
}

// Whatever took a pod's address away, the pod is told, once; what is back in time is not
// worth an event.
func TestAPodWhoseAddressIsGoneIsTold(t *testing.T) {
	e := newEnv(t, 2)
	var told []string
	e.configure = func(o *Options) {
		o.Tell = func(pod PodRef, reason, note string) {
			told = append(told, fmt.Sprint(pod.Name, " ", reason, " ", note))
		}
	}
	e.restart()
	addr, _, _ := strings.Cut(e.mustAdd("a"), "/")
	full := e.a.want
	none := full
	none.ENIs = nil
	e.setWant(none)
	e.sleep(strandedAfter / 2)
	e.setWant(full)
	e.sleep(strandedAfter)
	e.repair()
	if len(told) > 0 {
		t.Errorf("told %q of an address that is back", told)
	}
	gone := full
	gone.ENIs = slices.Clone(full.ENIs)
	gone.ENIs[0].Addresses = slices.Clone(full.ENIs[0].Addresses)
	for i := range gone.ENIs[0].Addresses {
		gone.ENIs[0].Addresses[i].Gone = true
	}
	for _, w := range []Want{gone, none, gone} {
		e.setWant(w)
		e.sleep(strandedAfter)
		e.repair()
		e.repair()
	}
	if len(told) != 1 || !strings.HasPrefix(told[0], "pod-a "+reasonStranded) || !strings.Contains(told[0], addr) || !strings.Contains(told[0], "delete it") {
		t.Errorf("told %q, want the pod's name, its address and what to do, once", told)
	}
	if ok, why := e.a.Ready(); !ok {
		t.Errorf("the node is not ready: %s", why)
	}
}

func TestAWaitingPodHearsThatTheControllerIsSilent(t *testing.T) {
	why := func(e *env) string {
		_, err := e.add("a")
		if err == nil {
			t.Fatal("there was an address")
		}
		return err.Msg
	}
	const silent = "no answer from terway-controller"
	e := newEnv(t, 0)
	e.a.reported(1, nil)
	if s := why(e); strings.Contains(s, silent) {
		t.Errorf("at once: %s", s)
	}
	e.sleep(answerTime)
	e.a.reported(1, nil)
	if s := why(e); !strings.Contains(s, silent+" for 20s") {
		t.Errorf("after %v: %s", answerTime, s)
	}
	w := e.a.want
	w.Generation++
	e.setWant(w)
	if s := why(e); strings.Contains(s, silent) {
		t.Errorf("when it has just said something: %s", s)
	}
	w.Generation, w.Moving = w.Generation+1, true
	e.setWant(w)
	e.sleep(answerTime)
	if s := why(e); strings.Contains(s, silent) {
		t.Errorf("while an ENI is being attached: %s", s)
	}
	e.sleep(movingTime)
	if s := why(e); !strings.Contains(s, silent) {
		t.Errorf("when an ENI has been on its way for %v: %s", movingTime, s)
	}
	e.a.reported(1, errors.New("connection refused"))
	if s := why(e); !strings.Contains(s, "cannot be written: connection refused") {
		t.Errorf("when the report cannot be written: %s", s)
	}
	e.a.reported(0, nil)
	e.a.reported(1, nil)
	if s := why(e); strings.Contains(s, silent) || strings.Contains(s, "refused") {
		t.Errorf("a new demand: %s", s)
	}
}
