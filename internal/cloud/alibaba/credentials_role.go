package alibaba

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"k8s.io/utils/clock"

	"terway.dev/terway/internal/cloud"
)

// The SDKs have sources for both kinds of roles. But they use one fixed metadata address and
// https, take no context and are not safe for concurrent use. The protocols are small, so they
// are implemented here.

// ECSRoleConfig configures credentials from the RAM role of the instance that the controller
// runs on.
type ECSRoleConfig struct {
	// Role is the role's name; empty: ask the metadata service.
	Role string
	// Endpoint is the URL of the metadata service, by default http://100.100.100.200.
	Endpoint string
	Clock    clock.Clock
	Log      *slog.Logger
}

// ECSRoleCredentials returns credentials of the instance's RAM role.
func ECSRoleCredentials(cfg ECSRoleConfig) (CredentialSource, error) {
	base, err := baseURL("metadata endpoint", orDefault(cfg.Endpoint, "http://100.100.100.200"))
	if err != nil {
		return nil, err
	}
	// The metadata service is link-local: use no proxy and a short timeout.
	transport := newTransport(2 * time.Second)
	transport.Proxy = nil
	m := metadata{base: base, http: &http.Client{Transport: transport, Timeout: 5 * time.Second}}
	return newRenewedSource(cfg.Clock, cfg.Log, func(ctx context.Context) (Credential, error) { return m.credential(ctx, cfg.Role) }), nil
}

type metadata struct {
	base string
	http *http.Client
}

// errTokenRefused says that the metadata service does not accept a session token: since it
// issued the token, it was restarted or its clock jumped.
var errTokenRefused = errors.New("HTTP status 401: the session token was refused")

func (m metadata) credential(ctx context.Context, role string) (Credential, error) {
	cred, err := m.ask(ctx, role)
	if errors.Is(err, errTokenRefused) {
		cred, err = m.ask(ctx, role) // with a new one
	}
	return cred, err
}

func (m metadata) ask(ctx context.Context, role string) (Credential, error) {
	const dir = "/latest/meta-data/ram/security-credentials/"
	token, err := m.token(ctx)
	if err != nil {
		return Credential{}, err
	}
	if role == "" {
		names, err := m.get(ctx, dir, token)
		if err != nil {
			return Credential{}, fmt.Errorf("ask the metadata service for the instance's RAM role (has it one?): %w", err)
		}
		role, _, _ = strings.Cut(strings.TrimSpace(names), "\n")
		if role == "" {
			return Credential{}, errors.New("the instance has no RAM role")
		}
	}
	body, err := m.get(ctx, dir+url.PathEscape(role), token)
	if err != nil {
		return Credential{}, fmt.Errorf("ask the metadata service for the RAM role %s: %w", role, err)
	}
	var answer struct {
		Code string
		stsCredentials
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return Credential{}, fmt.Errorf("the metadata service's answer for the RAM role %s is not JSON", role)
	}
	if answer.Code != "Success" {
		return Credential{}, fmt.Errorf("the metadata service has no credential for the RAM role %s: code %q", role, answer.Code)
	}
	return answer.credential("RAM role " + role)
}

// token requests a session token for the hardened mode. It returns none if the service does not
// have this mode.
func (m metadata) token(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, m.base+"/latest/api/token", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("X-aliyun-ecs-metadata-token-ttl-seconds", "300")
	status, body, err := exchange(m.http, req)
	if err != nil {
		return "", &cloud.Error{Action: "metadata", Class: cloud.Transient, Message: err.Error(), Err: err}
	}
	if status != http.StatusOK {
		return "", nil
	}
	return strings.TrimSpace(string(body)), nil
}

func (m metadata) get(ctx context.Context, path, token string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.base+path, nil)
	if err != nil {
		return "", err
	}
	if token != "" {
		req.Header.Set("X-aliyun-ecs-metadata-token", token)
	}
	status, body, err := exchange(m.http, req)
	if err != nil {
		return "", &cloud.Error{Action: "metadata", Class: cloud.Transient, Message: err.Error(), Err: err}
	}
	switch {
	case status == http.StatusOK:
		return string(body), nil
	case status == http.StatusUnauthorized && token != "":
		return "", errTokenRefused
	case status >= 500:
		return "", &cloud.Error{Action: "metadata", Class: cloud.Transient, Status: status, Message: fmt.Sprintf("HTTP status %d", status)}
	}
	return "", fmt.Errorf("HTTP status %d", status)
}

// RRSAConfig configures credentials from a RAM role that a Kubernetes service account may
// assume (RAM Roles for Service Accounts): STS exchanges the account's token for a credential.
type RRSAConfig struct {
	// TokenFile is the projected service account token. It is read for each exchange.
	TokenFile   string
	RoleARN     string
	ProviderARN string
	// Session is the session name in the cloud's audit log (default terway).
	Session string
	// Endpoint is the URL of STS, by default https://sts.REGION.aliyuncs.com (sts-vpc with
	// Network "vpc").
	Endpoint string
	Region   string
	Network  string
	Clock    clock.Clock
	Log      *slog.Logger
}

