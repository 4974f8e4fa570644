package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// auditPolicy makes the API server record who asks for what: reading requests of service accounts of the system's namespace, once
// each, without their contents. The rest is not recorded.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted, ResponseComplete, Panic]
rules:
- level: Metadata
  userGroups: ["system:serviceaccounts:kube-system"]
  verbs: [get, list, watch]
- level: None
`

// auditArgs writes the audit policy and returns the API server's arguments for it.
func (o *Options) auditArgs() ([]string, error) {
	policy := o.path("audit-policy.yaml")
	if err := writeFile(policy, []byte(auditPolicy), 0o644); err != nil {
		return nil, err
	}
	return []string{"--audit-policy-file=" + policy, "--audit-log-path=" + o.path("log", "audit.log"), "--audit-log-maxsize=100", "--audit-log-maxbackup=1"}, nil
}

// Request is a reading request to the API server by a pod of the system's namespace.
type Request struct {
	Verb, Resource, Pod string
}

// Requests returns those that the API server has recorded.
func (s *State) Requests() ([]Request, error) {
	f, err := os.Open(s.Options.path("log", "audit.log"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	defer f.Close()
	var list []Request
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct {
			Verb string
			User struct {
				Extra map[string][]string
			}
			ObjectRef struct{ Resource string }
		}
		// The last line may not be whole yet.
		if json.Unmarshal(lines.Bytes(), &event) != nil {
			continue
		}
		if pod := event.User.Extra["authentication.kubernetes.io/pod-name"]; len(pod) == 1 {
			list = append(list, Request{event.Verb, event.ObjectRef.Resource, pod[0]})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	return list, nil
}
