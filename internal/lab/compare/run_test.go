package compare

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/lab"
)

func TestRunNamesAllThatIsWrong(t *testing.T) {
	good := lab.Options{Nodes: 3, InstanceType: "ecs.g6.2xlarge", Zones: []string{"cn-hangzhou-i"}, Source: ".", Dir: t.TempDir(), Cache: t.TempDir()}
	for _, tt := range []struct {
		name     string
		networks []string
		change   func(*lab.Options, *Options)
		want     []string
	}{
		{"no network", nil, func(*lab.Options, *Options) {}, []string{"--networks is empty"}},
		{"a network that is none", []string{"terway", "calico", "none"}, func(*lab.Options, *Options) {}, []string{`"calico"`, "without a pod network"}},
		{"all at once", []string{"terway"}, func(l *lab.Options, o *Options) { l.Nodes, o.Rounds, o.Pods, o.Datapaths = 1, 0, 0, nil },
			[]string{"--nodes 1", "--rounds 0", "--pods 0", "--datapath is empty"}},
		{"a datapath that is none", []string{"terway"}, func(_ *lab.Options, o *Options) { o.Datapaths = []string{"auto", "vxlan"} }, []string{`--datapath "vxlan"`}},
		{"too few ENIs", []string{"flannel", "terway"}, func(l *lab.Options, o *Options) { l.InstanceType, o.Datapaths = "ecs.g6.large", []string{"exclusive"} },
			[]string{"--instance-type ecs.g6.large"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, o := good, Options{Rounds: 1, Turn: time.Second, Pods: 6, Datapaths: []string{Auto}}
			tt.change(&l, &o)
			_, err := Run(context.Background(), l, tt.networks, o, lab.NewProgress(io.Discard, time.Now))
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in %q", want, err)
				}
			}
		})
	}
}

// A lab that another program is starting is not taken down.
func TestRunLeavesAnothersLabAlone(t *testing.T) {
	l := lab.Options{Nodes: 2, InstanceType: "ecs.g6.2xlarge", Zones: []string{"cn-hangzhou-i"}, Source: ".", Dir: t.TempDir(), Cache: t.TempDir()}
	locked, err := os.Create(filepath.Join(l.Cache, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer locked.Close()
	if err := unix.Flock(int(locked.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	_, err = Run(context.Background(), l, []string{"terway"}, Options{Rounds: 1, Turn: time.Second, Pods: 6, Datapaths: []string{Auto}}, lab.NewProgress(&told, time.Now))
	if err == nil || !strings.Contains(err.Error(), "another \"lab up\" is running") || strings.Contains(told.String(), "down") {
		t.Errorf("%v; it did %q", err, told.String())
	}
}
