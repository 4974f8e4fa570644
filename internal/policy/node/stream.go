package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"terway.dev/terway/internal/policy/wire"
)

// A stream is a stream to a hub.
type stream struct {
	wire.Hub_FollowClient
	target string
	// settled: the hub has sent a complete revision. Client.mu guards it.
	settled bool

	mu sync.Mutex // for send
}

func (s *stream) send(m *wire.FromNode) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Send(m)
}

// lastWord is how long a hub may take to read the node's last message before it ends the
// stream.
const lastWord = 5 * time.Second

// finish ends the stream after the hub has read what was sent.
func (s *stream) finish() {
	s.mu.Lock()
	err := s.CloseSend()
	s.mu.Unlock()
	for err == nil {
		_, err = s.Recv()
	}
}

// bearer is the token of a call. It requires TLS.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// dial returns a connection to a hub, which connects on first use.
func (c *Client) dial(target, token string) (*grpc.ClientConn, error) {
	trust, err := c.Trust()
	if err != nil {
		return nil, fmt.Errorf("certificates to trust: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(trust) {
		return nil, errors.New("certificates to trust: there is none")
	}
	return grpc.NewClient("passthrough:///"+target,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: c.ServerName, MinVersion: tls.VersionTLS13})),
		grpc.WithPerRPCCredentials(bearer(token)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(wire.MaxMessage), grpc.MaxCallSendMsgSize(wire.MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 5 * time.Second}),
	)
}

// open opens a stream to a hub, and sends hello. Without an error the caller must call close.
func (c *Client) open(ctx context.Context, target string, hello *wire.Hello) (st *stream, closeAll func(), err error) {
	token, err := c.Token()
	if err != nil {
		return nil, nil, fmt.Errorf("token: %w", err)
	}
	conn, err := c.dial(target, token)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	closeAll = func() {
		cancel()
		_ = conn.Close()
		all.Wait()
	}
	call, err := wire.NewHubClient(conn).Follow(ctx)
	if err == nil {
		st = &stream{Hub_FollowClient: call, target: target}
		err = st.send(&wire.FromNode{Message: &wire.FromNode_Hello{Hello: hello}})
		if errors.Is(err, io.EOF) { // the stream has ended: Recv returns the error
			err = nil
		}
	}
	if err != nil {
		closeAll()
		return nil, nil, err
	}
	all.Go(func() { c.renew(ctx, st, token) })
	return st, closeAll, nil
}

// hubs returns the replicas' addresses.
func (c *Client) hubs(ctx context.Context) ([]string, error) {
	hubs, err := c.Hubs(ctx)
	if err != nil {
		return nil, fmt.Errorf("addresses of the policy hub: %w", err)
	}
	if len(hubs) == 0 {
		return nil, errors.New("the policy hub has no addresses: no replica of the controller is ready")
	}
	return hubs, nil
}

// follow keeps a stream to the hub with this index until it ends. settled: the hub has sent a
// complete revision.
func (c *Client) follow(ctx context.Context, n int) (settled bool, err error) {
	hubs, err := c.hubs(ctx)
	if err != nil {
		return false, err
	}
	target := hubs[n%len(hubs)]
	defer func() {
		if err != nil {
			err = fmt.Errorf("policy hub %s: %w", target, err)
		}
	}()
	st, closeAll, err := c.open(ctx, target, c.hello())
	if err != nil {
		return false, err
	}
	defer closeAll()
	c.stats.connects.Add(1)
	defer c.stream.CompareAndSwap(st, nil)
	for {
		m, err := st.Recv()
		if err != nil {
			return settled, err
		}
		// A message that this version does not know matches no case.
		switch m := m.Message.(type) {
		case *wire.ToNode_Update:
			if err := c.update(m.Update); err != nil {
				return settled, err
			}
		case *wire.ToNode_Settled:
			answer, err := c.settle(st, m.Settled)
			if answer != nil {
				err = errors.Join(err, st.send(answer))
			}
			if err != nil {
				defer time.AfterFunc(lastWord, closeAll).Stop()
				st.finish()
				return settled, err
			}
			settled = true
			c.stream.Store(st)
		case *wire.ToNode_AddressKnown:
			c.answer(st, m.AddressKnown)
		}
	}
}

// hello describes what the node has, including updates without a Settled.
func (c *Client) hello() *wire.Hello {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := &wire.Hello{Format: wire.Format, Version: c.Version}
	for n := range c.part.Resources() {
		if _, gone := c.remove[n]; !gone {
			h.Have = append(h.Have, n[:])
		}
	}
	for n := range c.put {
		if c.part.Resources()[n] == nil {
			h.Have = append(h.Have, n[:])
		}
	}
	return h
}

// renew sends the token after it has changed.
func (c *Client) renew(ctx context.Context, st *stream, sent string) {
	for c.sleep(ctx, tokenEvery) {
		token, err := c.Token()
		if err != nil {
			c.Log.Error("the token for the policy hub cannot be read", "why", err)
			continue
		}
		if token == sent {
			continue
		}
		if st.send(&wire.FromNode{Message: &wire.FromNode_Token{Token: &wire.Token{Token: token}}}) != nil {
			return
		}
		sent = token
	}
}
