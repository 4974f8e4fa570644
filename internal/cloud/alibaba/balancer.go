package alibaba

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/responses"

	"terway.dev/terway/internal/cloud"
)

// The settings of load balancers are maps, so their requests and answers are not the SDK's typed
// ones: parameters come by name, and an answer is read as JSON.

// params are the parameters of a call by name; empty ones are not sent.
type params map[string]string

type (
	rpcRequest struct{ *requests.RpcRequest }
	rpcAnswer  struct{ *responses.BaseResponse }
)

// product is a product whose calls are made by name.
type product struct {
	*Client
	name, version, service string
}

// do makes a call. All parameters are in the body: two hundred servers are too long for a URL.
func (p product) do(ctx context.Context, action string, all params) (object, error) {
	rsp, err := call(ctx, p.Client, func() *rpcRequest {
		r := &rpcRequest{&requests.RpcRequest{}}
		r.InitWithApiInfo(p.name, p.version, action, p.service, "openAPI")
		return r
	}, func() *rpcAnswer {
		return &rpcAnswer{&responses.BaseResponse{}}
	}, func(r *rpcRequest) {
		for name, v := range all {
			if v != "" {
				r.FormParams[name] = v
			}
		}
	})
	if err != nil {
		return nil, err
	}
	var o object
	d := json.NewDecoder(bytes.NewReader(rsp.GetHttpContentBytes()))
	d.UseNumber()
	if err := d.Decode(&o); err != nil {
		return nil, p.bad(action, "not the JSON that the API promises: %v", err)
	}
	return o, nil
}

func (p product) bad(action, format string, args ...any) error {
	return badAnswer(p.service+":"+action, format, args...)
}

func (p product) refuse(action, format string, args ...any) error {
	return refuse(p.service+":"+action, format, args...)
}

// id makes a call whose answer has an id.
func (p product) id(ctx context.Context, action, field string, all params) (string, object, error) {
	o, err := p.do(ctx, action, all)
	if err != nil {
		return "", nil, err
	}
	if o.text(field) == "" {
		return "", nil, p.bad(action, "%s: is empty", field)
	}
	return o.text(field), o, nil
}

// listPage is the maximum size of a page of the lists of SLB and NLB.
const listPage = "100"

// tokens reads a list by tokens.
func (p product) tokens(ctx context.Context, action, field string, all params) ([]object, error) {
	var found []object
	all = maps.Clone(all)
	all["MaxResults"] = listPage
	for {
		o, err := p.do(ctx, action, all)
		if err != nil {
			return nil, err
		}
		found = append(found, o.list(field)...)
		switch next := o.text("NextToken"); next {
		case "":
			return found, nil
		case all["NextToken"]:
			return nil, p.bad(action, "the page after token %q has the same token", next)
		default:
			all["NextToken"] = next
		}
	}
}

// tags sets Tag.N.Key and Tag.N.Value.
func (all params) tags(tags map[string]string) params {
	for i, k := range slices.Sorted(maps.Keys(tags)) {
		all[fmt.Sprintf("Tag.%d.Key", i+1)], all[fmt.Sprintf("Tag.%d.Value", i+1)] = k, tags[k]
	}
	return all
}

// with adds parameters.
func (all params) with(more map[string]string) params {
	maps.Copy(all, more)
	return all
}

// numbered sets NAME.N.
func (all params) numbered(name string, list []string) params {
	for i, v := range list {
		all[fmt.Sprintf("%s.%d", name, i+1)] = v
	}
	return all
}

// only returns the settings with the given names.
func only(settings map[string]string, names ...string) map[string]string {
	m := map[string]string{}
	for _, n := range names {
		if v, ok := settings[n]; ok {
			m[n] = v
		}
	}
	return m
}

// object is a JSON object of an answer.
type object map[string]any

// text returns a scalar; "" if there is none.
func (o object) text(field string) string {
	s, _ := scalar(o[field])
	return s
}

