package openapi

import (
	"context"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/vpcsim/faults"
)

// A call whose client goes away during an injected delay is not executed.
func TestGivenUpDuringADelay(t *testing.T) {
	h := handler(t, func(o *Options) {
		o.Sleep = func(context.Context, time.Duration) error { return context.Canceled }
	})
	if _, err := h.Faults.Add(noon, faults.Rule{Latency: &faults.Latency{Fixed: faults.Duration(time.Hour)}}); err != nil {
		t.Fatal(err)
	}
	q := v1(h, "GET", url.Values{"Action": {"CreateVpc"}, "Version": {"2016-04-28"}})
	if status, code, _ := ask(t, h, httptest.NewRequest("GET", "http://vpc.test/?"+q.Encode(), nil)); status != 503 || code != "ServiceUnavailable" {
		t.Errorf("%d %q", status, code)
	}
	if n := h.Backend.(memory).cloud.Revision(); n != 0 {
		t.Errorf("the cloud is at revision %d, want untouched", n)
	}
}

// An error names the product, also for an action that the product does not have.
func TestRefusalNamesTheProduct(t *testing.T) {
	h := handler(t)
	for version, want := range map[string]string{"2014-05-26": "&product=Ecs", "2016-04-28": "&product=Vpc", "2015-04-01": "&product=Sts", "1999-01-01": "&product="} {
		for _, action := range []string{"", "DescribeUnicorns", "DescribeRegions"} {
			q := url.Values{"Action": {action}, "Version": {version}}
			_, code, answer := ask(t, h, httptest.NewRequest("GET", "http://test/?"+q.Encode(), nil))
			if at, ok := answer["Recommend"].(string); !ok || !strings.HasSuffix(at, "?q="+code+want) {
				t.Errorf("%s of %s: %v, want %s at the end", action, version, answer["Recommend"], want)
			}
		}
	}
}
