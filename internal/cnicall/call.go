package cnicall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// BrokenError says that the connection to the agent failed, or ended before the answer: the
// agent is not running or restarts.
type BrokenError struct{ err error }

func (e *BrokenError) Error() string { return e.err.Error() }
func (e *BrokenError) Unwrap() error { return e.err }

func broken(what string, err error) error {
	return &BrokenError{fmt.Errorf("%s: %w", what, err)}
}

// Do makes a call; ctx needs a deadline. It does not retry.
func Do(ctx context.Context, socket string, in Request) (Reply, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return Reply{}, errors.New("a call of the agent needs a deadline")
	}
	raw, err := json.Marshal(in)
	if err != nil {
		return Reply{}, fmt.Errorf("the request: %w", err)
	}
	if len(raw) > Largest {
		return Reply{}, fmt.Errorf("a request of %d bytes: the agent takes at most %d", len(raw), Largest)
	}
	conn, err := connect(socket, max(time.Until(deadline), time.Millisecond))
	if err != nil {
		return Reply{}, broken("connect to "+socket, err)
	}
	defer conn.Close()
	// An agent that refuses a request may answer before it has read all of it, so only a
	// missing answer is an error.
	_, sent := conn.Write(raw)
	answer, err := io.ReadAll(io.LimitReader(conn, Largest+1))
	switch {
	case len(answer) > Largest:
		return Reply{}, fmt.Errorf("the agent's answer has more than %d bytes", Largest)
	case err != nil:
		return Reply{}, broken("read the answer", err)
	case len(answer) == 0 && sent != nil:
		return Reply{}, broken("ask", sent)
	}
	var out Reply
	if err := json.Unmarshal(answer, &out); err != nil {
		// The agent was killed before or during the answer.
		return Reply{}, broken(fmt.Sprintf("the agent's answer ends after %d bytes", len(answer)), err)
	}
	return out, nil
}

// connect opens a blocking socket: the answer wakes the waiting thread directly, without Go's
// network poller and its threads.
func connect(path string, patience time.Duration) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}
