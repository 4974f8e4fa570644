// Package metadata is the service of instances at 100.100.100.200: data about the instance, and
// credentials of its RAM role.
//
// It owns the paths and the tokens of IMDSv2. It must never store data: every answer is made
// from the current state of the cloud.
//
// Not implemented: the signed identity document (…/instance-identity/pkcs7) and
// HttpPutResponseHopLimit, which a listener cannot see.
package metadata

import (
	"crypto/hmac"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/vpcsim/openapi/sts"
	"terway.dev/terway/internal/vpcsim/state"
)

// Address is the address of the service in instances.
const Address = "100.100.100.200"

// Instance is the data about an instance.
type Instance struct {
	state.Instance
	Type      catalog.Type
	VPC       state.VPC
	VSwitches map[string]state.VSwitch // of its ENIs, by id
	OwnerID   string
}

// Options configure a Handler.
type Options struct {
	// InstanceID is the instance that is served.
	InstanceID string
	// Lookup returns the current instance; nil if it does not exist.
	Lookup    func(id string) (*Instance, error)
	Authority *sts.Authority
	Now       func() time.Time
	// RoleLife is the lifetime of credentials; 0 means 6 hours. New ones are issued from 30
	// minutes before expiry, or from half of a shorter lifetime.
	RoleLife time.Duration
	Log      *slog.Logger
}

// Header names and limits of IMDSv2.
const (
	ttlHeader   = "X-aliyun-ecs-metadata-token-ttl-seconds"
	tokenHeader = "X-aliyun-ecs-metadata-token"
	maxTTL      = 21600
)

const (
	defaultRoleLife = 6 * time.Hour
	renewBefore     = 30 * time.Minute
)

// Handler serves one instance.
type Handler struct{ Options }

// New returns the service of an instance.
func New(o Options) *Handler {
	if o.RoleLife == 0 {
		o.RoleLife = defaultRoleLife
	}
	return &Handler{o}
}

// ServeHTTP serves a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, body := h.answer(r)
	h.Log.Debug("metadata", "instance", h.InstanceID, "method", r.Method, "path", r.URL.Path, "status", status)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	if _, err := w.Write([]byte(body)); err != nil {
		h.Log.Debug("client went away before the answer", "instance", h.InstanceID, "path", r.URL.Path, "err", err)
	}
}

func (h *Handler) answer(r *http.Request) (int, string) {
	in, err := h.Lookup(h.InstanceID)
	if err != nil {
		h.Log.Error("metadata of an instance", "instance", h.InstanceID, "err", err)
		return http.StatusInternalServerError, err.Error()
	}
	if in == nil {
		return http.StatusNotFound, "the instance is gone"
	}
	if in.HttpEndpoint == "disabled" {
		return http.StatusForbidden, "the metadata service of this instance is disabled"
	}
	// Clients differ in case ("Ram/security-credentials"); only a role's name is
	// case-sensitive.
	path := strings.Trim(r.URL.Path, "/")
	version, path, _ := strings.Cut(path, "/")
	switch version = strings.ToLower(version); version {
	case "":
		return http.StatusOK, "2016-01-01\nlatest"
	case "latest", "2016-01-01":
	default:
		return notFound(r)
	}
	if strings.EqualFold(path, "api/token") {
		return h.token(r)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return http.StatusMethodNotAllowed, "GET only"
	}
	switch token := r.Header.Get(tokenHeader); {
	case token == "" && in.HttpTokens == "required":
		return http.StatusForbidden, "this instance wants " + tokenHeader + ": PUT /latest/api/token gives one"
	case token != "" && !h.valid(token):
		return http.StatusUnauthorized, "the metadata token is wrong or has expired"
	}
	return h.read(r, in, path)
}

func (h *Handler) read(r *http.Request, in *Instance, path string) (int, string) {
	all, err := contents(in)
	if err != nil {
		h.Log.Error("metadata of an instance", "instance", h.InstanceID, "err", err)
		return http.StatusInternalServerError, err.Error()
	}
	if role := in.RamRoleName; role != "" {
		text, err := h.roleCredentials(role)
		if err != nil {
			return http.StatusInternalServerError, err.Error()
		}
		all["meta-data/ram/security-credentials/"+role] = text
	}
	const credentials = "meta-data/ram/security-credentials/"
	lower := strings.ToLower(path)
	if strings.HasPrefix(lower, credentials) {
		lower = credentials + path[len(credentials):]
	}
	text, ok := all.get(lower)
	if !ok {
		return notFound(r)
	}
	return http.StatusOK, text
}

// roleCredentials returns the same credentials during a period, which ends renewBefore before
// they expire.
func (h *Handler) roleCredentials(role string) (string, error) {
	period := h.RoleLife - min(renewBefore, h.RoleLife/2)
	// Role credentials are valid for whole seconds.
	period = max(period.Truncate(time.Second), time.Second)
	c := h.Authority.Mint(role, h.InstanceID, h.Now().UTC().Truncate(period), h.RoleLife)
	const layout = "2006-01-02T15:04:05Z"
	b, err := json.MarshalIndent(struct {
		AccessKeyId, AccessKeySecret, Expiration, SecurityToken, LastUpdated, Code string
	}{
		c.AccessKeyID, c.AccessKeySecret, c.Expiration.Format(layout), c.SecurityToken, c.Issued.Format(layout), "Success",
	}, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode credentials of role %s: %w", role, err)
	}
	return string(b), nil
}

// token serves PUT /latest/api/token.
func (h *Handler) token(r *http.Request) (int, string) {
	if r.Method != http.MethodPut {
		return http.StatusMethodNotAllowed, "PUT only"
	}
	if r.Header.Get("X-Forwarded-For") != "" {
		return http.StatusForbidden, "a token is not given through a proxy"
	}
	ttl, err := strconv.Atoi(r.Header.Get(ttlHeader))
	if err != nil || ttl < 1 || ttl > maxTTL {
		return http.StatusBadRequest, fmt.Sprintf("%s is %q, want 1–%d", ttlHeader, r.Header.Get(ttlHeader), maxTTL)
	}
	var until [8]byte
	binary.BigEndian.PutUint64(until[:], uint64(h.Now().Add(time.Duration(ttl)*time.Second).UnixNano()))
	return http.StatusOK, base64.URLEncoding.EncodeToString(append(until[:], h.seal(until[:])...))
}

func (h *Handler) valid(token string) bool {
	raw, err := base64.URLEncoding.DecodeString(token)
	if err != nil || len(raw) < 8 || !hmac.Equal(raw[8:], h.seal(raw[:8])) {
		return false
	}
	return h.Now().UnixNano() < int64(binary.BigEndian.Uint64(raw))
}

// seal binds a token to this instance.
func (h *Handler) seal(until []byte) []byte {
	return h.Authority.Seal("imds "+h.InstanceID, until)
}

func notFound(r *http.Request) (int, string) {
	return http.StatusNotFound, "404 - Not Found: " + r.URL.Path
}
