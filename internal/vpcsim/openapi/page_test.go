package openapi

import (
	"fmt"
	"net/url"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func pageOf(list []string, params url.Values, p paging) (*page[string], *Error) {
	return paginate(&call{params: params}, p, list, func(s string) string { return s })
}

// All pages together are the list, without repetitions or gaps, for any size.
func TestPagesCoverTheList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfNDistinct(rapid.StringN(1, 8, -1), 0, 60, rapid.ID[string]).Draw(t, "list")
		size := rapid.IntRange(1, 30).Draw(t, "size")
		p := paging{defaultSize: 10, maxSize: 100, maxResults: 100, minResults: 1, maxParam: "MaxResults"}
		want := slices.Sorted(slices.Values(list))

		var byNumber []string
		for n := 1; n <= len(list)/size+1; n++ {
			pg, e := pageOf(list, url.Values{"PageNumber": {fmt.Sprint(n)}, "PageSize": {fmt.Sprint(size)}}, p)
			if e != nil {
				t.Fatal(e)
			}
			byNumber = append(byNumber, pg.items...)
		}
		if !slices.Equal(byNumber, list) {
			t.Fatalf("by number %q, want %q", byNumber, list)
		}

		var byToken []string
		token := ""
		for {
			pg, e := pageOf(list, url.Values{"MaxResults": {fmt.Sprint(size)}, "NextToken": {token}}, p)
			if e != nil {
				t.Fatal(e)
			}
			byToken = append(byToken, pg.items...)
			if token = pg.next; token == "" {
				break
			}
		}
		if !slices.Equal(byToken, want) {
			t.Fatalf("by token %q, want %q", byToken, want)
		}
	})
}

// An item that exists all the time is listed once, whatever is added or removed between pages.
func TestTokensWhileTheListChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := func(i int) string { return fmt.Sprintf("eni-%02d", i) }
		there := map[int]bool{}
		for i := range 40 {
			there[i] = i%2 == 0 || rapid.Bool().Draw(t, "odd ones come and go")
		}
		p := paging{defaultSize: 5, maxResults: 100, minResults: 1, maxParam: "MaxResults"}
		seen := map[string]int{}
		token := ""
		for {
			var list []string
			for i := range 40 {
				if there[i] {
					list = append(list, name(i))
				}
			}
			pg, e := pageOf(list, url.Values{"NextToken": {token}}, p)
			if e != nil {
				t.Fatal(e)
			}
			for _, x := range pg.items {
				seen[x]++
			}
			if token = pg.next; token == "" {
				break
			}
			odd := rapid.IntRange(0, 19).Draw(t, "which")*2 + 1
			there[odd] = !there[odd]
		}
		for i := 0; i < 40; i += 2 {
			if seen[name(i)] != 1 {
				t.Fatalf("%s existed all the time and is listed %d times", name(i), seen[name(i)])
			}
		}
	})
}

func TestPageBounds(t *testing.T) {
	list := make([]string, 1000)
	for i := range list {
		list[i] = fmt.Sprintf("x%04d", i)
	}
	for query, want := range map[string]int{
		"":                           10,
		"MaxResults=1":               10, // the minimum
		"MaxResults=500":             500,
		"MaxResults=5000":            500,
		"PageSize=1000":              1000,
		"PageSize=7":                 7,
		"PageNumber=999999999":       0,
		"PageSize=0":                 -1,
		"PageSize=1001":              -1,
		"PageNumber=0":               -1,
		"PageNumber=x":               -1,
		"MaxResults=x":               -1,
		"NextToken=eA":               -1,
		"MaxResults=10&NextToken=?!": -1,
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		pg, e := pageOf(list, q, eniPaging)
		switch {
		case want < 0 && (e == nil || e.Code != "InvalidParameter"):
			t.Errorf("%s: %v, want InvalidParameter", query, e)
		case want >= 0 && e != nil:
			t.Errorf("%s: %v", query, e)
		case want >= 0 && len(pg.items) != want:
			t.Errorf("%s: %d items, want %d", query, len(pg.items), want)
		}
	}
}
