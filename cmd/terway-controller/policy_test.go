package main

import (
	"strings"
	"testing"
)

// Without --policy-port nothing of the policy hub is made: the manager, with which it would watch, is not even asked.
func TestWithoutPolicyPortThereIsNoHub(t *testing.T) {
	if s, err := policyHub(nil, flags{}, nil, nil); s != nil || err != nil {
		t.Errorf("%v, %v", s, err)
	}
	for _, port := range []int{-1, 65536} {
		if _, err := policyHub(nil, flags{policyPort: port}, nil, nil); err == nil || !strings.Contains(err.Error(), "want a port") {
			t.Errorf("--policy-port %d: %v", port, err)
		}
	}
	if _, err := policyHub(nil, flags{policyPort: 1, memory: -1}, nil, nil); err == nil || !strings.Contains(err.Error(), "--memory -1: want") {
		t.Errorf("--memory -1: %v", err)
	}
}
