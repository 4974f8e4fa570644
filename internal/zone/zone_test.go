package zone

import "testing"

func TestIn(t *testing.T) {
	for _, c := range []struct {
		zone, region string
		want         bool
	}{
		{"cn-hangzhou-i", "cn-hangzhou", true},
		{"us-west-1a", "us-west-1", true},
		{"cn-shanghai-finance-1a", "cn-shanghai-finance-1", true},
		{"cn-heyuan-acdr-1", "cn-heyuan", true}, // only the cloud knows
		{"cn-hangzhou", "cn-hangzhou", false},
		{"cn-hangzhou-", "cn-hangzhou", false},
		{"cn-hangzhou--i", "cn-hangzhou", false},
		{"cn-hangzhou-I", "cn-hangzhou", false},
		{"cn-hangzhou-i ", "cn-hangzhou", false},
		{"cn-hangzhoui", "cn-hangzhou", false},
		{"cn-beijing-a", "cn-hangzhou", false},
		{"us-west-11a", "us-west-1", false},
		{"cn-hangzhou", "cn", false},
		{"cn-hangzhou-i", "", false},
		{"", "", false},
	} {
		if got := In(c.zone, c.region); got != c.want {
			t.Errorf("In(%q, %q) = %v, want %v", c.zone, c.region, got, c.want)
		}
	}
}

func TestRegion(t *testing.T) {
	for zone, want := range map[string]string{
		"cn-hangzhou-i":          "cn-hangzhou",
		"us-west-1a":             "us-west-1",
		"cn-shanghai-finance-1a": "cn-shanghai-finance-1",
		"cn-hangzhou":            "", // a region
		"us-west-1":              "",
		"cn-hangzhou-1":          "",
		"cn":                     "",
		"a":                      "",
		"":                       "",
	} {
		if got := Region(zone); got != want {
			t.Errorf("Region(%q) = %q, want %q", zone, got, want)
		}
	}
}

func FuzzRegion(f *testing.F) {
	f.Add("cn-hangzhou-i")
	f.Add("us-west-1a")
	f.Fuzz(func(t *testing.T, zone string) {
		if r := Region(zone); r != "" && !In(zone, r) {
			t.Errorf("%q is not in its own region %q", zone, r)
		}
	})
}
