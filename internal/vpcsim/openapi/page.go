package openapi

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
)

// paging is one API's way of cutting lists.
type paging struct {
	defaultSize int
	maxSize     int // PageSize
	maxResults  int // MaxResults; 0: the API has no tokens
	minResults  int
	// maxParam is how the API spells MaxResults.
	maxParam string
}

var (
	eniPaging      = paging{defaultSize: 10, maxSize: 1000, maxResults: 500, minResults: 10, maxParam: "MaxResults"}
	instancePaging = paging{defaultSize: 10, maxSize: 100, maxResults: 100, minResults: 10, maxParam: "MaxResults"}
	typePaging     = paging{defaultSize: 100, maxResults: 100, minResults: 1, maxParam: "MaxResults"}
	groupPaging    = paging{defaultSize: 10, maxSize: 100, maxResults: 100, minResults: 10, maxParam: "MaxResults"}
	rulePaging     = paging{defaultSize: 500, maxResults: 1000, minResults: 1, maxParam: "MaxResults"}
	tagPaging      = paging{defaultSize: 50, maxResults: 50, minResults: 1, maxParam: "MaxResults"}
	imagePaging    = paging{defaultSize: 10, maxSize: 100}
	eipPaging      = paging{defaultSize: 10, maxSize: 100}
	statusPaging   = paging{defaultSize: 10, maxSize: 50}
	vpcPaging      = paging{defaultSize: 10, maxSize: 50}
	entryPaging    = paging{defaultSize: 10, maxResults: 100, minResults: 1, maxParam: "MaxResult"}
)

// page is the part of a list that a call asked for.
type page[T any] struct {
	api       paging
	items     []T
	tokenMode bool
	next      string
	number    int
	size      int
	total     int
}

// fields adds what the API says about the page to a response.
func (p *page[T]) fields(o obj) obj {
	if p.api.maxResults > 0 {
		o["NextToken"] = p.next
	}
	if p.api.maxSize > 0 {
		// With tokens too: clients look at the size they asked for.
		o["PageNumber"], o["PageSize"], o["TotalCount"] = p.number, p.size, p.total
	}
	return o
}

// paginate cuts list, which key gives stable names, as the call asks. MaxResults
// out of range is taken as the nearest bound; PageSize out of range is an error. A call
// that asks for nothing gets a token too, where the API has tokens: programs that
// follow tokens alone would take its first page for all there is.
func paginate[T any](c *call, p paging, list []T, key func(T) string) (*page[T], *Error) {
	var q struct {
		PageNumber, PageSize *int
		NextToken            string
	}
	if e := decode(c.params, &q); e != nil {
		return nil, e
	}
	limit, e := c.intParam(p.maxParam)
	if e != nil {
		return nil, e
	}
	byNumber := q.PageNumber != nil || q.PageSize != nil
	if p.maxResults > 0 && (limit != nil || q.NextToken != "" || !byNumber || p.maxSize == 0) {
		return tokenPage(p, list, key, limit, q.NextToken)
	}
	number, size := 1, p.defaultSize
	if q.PageNumber != nil {
		if number = *q.PageNumber; number < 1 {
			return nil, invalid("PageNumber", c.params.Get("PageNumber"), "a number from 1")
		}
	}
	if q.PageSize != nil {
		if size = *q.PageSize; size < 1 || size > p.maxSize {
			return nil, errorf(http.StatusBadRequest, "InvalidParameter",
				"The specified parameter \"PageSize\" is not valid: %d is not within 1–%d.", size, p.maxSize)
		}
	}
	from := len(list)
	if number-1 <= len(list)/size {
		from = min((number-1)*size, len(list))
	}
	return &page[T]{api: p, items: list[from:min(from+size, len(list))], number: number, size: size, total: len(list)}, nil
}

// tokenPage cuts the list in the order of its keys, and a token names the last
// key given: so that what comes and goes between two pages neither repeats nor
// hides another item.
func tokenPage[T any](p paging, list []T, key func(T) string, limit *int, token string) (*page[T], *Error) {
	size := p.defaultSize
	if limit != nil {
		size = min(max(*limit, p.minResults), p.maxResults)
	}
	if order := func(a, b T) int { return strings.Compare(key(a), key(b)) }; !slices.IsSortedFunc(list, order) {
		list = slices.Clone(list)
		slices.SortStableFunc(list, order)
	}
	from := 0
	if token != "" {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		after, ok := strings.CutPrefix(string(raw), tokenPrefix)
		if err != nil || !ok {
			return nil, invalid("NextToken", token, "a token that this action returned")
		}
		for from < len(list) && key(list[from]) <= after {
			from++
		}
	}
	to := min(from+size, len(list))
	out := &page[T]{api: p, items: list[from:to], tokenMode: true, number: 1, size: size, total: len(list)}
	if limit != nil {
		out.size = *limit
	}
	if to < len(list) {
		out.next = base64.RawURLEncoding.EncodeToString([]byte(tokenPrefix + key(list[to-1])))
	}
	return out, nil
}

// tokenPrefix tells our tokens from other text.
const tokenPrefix = "after:"
