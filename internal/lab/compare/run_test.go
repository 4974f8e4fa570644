package compare

import (
	"context"
	"errors"
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
			l, o := good, Options{Rounds: 1, Turn: time.Second, Upgrades: 1, Pods: 6, Datapaths: []string{Auto}}
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

// Each datapath is measured once, in any order: also a named one that is the automatic choice,
// and one that is named twice.
func TestRunMeasuresEachOnce(t *testing.T) {
	for _, tt := range []struct {
		asked, auto, ran, columns string
	}{
		{"auto route exclusive", "ebpf", "auto route exclusive", "*ebpf route exclusive"},
		{"auto ebpf", "ebpf", "auto", "*ebpf"},
		{"ebpf auto", "ebpf", "auto", "*ebpf"},
		{"ebpf route auto", "ebpf", "auto route", "*ebpf route"},
		{"exclusive route auto", "ebpf", "auto exclusive route", "exclusive route *ebpf"},
		{"flannel auto route", "route", "auto flannel", "flannel *route"},
		{"route route exclusive exclusive", "ebpf", "route exclusive", "route exclusive"},
		{"auto auto flannel", "ebpf", "auto flannel", "*ebpf flannel"},
	} {
		var labs []*lab.Options
		for _, what := range strings.Fields(tt.asked) {
			l := &lab.Options{Network: lab.NetworkTerway, Datapath: what, Mode: "shared"}
			switch what {
			case "exclusive":
				l.Datapath, l.Mode = Auto, what
			case "flannel":
				l.Network, l.Datapath, l.Mode = what, "", ""
			}
			labs = append(labs, l)
		}
		var ran, columns []string
		got, err := runEach(labs, func(l *lab.Options) (*Network, error) {
			is := l.Datapath
			switch {
			case l.Network != lab.NetworkTerway:
				is = l.Network
			case l.Mode == "exclusive":
				is = l.Mode
			}
			ran = append(ran, is)
			if is == Auto {
				is = tt.auto
			}
			return &Network{Name: l.Network, Datapath: is}, nil
		})
		for _, n := range got {
			if n.Default {
				n.Datapath = "*" + n.Datapath
			}
			columns = append(columns, n.Datapath)
		}
		if strings.Join(ran, " ") != tt.ran || strings.Join(columns, " ") != tt.columns || err != nil {
			t.Errorf("%s: %v were measured, the columns are %v, %v; want %s, %s", tt.asked, ran, columns, err, tt.ran, tt.columns)
		}
	}
}

// After an error the results so far are returned.
func TestRunKeepsWhatWasMeasured(t *testing.T) {
	labs := []*lab.Options{{Network: lab.NetworkTerway, Datapath: "route"}, {Network: lab.NetworkFlannel}, {Network: lab.NetworkTerway, Datapath: Auto}}
	got, err := runEach(labs, func(l *lab.Options) (*Network, error) {
		if l.Network == lab.NetworkFlannel {
			return nil, errors.New("it fell over")
		}
		return &Network{Datapath: l.Datapath}, nil
	})
	if len(got) != 2 || got[0].Datapath != "route" || err == nil || err.Error() != "flannel: it fell over" {
		t.Errorf("%+v, %v", got, err)
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
	_, err = Run(context.Background(), l, []string{"terway"}, Options{Rounds: 1, Turn: time.Second, Upgrades: 1, Pods: 6, Datapaths: []string{Auto}}, lab.NewProgress(&told, time.Now))
	if !errors.Is(err, lab.ErrRunning) || strings.Contains(told.String(), "down") {
		t.Errorf("%v; it did %q", err, told.String())
	}
}
