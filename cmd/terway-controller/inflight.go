package main

import (
	"net/http"

	"k8s.io/client-go/rest"
)

// requestsAtOnce is how many requests the controller sends to the API server at the same time.
// There are many workers, because most of them wait for the cloud; when the cloud answers many at
// once (a cold start, a failover) all would write at the same time. A small or busy API server
// would then take so long that the controller loses its own Lease. With this limit the API server's
// latency sets the rate: 32 that take 10 ms each are 3,200 a second.
const requestsAtOnce = 32

// bounded returns a configuration whose clients share requestsAtOnce.
func bounded(c *rest.Config) *rest.Config {
	c = rest.CopyConfig(c)
	slots := make(chan struct{}, requestsAtOnce)
	c.Wrap(func(next http.RoundTripper) http.RoundTripper { return inFlight{next, slots} })
	return c
}

// inFlight passes a request when there is a slot. Watches, which stay open, need none.
type inFlight struct {
	next  http.RoundTripper
	slots chan struct{}
}

func (l inFlight) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Query().Get("watch") == "true" {
		return l.next.RoundTrip(r)
	}
	select {
	case l.slots <- struct{}{}:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	defer func() { <-l.slots }()
	return l.next.RoundTrip(r)
}
