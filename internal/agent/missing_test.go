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
		t.Errorf("missing %v: the device may appear soon", m)
	}
	onNode[eniMAC] = Device{Name: "eth1"}
	e.repair()
	delete(onNode, eniMAC)
	e.repair()
	if m := missing(); !slices.Equal(m, []string{"eni-1"}) {
		t.Errorf("missing %v at once when the device went, want eni-1", m)
	}
	w := e.a.desired
	w.ENIs = slices.Clone(w.ENIs)
	w.ENIs[0].Ready = false
	e.setDesired(w)
	if m := missing(); m != nil {
		t.Errorf("missing %v: the controller attaches it again", m)
	}
	w.ENIs = slices.Clone(w.ENIs)
	w.ENIs[0].Ready = true
	e.setDesired(w)
	if m := missing(); m != nil {
		t.Errorf("missing %v just after it was attached", m)
	}
	e.sleep(arrival)
	if m := missing(); !slices.Equal(m, []string{"eni-1"}) {
		t.Errorf("missing %v when it has not come for %v, want eni-1", m, arrival)
	}
}

// An exclusive ENI is on the node, in the pod, or being moved: it is missing only if it is nowhere.
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
		e.repair() // records it
		e.repair() // the next repair uses it
	}
	e.dp.onAdd = func(at step) {
		delete(onNode, exclusiveMAC)
		e.a.refreshDevices()
		e.sleep(arrival)
		is("ADD, " + string(at))
	}
	e.mustAdd("own1")
	e.sleep(arrival)
	e.repair()
	is("in the pod")
	lost(errors.New("no route"))
	is("in the pod, which has another problem")
	lost(datapath.ErrNoDevice)
	is("detached from the pod", "eni-2")
	lost(nil)
	is("attached again, and in the pod")
	e.dp.onDel = func(at step) {
		e.a.refreshDevices()
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

// Whatever removed a pod's address, the pod gets one event; an address that is back in time causes
// none.
func TestAPodWhoseAddressIsGoneIsTold(t *testing.T) {
	e := newEnv(t, 2)
	var events []string
	e.configure = func(o *Options) {
		o.PodEvent = func(pod PodRef, reason, note string) {
			events = append(events, fmt.Sprint(pod.Name, " ", reason, " ", note))
		}
	}
	e.restart()
	addr, _, _ := strings.Cut(e.mustAdd("a"), "/")
	full := e.a.desired
	none := full
	none.ENIs = nil
	e.setDesired(none)
	e.sleep(strandedAfter / 2)
	e.setDesired(full)
	e.sleep(strandedAfter)
	e.repair()
	if len(events) > 0 {
		t.Errorf("events %q for an address that is back", events)
	}
	gone := full
	gone.ENIs = slices.Clone(full.ENIs)
	gone.ENIs[0].Addresses = slices.Clone(full.ENIs[0].Addresses)
	for i := range gone.ENIs[0].Addresses {
		gone.ENIs[0].Addresses[i].Gone = true
	}
	for _, w := range []Desired{gone, none, gone} {
		e.setDesired(w)
		e.sleep(strandedAfter)
		e.repair()
		e.repair()
	}
	if len(events) != 1 || !strings.HasPrefix(events[0], "pod-a "+reasonStranded) || !strings.Contains(events[0], addr) || !strings.Contains(events[0], "delete it") {
		t.Errorf("events %q, want the pod's name, its address and what to do, once", events)
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
	w := e.a.desired
	w.Generation++
	e.setDesired(w)
	if s := why(e); strings.Contains(s, silent) {
		t.Errorf("just after a change: %s", s)
	}
	w.Generation, w.Moving = w.Generation+1, true
	e.setDesired(w)
	e.sleep(answerTime)
	if s := why(e); strings.Contains(s, silent) {
		t.Errorf("while an ENI is being attached: %s", s)
	}
	e.sleep(movingTime)
	if s := why(e); !strings.Contains(s, silent) {
		t.Errorf("when an ENI has been attaching for %v: %s", movingTime, s)
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
