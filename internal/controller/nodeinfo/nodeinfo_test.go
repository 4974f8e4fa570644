package nodeinfo

import "testing"

func TestInstanceID(t *testing.T) {
	for in, want := range map[string]string{
		"cn-hangzhou.i-bp1a2b3c":             "i-bp1a2b3c",
		"alicloud://cn-hangzhou.i-bp1a2b3c":  "i-bp1a2b3c",
		"":                                   "",
		"i-bp1a2b3c":                         "",
		"cn-hangzhou.vm-1":                   "",
		"aws:///eu-west-1a/i-0abc":           "",
		"cn-hangzhou.i-bp1.i-bp2":            "",
		"kind://docker/kind/kind-control-pl": "",
	} {
		got, err := InstanceID(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}
