package vpcsim

import (
	"encoding/json"
	"net/http"
	"strings"

	"terway.dev/terway/internal/vpcsim/fabric"
	"terway.dev/terway/internal/vpcsim/openapi"
	"terway.dev/terway/internal/vpcsim/state"
)

// AdminPrefix is the path of the admin endpoint on the main listener: faults, stats, metrics, view,
// fabric. It needs no key, and instances cannot reach it.
const AdminPrefix = "/_admin"

// Report is the answer of GET /_admin/stats.
type Report struct {
	Actions map[string]openapi.ActionStats `json:"actions"`
	// Revision is the revision of the cloud. Committed is the revision that is saved and
	// applied to the planes.
	Revision  uint64 `json:"revision"`
	Committed bool   `json:"committed"`
}

// FabricReport is the answer of GET /_admin/fabric: the namespaces of instances and the devices
// of ENIs on this machine. It is empty without a fabric.
type FabricReport struct {
	// Instances has the namespace's path by instance id.
	Instances map[string]string `json:"instances"`
	// Ports has the ports by ENI id.
	Ports map[string]PortReport `json:"ports"`
}

// PortReport says where an ENI's traffic can be captured, and has its counters.
type PortReport struct {
	NetNS    string          `json:"netns"`
	Device   string          `json:"device"`
	Counters fabric.Counters `json:"counters"`
}

// ViewReport is the answer of GET /_admin/view: the whole cloud, ENIs first.
type ViewReport struct {
	NetworkInterfaces []state.NetworkInterface
	*state.View
}

func (s *Server) viewReport() (*ViewReport, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	enis, err := s.cloud.DescribeNetworkInterfaces(state.DescribeNetworkInterfacesRequest{})
	if err != nil {
		return nil, err
	}
	return &ViewReport{NetworkInterfaces: enis, View: s.cloud.View()}, nil
}

func (s *Server) fabricReport() (*FabricReport, error) {
	out := &FabricReport{Instances: map[string]string{}, Ports: map[string]PortReport{}}
	f, ok := s.Fabric.(interface {
		NetNSPath(instance string) (string, error)
		PortDevice(eni string) (netnsPath, device string, err error)
		Counters() (map[string]fabric.Counters, error)
	})
	if !ok {
		return out, nil
	}
	// No ENI is attached or detached meanwhile.
	s.commits.Lock()
	defer s.commits.Unlock()
	counters, err := f.Counters()
	if err != nil {
		return nil, err
	}
	for eni, c := range counters {
		ns, device, err := f.PortDevice(eni)
		if err != nil {
			return nil, err
		}
		out.Ports[eni] = PortReport{NetNS: ns, Device: device, Counters: c}
	}
	view := s.View()
	ids := []string{fabric.OutsideID}
	for _, i := range view.Instances {
		ids = append(ids, i.InstanceId)
	}
	for _, b := range view.Balancers {
		ids = append(ids, fabric.BalancersOf(b.VpcId))
	}
	for _, id := range ids {
		if path, err := f.NetNSPath(id); err == nil {
			out.Instances[id] = path
		}
	}
	return out, nil
}

// handler is the handler of the main listener: the API at every path except the admin's.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(AdminPrefix+"/faults", http.StripPrefix(AdminPrefix+"/faults", atRoot(s.faults.Handler(s.Now, s.faultsChanged))))
	mux.HandleFunc("GET "+AdminPrefix+"/stats", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("format") == "prometheus" || strings.HasPrefix(r.Header.Get("Accept"), "text/plain") {
			s.metrics(w, r)
			return
		}
		report := Report{Actions: s.stats.Snapshot()}
		s.mu.Lock()
		report.Revision, report.Committed = s.cloud.Revision(), s.committed == s.cloud.Revision()+1
		s.mu.Unlock()
		s.reply(w, report)
	})
	mux.HandleFunc("GET "+AdminPrefix+"/metrics", s.metrics)
	mux.HandleFunc("GET "+AdminPrefix+"/view", func(w http.ResponseWriter, r *http.Request) {
		report, err := s.viewReport()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.reply(w, report)
	})
	mux.HandleFunc("GET "+AdminPrefix+"/fabric", func(w http.ResponseWriter, r *http.Request) {
		report, err := s.fabricReport()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.reply(w, report)
	})
	// The mux would redirect unclean paths to "/", and aliyungo requests an empty path.
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == AdminPrefix || strings.HasPrefix(r.URL.Path, AdminPrefix+"/") {
			mux.ServeHTTP(w, r)
			return
		}
		s.api.ServeHTTP(w, r)
	})
}

// atRoot adds the slash to a stripped path.
func atRoot(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "" {
			r.URL.Path = "/"
		}
		h.ServeHTTP(w, r)
	})
}

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if err := s.stats.WritePrometheus(w); err != nil {
		s.Log.Debug("client went away before the answer", "err", err)
	}
}

// reply writes indented JSON.
func (s *Server) reply(w http.ResponseWriter, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(append(b, '\n')); err != nil {
		s.Log.Debug("client went away before the answer", "err", err)
	}
}
