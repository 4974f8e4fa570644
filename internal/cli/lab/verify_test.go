package lab

import (
	"strings"
	"testing"

	"terway.dev/terway/internal/lab/verify"
)

func TestVerdict(t *testing.T) {
	good := &verify.Group{Datapath: "route", Results: []verify.Result{{OK: true}, {OK: true}}}
	bad := &verify.Group{Datapath: "ebpf", Results: []verify.Result{{OK: true}, {}}}
	lacking := &verify.Group{Datapath: "netkit", Lacking: "node1: this kernel lacks netkit"}
	broken := &verify.Group{Datapath: "exclusive", Error: "not done within 3m0s"}
	for name, c := range map[string]struct {
		groups []*verify.Group
		asked  string
		want   []string
	}{
		"good":                    {[]*verify.Group{good}, "", nil},
		"a check failed":          {[]*verify.Group{good, bad}, "route,ebpf", []string{"1 of 4 checks failed"}},
		"named and not supported": {[]*verify.Group{good, lacking}, "route,netkit", []string{"datapath netkit: node1: this kernel lacks netkit"}},
		"all, and not supported":  {[]*verify.Group{good, lacking}, "all", nil},
		"all, and not switched":   {[]*verify.Group{bad, lacking, broken}, "all", []string{"datapath exclusive: not done", "1 of 2 checks failed"}},
	} {
		err := verdict(c.groups, strings.Split(c.asked, ","))
		if (err == nil) != (len(c.want) == 0) {
			t.Errorf("%s: %v", name, err)
		}
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
	}
}