// RRSACredentials returns credentials of the service account's RAM role.
func RRSACredentials(cfg RRSAConfig) (CredentialSource, error) {
	for field, v := range map[string]string{"token file": cfg.TokenFile, "role ARN": cfg.RoleARN, "OIDC provider ARN": cfg.ProviderARN} {
		if v == "" {
			return nil, fmt.Errorf("RRSA credential: %s is not set", field)
		}
	}
	if cfg.Endpoint == "" {
		if cfg.Region == "" {
			return nil, errors.New("RRSA credential: neither STS endpoint nor region is set")
		}
		host := "sts"
		if cfg.Network == "vpc" {
			host = "sts-vpc"
		}
		cfg.Endpoint = "https://" + host + "." + cfg.Region + ".aliyuncs.com"
	}
	base, err := baseURL("STS endpoint", cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	cfg.Session = orDefault(cfg.Session, "terway")
	client := &http.Client{Transport: newTransport(5 * time.Second), Timeout: 15 * time.Second}
	var source *renewedSource
	source = newRenewedSource(cfg.Clock, cfg.Log, func(ctx context.Context) (Credential, error) {
		return assumeRole(ctx, client, base, cfg, source.clock.Now())
	})
	return source, nil
}

// assumeRole calls AssumeRoleWithOIDC, which is not signed: the token authenticates the caller.
func assumeRole(ctx context.Context, client *http.Client, base string, cfg RRSAConfig, now time.Time) (Credential, error) {
	const action = "AssumeRoleWithOIDC"
	token, err := os.ReadFile(cfg.TokenFile)
	if err != nil {
		return Credential{}, fmt.Errorf("read the service account token: %w", err)
	}
	query := url.Values{"Action": {action}, "Version": {"2015-04-01"}, "Format": {"JSON"}, "Timestamp": {now.UTC().Format("2006-01-02T15:04:05Z")}}
	form := url.Values{"RoleArn": {cfg.RoleARN}, "OIDCProviderArn": {cfg.ProviderARN}, "OIDCToken": {strings.TrimSpace(string(token))},
		"RoleSessionName": {cfg.Session}, "DurationSeconds": {"3600"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/?"+query.Encode(), strings.NewReader(form.Encode()))
	if err != nil {
		return Credential{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	status, body, err := exchange(client, req)
	if err != nil {
		return Credential{}, &cloud.Error{Action: action, Class: cloud.Transient, Message: err.Error(), Err: err}
	}
	var answer struct {
		Code, Message, RequestId string
		Credentials              stsCredentials
	}
	decoded := json.Unmarshal(body, &answer)
	if status != http.StatusOK {
		e := &cloud.Error{Action: action, Code: answer.Code, Class: cloud.Classify(answer.Code, status), Status: status,
			RequestID: answer.RequestId, Message: cleanMessage(answer.Message)}
		if e.Class == cloud.NotFound || e.Class == cloud.Invalid || e.Class == cloud.Conflict {
			e.Class = cloud.Auth // whatever STS finds wrong, the caller has no credential
		}
		return Credential{}, e
	}
	if decoded != nil {
		return Credential{}, badAnswer(action, "not JSON")
	}
	return answer.Credentials.credential("role " + cfg.RoleARN)
}

// stsCredentials has the fields that the answers of STS and the metadata service share.
type stsCredentials struct {
	AccessKeyId, AccessKeySecret, SecurityToken, Expiration string
}

func (s stsCredentials) credential(whose string) (Credential, error) {
	if s.AccessKeyId == "" || s.AccessKeySecret == "" || s.SecurityToken == "" {
		return Credential{}, fmt.Errorf("the answer for %s lacks the access key, its secret or the security token", whose)
	}
	expires, err := time.Parse(time.RFC3339, s.Expiration)
	if err != nil {
		return Credential{}, fmt.Errorf("the answer for %s: Expiration: %q is not a time such as 2006-01-02T15:04:05Z", whose, s.Expiration)
	}
	return Credential{AccessKeyID: s.AccessKeyId, AccessKeySecret: s.AccessKeySecret, SecurityToken: s.SecurityToken, Expires: expires}, nil
}

// baseURL validates an endpoint that is used without the SDK.
func baseURL(field, s string) (string, error) {
	at, err := parseEndpoint(field, s)
	if err != nil {
		return "", err
	}
	return strings.ToLower(at.scheme) + "://" + at.host, nil
}

// exchange sends a request and reads a small answer. Its errors do not contain the URL.
func exchange(client *http.Client, req *http.Request) (int, []byte, error) {
	rsp, err := client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return 0, nil, fmt.Errorf("%s: %w", req.URL.Host, err)
	}
	defer rsp.Body.Close()
	body, err := io.ReadAll(http.MaxBytesReader(nil, rsp.Body, 1<<20))
	if err != nil {
		return 0, nil, fmt.Errorf("%s: read the answer: %w", req.URL.Host, err)
	}
	return rsp.StatusCode, body, nil
}
