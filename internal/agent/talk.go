package agent

import (
	"fmt"
	"time"
)

// talk is what agent and controller have last said to each other.
type talk struct {
	// heard is when the controller's last word came.
	heard time.Time
	// asked is when the API server took the report that pods wait; zero: none do.
	asked time.Time
	// failed is why the last report could not be written, nil if it was.
	failed error
}

const (
	// answerTime is how long the controller may take to answer a demand: it writes what it
	// will do before it asks the cloud, or why it cannot. Its successor, after a failure, has
	// the lease within 15 s.
	answerTime = 20 * time.Second
	// movingTime is the same while an ENI is on its way: until it has come there may be
	// nothing to say. The controller gives up waiting for one after two minutes.
	movingTime = 2 * time.Minute
)

// reported notes how the report of a status with so many waiting pods went.
func (a *Agent) reported(waiting int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.talk.failed = err
	switch {
	case err != nil:
	case waiting == 0:
		a.talk.asked = time.Time{}
	case a.talk.asked.IsZero():
		a.talk.asked = a.Now()
	}
}

// silenceLocked says that the controller does not know of the pods that wait, or has not
// answered; "" if neither is so.
func (a *Agent) silenceLocked() string {
	t := a.talk
	if t.failed != nil {
		return fmt.Sprintf("the controller may not know of it: the node's report cannot be written: %v", t.failed)
	}
	last := t.asked
	if t.heard.After(last) {
		last = t.heard
	}
	wait := answerTime
	if a.want.Moving {
		wait = movingTime
	}
	if silent := a.Now().Sub(last); !t.asked.IsZero() && silent >= wait {
		return fmt.Sprintf("no answer from terway-controller for %s: is it running?", silent.Round(time.Second))
	}
	return ""
}
