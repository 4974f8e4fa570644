package bandwidth

import "fmt"

// Priority is in which order the packets of pods that share an ENI leave by it.
type Priority string

// All of them, the first before the others. A pod without the annotation is Burstable.
const (
	Guaranteed Priority = "guaranteed"
	Burstable  Priority = "burstable"
	BestEffort Priority = "best-effort"
)

// NetworkPriority is the annotation with a pod's Priority. Other versions of Terway use the same one.
const NetworkPriority = "k8s.aliyun.com/network-priority"

// PriorityOf returns the priority in a pod's annotations. The error names the annotation, its value and
// the right ones.
func PriorityOf(annotations map[string]string) (Priority, error) {
	value, set := annotations[NetworkPriority]
	if !set {
		return Burstable, nil
	}
	switch p := Priority(value); p {
	case Guaranteed, Burstable, BestEffort:
		return p, nil
	}
	return "", fmt.Errorf("annotation %s: %q: want %s, %s or %s, such as %q", NetworkPriority, value, Guaranteed, Burstable, BestEffort, Guaranteed)
}
