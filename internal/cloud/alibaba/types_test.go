package alibaba

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"terway.dev/terway/internal/cloud"
)

func TestAllTypesAreRead(t *testing.T) {
	f := newFakeCloud(t, in(
		ok(`{"NextToken":"t1","InstanceTypes":{"InstanceType":[{"InstanceTypeId":"ecs.g7.xlarge","InstanceTypeFamily":"ecs.g7","CpuCoreCount":4,"MemorySize":16.0,
			"EniQuantity":4,"EniPrivateIpAddressQuantity":15,"EniIpv6AddressQuantity":15,"EniTotalQuantity":20,"EniTrunkSupported":true,
			"InstanceBandwidthRx":3072000,"InstanceBandwidthTx":3072001,"SecondaryEniQueueNumber":4}]}}`),
		ok(`{"NextToken":"","InstanceTypes":{"InstanceType":[{"InstanceTypeId":"ecs.new.large"}]}}`)))
	var told []int
	got, err := newTestClient(t, f).DescribeInstanceTypes(context.Background(), func(n int) { told = append(told, n) })
	if err != nil {
		t.Fatal(err)
	}
	want := []cloud.TypeDescription{
		{InstanceType: cloud.InstanceType{Name: "ecs.g7.xlarge", ENIs: 4, IPv4PerENI: 15, IPv6PerENI: 15}, Family: "ecs.g7", VCPU: 4, MemoryGiB: 16,
			ENITotal: 20, Trunk: true, BandwidthKbit: 3072000, Queues: 4},
		{InstanceType: cloud.InstanceType{Name: "ecs.new.large"}},
	}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if len(told) != 2 || told[0] != 1 || told[1] != 2 {
		t.Errorf("progress was %v", told)
	}
	if f.calls[0].Get("MaxResults") != "100" || f.calls[0].Get("NextToken") != "" || f.calls[1].Get("NextToken") != "t1" {
		t.Errorf("asked %v", f.calls)
	}
}

func TestTypesThatCannotBe(t *testing.T) {
	for _, tt := range []struct{ name, types, token, want string }{
		{"no name", `{"EniQuantity":2}`, "", "InstanceTypeId"},
		{"negative", `{"InstanceTypeId":"ecs.a","EniQuantity":-2}`, "", `"ecs.a": EniQuantity: -2`},
		{"the same page for ever", `{"InstanceTypeId":"ecs.a"}`, "t1", `NextToken "t1"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeCloud(t, func(int, url.Values) answer {
				return ok(`{"NextToken":"` + tt.token + `","InstanceTypes":{"InstanceType":[` + tt.types + `]}}`)
			})
			if _, err := newTestClient(t, f).DescribeInstanceTypes(context.Background(), nil); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
