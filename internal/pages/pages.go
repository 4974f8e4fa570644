// Package pages lists objects of the API server in pages, where a cache is not suitable: the
// API server and the reader must hold a long list completely in memory.
//
// A page must never contain anything of another page.
package pages

import (
	"context"
	"iter"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// size is the number of objects in a page; kubectl uses the same.
const size = 500

// Of yields a list in pages. r should not be a cache, which has no pages and returns everything
// as the first. Each page is a new list, made from empty. An error of r ends the list. It can
// mean that a page was requested too late (minutes) and the API server has forgotten the list;
// then start again.
func Of[L client.ObjectList](ctx context.Context, r client.Reader, empty L, opts ...client.ListOption) iter.Seq2[L, error] {
	return func(yield func(L, error) bool) {
		for next := ""; ; {
			// JSON is decoded into the existing elements of a list: fields missing in this
			// page's first object would keep the values of the page before.
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
