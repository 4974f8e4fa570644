// Package openapi is the HTTP interface of the simulated cloud: it authenticates (signature 1.0
// and ACS3), throttles and decodes requests in the RPC style of Alibaba Cloud, runs them on the
// state, and answers in the real service's form.
//
// It owns names, encodings, signatures, pages and error bodies. It must never decide what a VPC
// does (package state does), nor touch a device or a file.
//
// Answers are always JSON, whatever the Format. RegionId is ignored: a simulator has one
// region, and some clients send invalid ones.
package openapi

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/openapi/sts"
	"terway.dev/terway/internal/vpcsim/state"
)

// Backend is the cloud that a Handler serves.
type Backend interface {
	// Read runs f on the state as it was age ago; f must not change it.
	Read(ctx context.Context, age time.Duration, f func(state.API) error) error
	// Write runs f on the state. If f changed it, Write returns after the change is saved and
	// applied to the data plane.
	Write(ctx context.Context, f func(state.API) error) error
}

// Options configure a Handler.
type Options struct {
	Backend   Backend
	Authority *sts.Authority
	Faults    *faults.Set
	Stats     *Stats
	Throttle  Throttle
	RegionID  string
	Now       func() time.Time
	// Sleep waits, or returns early with the context's error. Latency faults use it.
	Sleep func(context.Context, time.Duration) error
	// RefuseReplay enables the checks of timestamp (15 minutes) and nonce.
	RefuseReplay bool
	// Random is the source of request ids; nil means crypto/rand.
	Random io.Reader
	Log    *slog.Logger
}

// Handler serves OpenAPI calls at "/".
type Handler struct {
	Options
	products  map[string]product // by version
	ambiguous map[string]bool    // the names of actions that several products have
	signer    signer
	throttle  *throttle
}

// New returns a Handler.
func New(o Options) *Handler {
	if o.Random == nil {
		o.Random = rand.Reader
	}
	all := products()
	h := &Handler{
		Options:  o,
		products: byVersion(all), ambiguous: ambiguous(all),
		signer:   signer{authority: o.Authority, now: o.Now},
		throttle: newThrottle(o.Throttle, all),
	}
	if o.RefuseReplay {
		h.signer.replay = &replay{seen: map[string]time.Time{}}
	}
	return h
}

// SetThrottle changes the rates of calls from now on.
func (h *Handler) SetThrottle(t Throttle) { h.throttle.set(t) }

// maxBody limits a request's body.
const maxBody = 4 << 20

// ServeHTTP serves one call.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := h.Now()
	id := h.requestID()
	x := &exchange{host: r.Host}
	answer, e := h.serve(r, x)
	status := http.StatusOK
	code := ""
	if e != nil {
		status, code = e.Status, e.Code
		answer = obj{"Code": e.Code, "Message": e.Message, "HostId": r.Host,
			"Recommend": "https://api.aliyun.com/troubleshoot?q=" + url.QueryEscape(e.Code) + "&product=" + h.products[x.version].name}
	}
	h.Stats.count(h.name(x), code, h.Now().Sub(started), x.lost)
	h.Log.Debug("openapi call", "action", x.action, "version", x.version, "status", status, "code", code,
		"requestId", id, "remote", r.RemoteAddr, "caller", x.identity.ARN(), "lostAnswer", x.lost)
	if x.lost {
		// The client's connection is closed without an answer.
		panic(http.ErrAbortHandler)
	}
	answer["RequestId"] = id
	body, err := json.Marshal(answer)
	if err != nil {
		h.Log.Error("cannot encode an answer", "action", x.action, "err", err)
		status, body = http.StatusInternalServerError, []byte(`{"RequestId":"`+id+`","Code":"InternalError","Message":"the answer cannot be encoded"}`)
	}
	if e != nil {
		for k, v := range e.Header {
			w.Header().Set(k, v)
		}
	}
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.Header().Set("x-acs-request-id", id)
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		h.Log.Debug("client went away before the answer", "action", x.action, "requestId", id, "err", err)
	}
}

// exchange collects data about a call while it is processed.
type exchange struct {
	host     string
	version  string
	product  string // the product of the action
	action   string
	known    bool // version and action exist: safe as a metric's label
	identity sts.Identity
	lost     bool
}

// name is that of an action in counters: PRODUCT:NAME if several products have one of that name.
func (h *Handler) name(x *exchange) string {
	switch {
	case !x.known:
		return "unknown"
	case h.ambiguous[x.action]:
		return x.product + ":" + x.action
	}
	return x.action
}

