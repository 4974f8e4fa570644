package load

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Cause is why a request failed.
type Cause string

// Causes.
const (
	// Refused: nobody listens, or a load balancer has no backend.
	Refused Cause = "refused"
	// Reset: the connection was reset.
	Reset Cause = "reset"
	// TimeOut: the connection did not open, or the answer did not come, in time.
	TimeOut Cause = "time-out"
	// EOF: the server closed the connection before its answer was complete.
	EOF Cause = "EOF"
	// Status: the answer's status is not 200.
	Status Cause = "status"
	// Other: another error of a system call, or an answer that is not HTTP.
	Other Cause = "other"
)

// Failure is a request that failed.
type Failure struct {
	// At is when it was sent, or its connection was opened.
	At time.Time `json:"at"`
	// After is how long it took to fail, in nanoseconds.
	After time.Duration `json:"after"`
	Cause Cause         `json:"cause"`
	// Status is that of the answer, if it is the cause.
	Status int `json:"status,omitempty"`
	// Bytes of the answer that came, if the cause is EOF.
	Bytes int64 `json:"bytes,omitempty"`
	// Pod answered the last request of the connection, or began to answer this one; empty if
	// nobody did.
	Pod string `json:"pod,omitempty"`
	// Answered is how many requests of the connection were answered before.
	Answered int `json:"answered"`
	// Local is the client's end of the connection, if one was opened.
	Local string `json:"local,omitempty"`
	Error string `json:"error,omitempty"`
}

func (f Failure) String() string {
	var b strings.Builder
	b.WriteString(f.At.Format("15:04:05.000 "))
	switch f.Cause {
	case Status:
		fmt.Fprintf(&b, "status %d", f.Status)
	case EOF:
		fmt.Fprintf(&b, "EOF after %d bytes", f.Bytes)
	case Other:
		b.WriteString(f.Error)
	default:
		b.WriteString(string(f.Cause))
	}
	fmt.Fprintf(&b, " after %.3f s", f.After.Seconds())
	switch {
	case f.Answered > 0:
		fmt.Fprintf(&b, ", on a connection of %d answers, the last by %s", f.Answered, f.Pod)
	case f.Pod != "":
		fmt.Fprintf(&b, ", while %s answered", f.Pod)
	case f.Local != "":
		b.WriteString(", on a new connection")
	default:
		b.WriteString(", no connection")
	}
	return b.String()
}

// Pod is what a pod has answered.
type Pod struct {
	// Answers it gave, over how many connections.
	Answers, Connections int
	// Last is when the last connection was opened of which it answered the first request.
	Last time.Time
}

// Report is what became of the requests.
type Report struct {
	Begin time.Time `json:"begin"`
	End   time.Time `json:"end"`
	Sent  int       `json:"sent"`
	// Connections is how many were opened.
	Connections int `json:"connections"`
	// Pods are those that answered, by name: the first line of an answer.
	Pods     map[string]*Pod `json:"pods"`
	Failures []Failure       `json:"failures"`
	// P50, P99 and Longest are how long answered requests took, in nanoseconds, with the
	// connection if they opened one.
	P50     time.Duration `json:"p50"`
	P99     time.Duration `json:"p99"`
	Longest time.Duration `json:"longest"`
}

// Summary formats the totals on one line.
func (r *Report) Summary() string {
	s := fmt.Sprintf("%d requests over %d connections, answered by %d pods, %d failed", r.Sent, r.Connections, len(r.Pods), len(r.Failures))
	causes := map[Cause]int{}
	for _, f := range r.Failures {
		causes[f.Cause]++
	}
	var parts []string
	for _, c := range slices.Sorted(maps.Keys(causes)) {
		parts = append(parts, fmt.Sprintf("%d %s", causes[c], c))
	}
	if len(parts) > 0 {
		s += " (" + strings.Join(parts, ", ") + ")"
	}
	return s
}

// WriteText writes the failures, a line for each, and the totals.
func (r *Report) WriteText(w io.Writer) error {
	for _, f := range r.Failures {
		if _, err := fmt.Fprintln(w, f); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s; in %.1f s; an answer took p50 %.2f ms, p99 %.2f ms, at most %.2f ms\n", r.Summary(),
		r.End.Sub(r.Begin).Seconds(), r.P50.Seconds()*1000, r.P99.Seconds()*1000, r.Longest.Seconds()*1000)
	return err
}

// maxListed is how many failures Err lists.
const maxListed = 20

// Err returns an error that lists failures, or that nothing was sent.
func (r *Report) Err() error {
	if r.Sent == 0 {
		return errors.New("no request was sent: nothing was tested")
	}
	return listed(r.Failures)
}

// OfNew returns an error that lists the failures of first requests of connections: those that a
// closed connection cannot explain.
func (r *Report) OfNew() error {
	if r.Sent == 0 {
		return errors.New("no request was sent: nothing was tested")
	}
	return listed(slices.DeleteFunc(slices.Clone(r.Failures), func(f Failure) bool { return f.Answered > 0 }))
}

// OfLiving returns an error that lists the failures on connections of pods that opened new ones later: such a pod had not
// ended.
func (r *Report) OfLiving() error {
	return listed(slices.DeleteFunc(slices.Clone(r.Failures), func(f Failure) bool {
		p := r.Pods[f.Pod]
		return f.Answered == 0 || p == nil || !p.Last.After(f.At)
	}))
}

func listed(failures []Failure) error {
	var errs []error
	for i, f := range failures {
		if i == maxListed {
			errs = append(errs, fmt.Errorf("and %d more", len(failures)-maxListed))
			break
		}
		errs = append(errs, errors.New(f.String()))
	}
	return errors.Join(errs...)
}
