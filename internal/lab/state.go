package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"terway.dev/terway/internal/atomicfile"
)

// State is the state of a running lab between commands, in lab.json.
type State struct {
	Options Options `json:"options"`
	Cloud   Cloud   `json:"cloud"`
	Master  Machine `json:"master"`
	// Machines are the cluster's nodes.
	Machines []Machine `json:"machines"`
	// APIServer is the address of the relay on this machine.
	APIServer string `json:"apiServer"`
	// Ready is set after every step of "terway-lab up".
	Ready bool `json:"ready"`
}

// Cloud has the addresses of the simulated cloud and the resources in it.
type Cloud struct {
	Endpoint        string              `json:"endpoint"`
	AccessKeyID     string              `json:"accessKeyId"`
	AccessKeySecret string              `json:"accessKeySecret"`
	Region          string              `json:"region"`
	VPCID           string              `json:"vpcId"`
	SecurityGroupID string              `json:"securityGroupId"`
	NodeVSwitches   map[string]string   `json:"nodeVSwitches"` // zone → id
	PodVSwitches    map[string][]string `json:"podVSwitches"`  // zone → ids
	// FabricNS is the network namespace of the switch.
	FabricNS string `json:"fabricNS"`
}

// Machine is an instance of the simulated cloud.
type Machine struct {
	Name       string     `json:"name"`
	InstanceID string     `json:"instanceId"`
	Type       string     `json:"type"`
	Zone       string     `json:"zone"`
	Address    netip.Addr `json:"address"`
	// NetNS is the path of its network namespace.
	NetNS string `json:"netns"`
	// MaxPods is the maxPods of its kubelet.
	MaxPods int `json:"maxPods,omitempty"`
}

func (o *Options) stateFile() string { return o.path("lab.json") }

// LoadState reads the state of the lab in dir.
func LoadState(dir string) (*State, error) {
	b, err := os.ReadFile(filepath.Join(dir, "lab.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no lab in %s: start one with \"terway-lab up\"", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read the lab's state: %w", err)
	}
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("read the lab's state in %s: %w", dir, err)
	}
	return &s, nil
}

func (s *State) save() error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the lab's state: %w", err)
	}
	return writeFile(s.Options.stateFile(), append(b, '\n'), 0o600)
}

// writeFile replaces a file atomically and makes its directory.
func writeFile(path string, b []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the folder of %s: %w", path, err)
	}
	return atomicfile.Write(path, b, mode)
}

// Machine returns a machine by name; "master" is the control plane's.
func (s *State) Machine(name string) (*Machine, error) {
	if name == s.Master.Name {
		return &s.Master, nil
	}
	for i := range s.Machines {
		if s.Machines[i].Name == name {
			return &s.Machines[i], nil
		}
	}
	return nil, fmt.Errorf("no machine %q in the lab: there are %s", name, s.names())
}

// Internet is the name, in NetNS, of the namespace outside the VPC.
const Internet = "internet"

// NetNS returns the path of the network namespace of a machine, or of the one outside the VPC.
// The latter exists while a load balancer of the VPC has a public address, and reaches nothing else.
func (s *State) NetNS(name string) (string, error) {
	if name == Internet {
		return netnsDir + "/" + Prefix + Internet, nil
	}
	m, err := s.Machine(name)
	if err != nil {
		return "", fmt.Errorf("%w; %s is outside of all", err, Internet)
	}
	return m.NetNS, nil
}

func (s *State) names() []string {
	names := []string{s.Master.Name}
	for _, m := range s.Machines {
		names = append(names, m.Name)
	}
	return names
}
