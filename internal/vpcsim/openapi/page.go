package openapi

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
)

// paging is how an API divides lists into pages.
type paging struct {
	defaultSize int
	maxSize     int // PageSize
	maxResults  int // MaxResults; 0: the API has no tokens
	minResults  int
	// maxParam is the API's name for MaxResults.
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
	slbPaging      = paging{defaultSize: 10, maxSize: 100}
	listenerPaging = paging{defaultSize: 20, maxResults: 100, minResults: 1, maxParam: "MaxResults"}
	entryPaging    = paging{defaultSize: 10, maxResults: 100, minResults: 1, maxParam: "MaxResult"}
)

// page is the part of a list that a call requested.
type page[T any] struct {
	api       paging
	items     []T
	tokenMode bool
	next      string
	number    int
	size      int
	total     int
}

// fields adds the fields that describe the page to an answer.
func (p *page[T]) fields(o obj) obj {
	if p.api.maxResults > 0 {
		o["NextToken"] = p.next
	}
	if p.api.maxSize > 0 {
		// With tokens too: clients read back the size that they requested.
		o["PageNumber"], o["PageSize"], o["TotalCount"] = p.number, p.size, p.total
	}
	return o
}

// paginate returns the page of list that the call requests; key gives stable names. MaxResults
// out of range is set to the nearest limit; PageSize out of range is an error. A call without
// parameters gets a token too, if the API has tokens: otherwise programs that only use tokens
// would take the first page for the whole list.
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

// tokenPage sorts the list by keys; a token names the last key that was returned. So items that
// are added or removed between two pages neither repeat nor hide another item.
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

// tokenPrefix identifies tokens.
const tokenPrefix = "after:"
