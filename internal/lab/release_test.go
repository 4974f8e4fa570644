package lab

import (
	"reflect"
	"testing"
)

// An older chart's schema refuses values that it does not know.
func TestKnownValues(t *testing.T) {
	values := map[string]any{
		"eniConfig": map[string]any{"mode": "shared"}, "uninstall": map[string]any{"force": true},
		"agent": map[string]any{"capabilities": []string{"NET_ADMIN"}, "cniBinDir": "/b"},
	}
	theirs := map[string]any{"eniConfig": map[string]any{"cluster_id": ""}, "agent": map[string]any{"cniBinDir": ""}, "policy": nil}
	want := map[string]any{"eniConfig": map[string]any{"mode": "shared"}, "agent": map[string]any{"cniBinDir": "/b"}}
	if got := known(values, theirs); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if len(values["agent"].(map[string]any)) != 2 {
		t.Error("the values themselves were changed")
	}
}
