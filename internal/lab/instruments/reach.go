package instruments

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"terway.dev/terway/internal/lab"
)

// What becomes of a connection that Reach tries.
const (
	Open    = "answered"
	Silent  = "silent"
	Refused = "refused"
)

// reachTimeout is shorter than the second after which TCP repeats a SYN: a packet that is lost is seen.
const reachTimeout = 600 * time.Millisecond

// Reach tries one connection from a network namespace: by TCP it is opened; by UDP one of Echoes is to send a datagram back.
func Reach(ctx context.Context, netns, network, to string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	conn, err := lab.DialIn(ctx, netns, network, to)
	if err == nil {
		defer conn.Close()
		if network == "udp" {
			err = echoed(ctx, conn)
		}
	}
	switch timeout := net.Error(nil); {
	case err == nil:
		return Open, nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused, nil
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return Silent, nil
	}
	return "", fmt.Errorf("%s to %s: %w", network, to, err)
}

func echoed(ctx context.Context, conn net.Conn) error {
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("is anybody there?")); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 64))
	return err
}
