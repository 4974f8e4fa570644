package catalog_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"terway.dev/terway/internal/catalog"
)

// Write returns the bytes that Parse has read, so a refreshed table differs only where the
// cloud differs.
func TestWriteGivesTheTableBack(t *testing.T) {
	want, err := os.ReadFile("instance-types.csv")
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := catalog.Default().Write(&got); err != nil {
		t.Fatal(err)
	}
	is, was := strings.Split(got.String(), "\n"), strings.Split(string(want), "\n")
	if len(is) != len(was) {
		t.Fatalf("%d lines written, %d read", len(is), len(was))
	}
	for i := range is {
		if is[i] != was[i] {
			t.Errorf("line %d is\n%s, was\n%s", i+1, is[i], was[i])
		}
	}
}

// A table that Parse accepts gives the same types after Write.
func FuzzParse(f *testing.F) {
	header := "instance_type,family,vcpu,mem_gib,eni_quantity,ipv4_per_eni,ipv6_per_eni,eni_total_quantity,eni_trunk_supported,bw_base_gbps,bw_burst_gbps,nic_queues,source\n"
	for _, seed := range []string{
		"", "instance_type,family\n", header,
		header + "ecs.a.b,ecs.a,2,4.5,3,6,1,20,true,1.5,10,2,x\n",
		header + "ecs.a.b,ecs.a,,,,,,,false,,,,\"x, \"\"y\"\"\"\n",
		header + "ecs.a.b,ecs.a,+2,1e3,0,0,0,0,,NaN,Inf,0,x\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := catalog.Parse(strings.NewReader(text))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := c.Write(&out); err != nil {
			t.Fatal(err)
		}
		again, err := catalog.Parse(&out)
		if err != nil {
			t.Fatalf("what was written is not read: %v", err)
		}
		a, b := c.All(), again.All()
		if len(a) != len(b) {
			t.Fatalf("%d types came back as %d", len(a), len(b))
		}
		for i := range a {
			if a[i] != b[i] {
				t.Errorf("%+v came back as %+v", a[i], b[i])
			}
		}
	})
}
