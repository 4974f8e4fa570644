package admit

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/podeni"
)

func review(raw string) admission.Request {
	return admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{Object: runtime.RawExtension{Raw: []byte(raw)}}}
}

// asks is a pod as the API server encodes it, with fields that this program does not know.
const asks = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","annotations":{"network.terway.dev/exclusive-eni":"VALUE"}},` +
	`"spec":{"newField":9007199254740993,"containers":[{"name":"a","future":{"x":1},"resources":RESOURCES},{"name":"b","resources":{}}]}}`

func patches(t *testing.T, value, resources string) (string, admission.Response) {
	t.Helper()
	r := HandleExclusiveENI(t.Context(), review(strings.NewReplacer("VALUE", value, "RESOURCES", resources).Replace(asks)))
	b, err := json.Marshal(r.Patches)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), r
}

// Only the resource is changed; fields that a newer API server knows and this program does not are
// kept.
func TestExclusiveENIAddsTheResourceOnly(t *testing.T) {
	for name, c := range map[string]struct {
		resources string
		want      []string
	}{
		"empty": {`{}`, []string{`"path":"/spec/containers/0/resources/limits","value":{"aliyun/eni":"1"}`, `"path":"/spec/containers/0/resources/requests","value":{"aliyun/eni":"1"}`}},
		"others": {`{"claims":[{"name":"c"}],"limits":{"memory":"1Gi"},"requests":{"cpu":"1","memory":"1Gi"}}`,
			[]string{`"path":"/spec/containers/0/resources/limits/aliyun~1eni","value":"1"`, `"path":"/spec/containers/0/resources/requests/aliyun~1eni","value":"1"`}},
	} {
		t.Run(name, func(t *testing.T) {
			got, r := patches(t, "true", c.resources)
			if !r.Allowed || len(r.Patches) != len(c.want) {
				t.Fatalf("allowed %v, patches %s", r.Allowed, got)
			}
			for i, want := range c.want {
				if !strings.Contains(got, want) || r.Patches[i].Operation != "add" {
					t.Errorf("patches %s, want %s to be added", got, want)
				}
			}
		})
	}
	for name, resources := range map[string]string{"true": `{"limits":{"aliyun/eni":"1"},"requests":{"aliyun/eni":"1"}}`, "false": `{}`} {
		if got, r := patches(t, name, resources); !r.Allowed || len(r.Patches) != 0 {
			t.Errorf("%s with %s: allowed %v, patches %s", name, resources, r.Allowed, got)
		}
	}
}

func TestExclusiveENIRefuses(t *testing.T) {
	_, r := patches(t, "yes", `{}`)
	if r.Allowed || !strings.Contains(r.Result.Message, `network.terway.dev/exclusive-eni: "yes"`) {
		t.Errorf("%+v", r)
	}
	if _, r := patches(t, "true", `{"limits":{"aliyun/eni":"2"},"requests":{"aliyun/eni":"2"}}`); r.Allowed || len(r.Patches) != 0 {
		t.Errorf("%+v", r)
	}
	if r := HandleExclusiveENI(t.Context(), review(`[]`)); r.Allowed || !strings.Contains(r.Result.Message, "not a pod") {
		t.Errorf("%+v", r)
	}
}

// A pod that already has the resource is allowed unchanged: the API server may call again. No input
// makes the webhook panic.
func FuzzExclusiveENI(f *testing.F) {
	f.Add([]byte(asks))
	for _, value := range []string{"true", "false", "", "1"} {
		f.Add([]byte(strings.NewReplacer("VALUE", value, "RESOURCES", `{"limits":null}`).Replace(asks)))
		f.Add([]byte(strings.NewReplacer("VALUE", value, "RESOURCES", `{"limits":{"aliyun/eni":"1"}}`).Replace(asks)))
	}
	f.Add([]byte(`{"metadata":{"annotations":{"network.terway.dev/exclusive-eni":"true"}},"spec":{"containers":[null]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := HandleExclusiveENI(t.Context(), review(string(raw)))
		if !r.Allowed || len(r.Patches) == 0 {
			return
		}
		out, err := withENI(raw)
		if err != nil {
			t.Fatalf("patches %v, and then %v", r.Patches, err)
		}
		var pod corev1.Pod
		if err := json.Unmarshal(out, &pod); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		q := pod.Spec.Containers[0].Resources.Limits[claims.ResourceENI]
		if add, err := podeni.Admit(&pod); add || err != nil || q.Value() != 1 {
			t.Errorf("%s: second call: add %v, %v", out, add, err)
		}
	})
}

func limited(annotations map[string]string) runtime.RawExtension {
	raw, err := json.Marshal(map[string]any{"metadata": map[string]any{"name": "p", "annotations": annotations}})
	if err != nil {
		panic(err)
	}
	return runtime.RawExtension{Raw: raw}
}

func TestBandwidth(t *testing.T) {
	right, wrong := map[string]string{bandwidth.Ingress: "10M"}, map[string]string{bandwidth.Ingress: "10m"}
	for name, c := range map[string]struct {
		old, is map[string]string
		refused bool
	}{
		"created":                       {nil, right, false},
		"created with a wrong value":    {nil, wrong, true},
		"changed to another value":      {right, map[string]string{bandwidth.Egress: "1G"}, false},
		"changed to a wrong value":      {right, wrong, true},
		"a wrong value beside":          {right, map[string]string{bandwidth.Ingress: "10M", bandwidth.EgressBytes: "1"}, true},
		"removed":                       {right, map[string]string{}, false},
		"a wrong value removed":         {wrong, map[string]string{"other": "x"}, false},
		"it had a wrong value before":   {wrong, map[string]string{bandwidth.Ingress: "10m", "other": "x"}, false},
		"from one wrong to another one": {wrong, map[string]string{bandwidth.Ingress: "11m"}, true},
		"created with a priority":       {nil, map[string]string{bandwidth.NetworkPriority: "best-effort"}, false},
		"with a wrong priority":         {nil, map[string]string{bandwidth.NetworkPriority: "high"}, true},
		"a wrong priority beside":       {right, map[string]string{bandwidth.Ingress: "10M", bandwidth.NetworkPriority: "low"}, true},
		"it had a wrong priority":       {map[string]string{bandwidth.NetworkPriority: "low"}, map[string]string{bandwidth.NetworkPriority: "low", "other": "x"}, false},
	} {
		r := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{Operation: admissionv1.Create, Object: limited(c.is)}}
		if c.old != nil {
			r.Operation, r.OldObject = admissionv1.Update, limited(c.old)
		}
		got := HandleBandwidth(t.Context(), r)
		if got.Allowed == c.refused || len(got.Patches) != 0 {
			t.Errorf("%s: allowed %v, patches %v", name, got.Allowed, got.Patches)
		}
		for key, value := range c.is {
			if c.refused && value != "10M" && (!strings.Contains(got.Result.Message, key+`: "`+value+`"`) || !strings.Contains(got.Result.Message, "such as")) {
				t.Errorf("%s: %q does not name %s, its value and a right one", name, got.Result.Message, key)
			}
		}
	}
	if r := HandleBandwidth(t.Context(), review(`[]`)); r.Allowed || r.Result.Code != http.StatusBadRequest {
		t.Errorf("%+v", r)
	}
}
