// Package pages lists objects of the API server a page at a time, where a cache will not do:
// a list of thousands is a large answer, which the API server and the reader hold as a whole.
//
// It must never hand out a page that has anything of another one.
package pages

import (
	"context"
	"iter"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// size is how many objects the API server is asked for at once; kubectl asks for as many.
const size = 500

// Of lists objects as r has them, which should not be a cache: one has no pages, and gives
// everything as the first. Each page is a new list, made after the empty one. The error is
// r's and ends the list; one is that a page was asked for so late (minutes) that the API server
// has forgotten the list: begin anew.
func Of[L client.ObjectList](ctx context.Context, r client.Reader, empty L, opts ...client.ListOption) iter.Seq2[L, error] {
	return func(yield func(L, error) bool) {
		for next := ""; ; {
			// JSON is decoded into the elements that a list has: what a page does not say of
			// its first object would be what the page before said of its own.
			page := empty.DeepCopyObject().(L)
			if err := r.List(ctx, page, append([]client.ListOption{client.Limit(size), client.Continue(next)}, opts...)...); err != nil {
				yield(page, err)
				return
			}
			next = page.GetContinue()
			if !yield(page, nil) || next == "" {
				return
			}
		}
	}
}
