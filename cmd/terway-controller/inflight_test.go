package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
)

func TestRequestsAtOnceAreBounded(t *testing.T) {
	arrived, answer := make(chan string, 4*requestsAtOnce), make(chan struct{})
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- r.URL.RawQuery
		<-answer
	}))
	defer api.Close()
	c, err := rest.HTTPClientFor(bounded(&rest.Config{Host: api.URL}))
	if err != nil {
		t.Fatal(err)
	}
	get := func(ctx context.Context, url string) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, api.URL+url, nil)
		if err != nil {
			return err
		}
		answer, err := c.Do(r)
		if err == nil {
			answer.Body.Close()
		}
		return err
	}
	var all sync.WaitGroup
	for range 2 * requestsAtOnce {
		all.Go(func() {
			if err := get(t.Context(), "/"); err != nil {
				t.Error(err)
			}
		})
	}
	for range requestsAtOnce {
		<-arrived
	}
	// All slots are taken: a request waits, as long as its caller does, and a watch does not.
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan error)
	go func() { waits <- get(ctx, "/") }()
	all.Go(func() {
		if err := get(t.Context(), "/?watch=true"); err != nil {
			t.Error(err)
		}
	})
	if q := <-arrived; q != "watch=true" {
		t.Errorf("request %d of %d is under way", requestsAtOnce+1, requestsAtOnce)
	}
	cancel()
	if err := <-waits; !errors.Is(err, context.Canceled) {
		t.Errorf("a request that was given up: %v", err)
	}
	close(answer)
	all.Wait()
}
