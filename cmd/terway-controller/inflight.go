package main

import (
	"net/http"

	"k8s.io/client-go/rest"
)

// requestsAtOnce is how many requests the controller has under way at the API server.
// Workers are many, as most of them wait for the cloud; when the cloud answers all at once
// (a cold start, a failover) each would write at once. An API server that is small or busy
// then takes so long for all of them that the controller loses its own Lease. With these many
// its time for a request sets the pace: 32 that take 10 ms each are 3,200 a second.
const requestsAtOnce = 32

// bounded is a configuration whose clients share requestsAtOnce.
func bounded(c *rest.Config) *rest.Config {
	c = rest.CopyConfig(c)
	slots := make(chan struct{}, requestsAtOnce)
	c.Wrap(func(next http.RoundTripper) http.RoundTripper { return inFlight{next, slots} })
	return c
}

// inFlight lets a request through when there is a slot. Watches, which stay, take none.
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
