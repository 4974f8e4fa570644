package alibaba

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	sdkerrors "github.com/aliyun/alibaba-cloud-sdk-go/sdk/errors"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/responses"

	"terway.dev/terway/internal/cloud"
)

// maxAnswer limits the size of an answer: 500 ENIs with 50 addresses each are about 5 MB.
const maxAnswer = 32 << 20

// send sends one request with the SDK.
//
// The SDK's client takes no context and modifies its own fields with every request, so each
// request gets its own client. The connections, which are expensive, are in the shared
// transport. The type contextTransport hides the *http.Transport from the SDK, which would
// otherwise modify it.
func (c *Client) send(ctx context.Context, req requests.AcsRequest, rsp responses.AcsResponse, cred Credential) (err error) {
	action := actionName(req)
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	silent := c.timeout / tellUnanswered
	defer time.AfterFunc(silent, func() { c.slow(Pause{Action: action, For: c.timeout - silent, Unanswered: true}) }).Stop()
	defer func() {
		// The SDK asserts types in the body of an error answer, and panics if the body is not
		// from the cloud.
		if p := recover(); p != nil {
			err = &cloud.Error{Action: action, Class: cloud.Transient, Status: rsp.GetHttpStatus(),
				Message: fmt.Sprintf("the answer is not one of the cloud's: %v", p)}
		}
	}()
	at := c.endpoints[req.GetProduct()]
	config := sdk.NewConfig().WithScheme(at.scheme).WithUserAgent("terway")
	config.Transport = contextTransport{ctx, c.http}
	var provider credentials.CredentialsProvider = credentials.NewStaticAKCredentialsProvider(cred.AccessKeyID, cred.AccessKeySecret)
	if cred.SecurityToken != "" {
		provider = credentials.NewStaticSTSCredentialsProvider(cred.AccessKeyID, cred.AccessKeySecret, cred.SecurityToken)
	}
	client, err := sdk.NewClientWithOptions(c.region, config, provider)
	if err != nil {
		return &cloud.Error{Action: action, Class: cloud.Invalid, Message: err.Error(), Err: err}
	}
	client.Domain, client.Network = at.host, c.network
	client.EndpointMap, client.EndpointType = at.byRegion, at.kind
	client.SetReadTimeout(c.timeout)
	return convertError(ctx, action, client.DoAction(req, rsp))
}

// contextTransport adds a context to the SDK's requests.
type contextTransport struct {
	ctx  context.Context
	next http.RoundTripper
}

func (t contextTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	rsp, err := t.next.RoundTrip(r.WithContext(t.ctx))
	if err == nil {
		rsp.Body = http.MaxBytesReader(nil, rsp.Body, maxAnswer)
	}
	return rsp, err
}

// convertError converts an error of the SDK and leaves out everything that may contain
// credentials: request URLs, strings to sign, response headers.
func convertError(ctx context.Context, action string, err error) error {
	if err == nil {
		return nil
	}
	var server *sdkerrors.ServerError
	if errors.As(err, &server) {
		return &cloud.Error{
			Action: action, Code: server.ErrorCode(), Class: cloud.Classify(server.ErrorCode(), server.HttpStatus()),
			Status: server.HttpStatus(), RequestID: server.RequestId(), Message: cleanMessage(server.Message()),
		}
	}
	if ended := ctx.Err(); ended != nil {
		return &cloud.Error{Action: action, Class: cloud.Transient, Message: "no answer: " + ended.Error(), Err: ended}
	}
	var client *sdkerrors.ClientError
	if errors.As(err, &client) {
		switch client.ErrorCode() {
		case sdkerrors.JsonUnmarshalErrorCode:
			return badAnswer(action, "not the JSON that the API promises: %v", client.OriginError())
		case sdkerrors.CanNotResolveEndpointErrorCode:
			return &cloud.Error{Action: action, Class: cloud.Transient,
				Message: "the SDK does not know an endpoint for the region and could not ask for one; configure the endpoint"}
		}
		return &cloud.Error{Action: action, Class: cloud.Invalid, Message: client.Message()}
	}
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err // the URL contains the access key and the signature
	}
	return &cloud.Error{Action: action, Class: cloud.Transient, Message: "no answer: " + err.Error(), Err: err}
}

// cleanMessage shortens the cloud's message for a log line. For a wrong signature the cloud
// repeats all that was signed, including the security token.
func cleanMessage(s string) string {
	if i := strings.Index(s, "server string to sign is:"); i >= 0 {
		s = strings.TrimRight(s[:i], " ,.;") + "."
	}
	s = strings.Join(strings.Fields(s), " ")
	const most = 500
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// badAnswer returns the error for a successful answer that cannot be used.
func badAnswer(action, format string, args ...any) error {
	return &cloud.Error{Action: action, Class: cloud.Transient, Status: http.StatusOK, Message: "bad answer: " + fmt.Sprintf(format, args...)}
}
