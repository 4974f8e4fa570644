package openapi

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"terway.dev/terway/internal/vpcsim/openapi/sts"
	"terway.dev/terway/internal/vpcsim/state"
)

// call is an authenticated request to an action.
type call struct {
	api       state.API
	params    url.Values
	host      string
	region    string
	authority *sts.Authority
	identity  sts.Identity
	now       time.Time
}

// intParam parses an integer; nil if it is absent or name is empty.
func (c *call) intParam(name string) (*int, *Error) {
	if name == "" || c.params.Get(name) == "" {
		return nil, nil
	}
	var out struct{ V *int }
	if e := decode(url.Values{"V": {c.params.Get(name)}}, &out); e != nil {
		return nil, invalid(name, c.params.Get(name), "an integer")
	}
	return out.V, nil
}

// required returns a mandatory parameter.
func (c *call) required(name string) (string, *Error) {
	if v := c.params.Get(name); v != "" {
		return v, nil
	}
	return "", missing(name)
}

// action is an operation of an API.
type action struct {
	// writes: it may change the state.
	writes bool
	// unsigned: the call is authenticated in another way (AssumeRoleWithOIDC).
	unsigned bool
	// dryRun: with DryRun=true the call is validated and not executed.
	dryRun bool
	// waits: while another change of the VPC runs, the call waits instead of being refused.
	waits bool
	// product is the product to which the action belongs, if another one offers it too: rate
	// and faults are the same for both.
	product string
	run     func(*call) (obj, error)
}

// actions are the operations of an API by name.
type actions map[string]action

// change returns an action whose answer has only a RequestId.
func change[R any](f func(state.API, R) error) action {
	return action{writes: true, run: func(c *call) (obj, error) {
		var r R
		if e := decode(c.params, &r); e != nil {
			return nil, e
		}
		return obj{}, f(c.api, r)
	}}
}

// create returns an action that changes the state and returns the new resource.
func create[R, A any](f func(state.API, R) (A, error), answer func(A) obj) action {
	return action{writes: true, run: func(c *call) (obj, error) {
		var r R
		if e := decode(c.params, &r); e != nil {
			return nil, e
		}
		made, err := f(c.api, r)
		if err != nil {
			return nil, err
		}
		return answer(made), nil
	}}
}

// list returns an action that selects resources and returns a page of them, wrapped unless wrap
// is empty.
func list[R, T any](f func(state.API, R) ([]T, error), p paging, key func(T) string, field, wrap string, show func(T) obj) action {
	return action{run: func(c *call) (obj, error) {
		var r R
		if e := decode(c.params, &r); e != nil {
			return nil, e
		}
		all, err := f(c.api, r)
		if err != nil {
			return nil, err
		}
		pg, e := paginate(c, p, all, key)
		if e != nil {
			return nil, e
		}
		var shown any = bare(show, pg.items)
		if wrap != "" {
			shown = obj{wrap: shown}
		}
		return pg.fields(obj{field: shown}), nil
	}}
}

// nothing returns an empty list of a kind of resource that the simulator does not have.
func nothing(field, wrap string, p paging) action {
	return action{dryRun: true, run: func(c *call) (obj, error) {
		pg, e := paginate(c, p, []obj{}, func(obj) string { return "" })
		if e != nil {
			return nil, e
		}
		return pg.fields(obj{field: in(wrap, same, pg.items)}), nil
	}}
}

// obj is a JSON object in an answer.
type obj map[string]any

// in wraps a list like ECS and VPC do: {"Item": […]}.
func in[T, U any](name string, show func(T) U, items []T) obj {
	return obj{name: bare(show, items)}
}

// bare shows a list that is not wrapped.
func bare[T, U any](show func(T) U, items []T) []U {
	out := make([]U, len(items))
	for i, x := range items {
		out[i] = show(x)
	}
	return out
}

// same returns a value unchanged.
func same[T any](v T) T { return v }

// text formats an address or a range; the zero value gives the empty string.
func text[T interface {
	comparable
	String() string
}](v T) string {
	var zero T
	if v == zero {
		return ""
	}
	return v.String()
}

func addr(a netip.Addr) string     { return text(a) }
func prefix(p netip.Prefix) string { return text(p) }

// stamp formats a time like the APIs do.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

// merge copies more into o.
func (o obj) merge(more obj) obj {
	for k, v := range more {
		o[k] = v
	}
	return o
}

// only keeps the named fields.
func (o obj) only(names ...string) obj {
	for k := range o {
		if !slices.Contains(names, k) {
			delete(o, k)
		}
	}
	return o
}

// dry returns the answer to a call that is only validated; nil without DryRun.
func (c *call) dry() error {
	var q struct{ DryRun bool }
	if e := decode(c.params, &q); e != nil {
		return e
	}
	if q.DryRun {
		return errorf(http.StatusBadRequest, "DryRunOperation", "Request validation has been passed with DryRun flag set.")
	}
	return nil
}
