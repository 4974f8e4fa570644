package agent

import (
	"fmt"
	"time"
)

// contact records the last exchanges between agent and controller.
type contact struct {
	// heard is when the desired state was last received.
	heard time.Time
	// asked is when the API server accepted a report with waiting pods; zero: none wait.
	asked time.Time
	// failed is why the last report could not be written, nil if it was.
	failed error
}

const (
	// answerTime is how long the controller may take to answer a demand: before it calls the cloud
	// it writes what it will do, or why it cannot. After a failure its successor has the lease
	// within 15 s.
	answerTime = 20 * time.Second
	// movingTime is the same while an ENI is being attached: the controller may have nothing to
	// write until it is. The controller stops waiting for one after two minutes.
	movingTime = 2 * time.Minute
)

// reported records the outcome of a report with so many waiting pods.
func (a *Agent) reported(waiting int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.contact.failed = err
	switch {
	case err != nil:
	case waiting == 0:
		a.contact.asked = time.Time{}
	case a.contact.asked.IsZero():
		a.contact.asked = a.Now()
	}
}

// silenceLocked says whether the controller may not know of the waiting pods, or has not answered;
// "" if neither.
func (a *Agent) silenceLocked() string {
	t := a.contact
	if t.failed != nil {
		return fmt.Sprintf("the controller may not know that the pod waits: the node's report cannot be written: %v", t.failed)
	}
	last := t.asked
	if t.heard.After(last) {
		last = t.heard
	}
	wait := answerTime
	if a.desired.Moving {
		wait = movingTime
	}
	if silent := a.Now().Sub(last); !t.asked.IsZero() && silent >= wait {
		return fmt.Sprintf("no answer from terway-controller for %s: is it running?", silent.Round(time.Second))
	}
	return ""
}