func (h *Handler) serve(r *http.Request, x *exchange) (obj, *Error) {
	m, e := readMessage(r)
	if e != nil {
		return nil, e
	}
	x.action = firstOf(m.param("Action"), m.header.Get("x-acs-action"))
	x.version = firstOf(m.param("Version"), m.header.Get("x-acs-version"))
	if x.action == "" {
		return nil, missing("Action")
	}
	if x.version == "" {
		return nil, missing("Version")
	}
	product, ok := h.products[x.version]
	if !ok {
		return nil, errorf(http.StatusBadRequest, "NoSuchVersion", "Specified version %q does not exist.", x.version)
	}
	a, ok := product.actions[x.action]
	if !ok {
		return nil, errorf(http.StatusNotFound, "InvalidAction.NotFound", "Specified api is not found, please check your url and method: there is no action %q in version %s.", x.action, x.version)
	}
	x.known, x.product = true, product.of(a)
	if !a.unsigned {
		if x.identity, e = h.signer.verify(m); e != nil {
			return nil, e
		}
	}
	if !h.throttle.allow(actionOf{x.product, x.action}, h.Now()) {
		return nil, throttled()
	}
	return h.run(r.Context(), m, x, a)
}

// run executes an authorized call, with the faults that hit it.
func (h *Handler) run(ctx context.Context, m *message, x *exchange, a action) (obj, *Error) {
	params := m.merged()
	verdict := h.Faults.Decide(x.product, x.action, params, h.Now())
	if verdict.Delay > 0 {
		if err := h.Sleep(ctx, verdict.Delay); err != nil {
			return nil, errorf(http.StatusServiceUnavailable, "ServiceUnavailable", "The call was canceled during an injected delay: %v.", err)
		}
	}
	if f := verdict.Error; f != nil {
		// The lost answer may be an error too: then nothing was done.
		x.lost = verdict.LostAnswer
		return nil, &Error{Status: f.Status, Code: f.Code, Message: f.Message, Header: f.Header}
	}
	c := &call{
		params: params, host: x.host, region: h.RegionID, identity: x.identity,
		authority: h.Authority, now: h.Now(),
	}
	var answer obj
	work := func(api state.API) (err error) {
		c.api = api
		answer, err = a.run(c)
		if err == nil && a.dryRun {
			err = c.dry()
		}
		return err
	}
	var err error
	if a.writes {
		err = h.Backend.Write(ctx, work)
		for waited := time.Duration(0); a.waits && busy(err) && waited < maxWait; waited += waitStep {
			if h.Sleep(ctx, waitStep) != nil {
				break // the client went away
			}
			err = h.Backend.Write(ctx, work)
		}
	} else {
		err = h.Backend.Read(ctx, verdict.Stale, work)
	}
	x.lost = verdict.LostAnswer
	if err != nil {
		return nil, h.asError(err)
	}
	return answer, nil
}

// maxWait is how long a call waits for another change of its VPC, less than the SDKs' timeout;
// waitStep is the polling interval.
const (
	maxWait  = 12 * time.Second
	waitStep = 20 * time.Millisecond
)

// busy reports whether a call was refused only because another one still runs.
func busy(err error) bool {
	switch state.CodeOf(err) {
	case "TaskConflict", "IncorrectVpcStatus", "IncorrectVSwitchStatus", "IncorrcetRouteEntryStatus":
		return true
	}
	return false
}

// asError converts any error to the form in which it is sent.
func (h *Handler) asError(err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	var cloud *state.Error
	if errors.As(err, &cloud) {
		return &Error{Status: cloud.HTTPStatus, Code: cloud.Code, Message: cloud.Message}
	}
	h.Log.Error("the simulator failed in a call", "err", err)
	return errorf(http.StatusInternalServerError, "InternalError",
		"The request processing has failed due to some unknown error: %v.", err)
}

func readMessage(r *http.Request) (*message, *Error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("query", r.URL.RawQuery, "a URL query")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return nil, errorf(http.StatusBadRequest, "InvalidParameter", "The request's body cannot be read: %v.", err)
	}
	if len(body) > maxBody {
		return nil, errorf(http.StatusRequestEntityTooLarge, "InvalidParameter", "The request's body is longer than %d bytes.", maxBody)
	}
	m := &message{method: r.Method, host: r.Host, header: r.Header, query: query, body: body, form: url.Values{}}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil && strings.EqualFold(kind, "application/x-www-form-urlencoded") {
		if m.form, err = url.ParseQuery(string(body)); err != nil {
			return nil, invalid("body", string(body), "an urlencoded form")
		}
	}
	return m, nil
}

func firstOf(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// requestID returns a random UUID in upper case.
func (h *Handler) requestID() string {
	var b [16]byte
	if _, err := io.ReadFull(h.Random, b[:]); err != nil {
		h.Log.Error("cannot draw a request id", "err", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
