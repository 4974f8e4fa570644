package lab

import (
	"reflect"
	"testing"
)

func TestLastRevision(t *testing.T) {
	for out, want := range map[string]struct {
		revision int
		status   string
	}{
		`[{"revision":1,"status":"superseded"},{"revision":2,"status":"deployed"}]`: {2, "deployed"},
		`[{"revision":3,"status":"uninstalling"}]`:                                  {3, "uninstalling"},
		`[{"revision":3,"status":"uninstalled"}]`:                                   {0, ""},
		`[]`: {0, ""},
	} {
		revision, status, err := lastRevision([]byte(out))
		if err != nil || revision != want.revision || status != want.status {
			t.Errorf("%s: %d %s %v, want %d %s", out, revision, status, err, want.revision, want.status)
		}
	}
	if _, _, err := lastRevision([]byte("Error")); err == nil {
		t.Error("what is no JSON is no history")
	}
}

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