// scalar returns a JSON scalar, or a list of them, as the API spells it in parameters.
func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	case []any:
		var all []string
		for _, x := range v {
			s, ok := scalar(x)
			if !ok {
				return "", false
			}
			all = append(all, s)
		}
		return strings.Join(all, ","), true
	}
	return "", false
}

func (o object) number(field string) (int, error) {
	n, err := strconv.Atoi(o.text(field))
	if err != nil {
		return 0, fmt.Errorf("%s: %q is not a number", field, o.text(field))
	}
	return n, nil
}

// get returns an object; nil if there is none.
func (o object) get(field string) object {
	m, _ := o[field].(map[string]any)
	return m
}

// list returns a list of objects. A field of two words, "A.B", is a list B in an object A.
func (o object) list(field string) []object {
	if outer, inner, ok := strings.Cut(field, "."); ok {
		return o.get(outer).list(inner)
	}
	all, _ := o[field].([]any)
	var found []object
	for _, x := range all {
		if m, ok := x.(map[string]any); ok {
			found = append(found, m)
		}
	}
	return found
}

// texts returns a list of scalars.
func (o object) texts(field string) []string {
	all, _ := o[field].([]any)
	var found []string
	for _, x := range all {
		if s, ok := scalar(x); ok {
			found = append(found, s)
		}
	}
	return found
}

// settings adds all scalars to a map, with a prefix.
func (o object) settings(prefix string, into map[string]string) map[string]string {
	for name, v := range o {
		if s, ok := scalar(v); ok {
			into[prefix+name] = s
		}
	}
	return into
}

// allTags returns tags, which have two spellings.
func (o object) allTags(field string) map[string]string {
	m := map[string]string{}
	for _, t := range o.list(field) {
		m[orDefault(t.text("Key"), t.text("TagKey"))] = orDefault(t.text("Value"), t.text("TagValue"))
	}
	return m
}

// address returns an address, or the zero value if the field is empty.
func (o object) address(field string) (netip.Addr, error) {
	if o.text(field) == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(o.text(field))
	if err != nil {
		return a, fmt.Errorf("%s: %q is not an address", field, o.text(field))
	}
	return a, nil
}

// backend reads a backend. Its type is "eni" or "Eni" in the products.
func (o object) backend() (b cloud.Backend, err error) {
	b = cloud.Backend{Server: o.text("ServerId"), Description: o.text("Description")}
	b.Type = strings.ToLower(orDefault(o.text("Type"), o.text("ServerType")))
	if b.Server == "" {
		return b, fmt.Errorf("a backend without ServerId")
	}
	if b.Address, err = o.address("ServerIp"); err != nil {
		return b, fmt.Errorf("backend %s: %w", b.Server, err)
	}
	if b.Port, err = o.number("Port"); err != nil {
		return b, fmt.Errorf("backend %s: %w", b.Server, err)
	}
	if o.text("Weight") == "" {
		return b, nil // a health status without it
	}
	if b.Weight, err = o.number("Weight"); err != nil {
		return b, fmt.Errorf("backend %s: %w", b.Server, err)
	}
	return b, nil
}

// backends reads a list of backends.
func (p product) backends(action string, list []object) ([]cloud.Backend, error) {
	var all []cloud.Backend
	for _, o := range list {
		b, err := o.backend()
		if err != nil {
			return nil, p.bad(action, "%v", err)
		}
		all = append(all, b)
	}
	return all, nil
}

// gone makes the error of a resource that does not exist nil. CLB has no code of its own for
// groups and listeners, only a message.
func gone(err error) error {
	if err == nil || cloud.ClassOf(err) == cloud.NotFound {
		return nil
	}
	if cloud.CodeOf(err) == "InvalidParameter" && strings.Contains(err.Error(), "does not exist") {
		return nil
	}
	return err
}

// protectionReason is the reason of protections against changes in the console.
const protectionReason = "managed by terway-controller"
