package podeni

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"terway.dev/terway/internal/datapath/claims"
)

// asks returns a container that requests the resource; "" leaves a value out.
func asks(request, limit string) corev1.Container {
	c := corev1.Container{Name: "c"}
	if request != "" {
		c.Resources.Requests = corev1.ResourceList{claims.ResourceENI: resource.MustParse(request)}
	}
	if limit != "" {
		c.Resources.Limits = corev1.ResourceList{claims.ResourceENI: resource.MustParse(limit)}
	}
	return c
}

func pod(value string, containers ...corev1.Container) *corev1.Pod {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: containers}}
	if value != "" {
		p.Annotations = map[string]string{claims.AnnotationExclusiveENI: value}
	}
	return p
}

func TestAdmit(t *testing.T) {
	plain := asks("", "")
	host := pod("true", plain)
	host.Spec.HostNetwork = true
	wrongHost := pod("yes", plain)
	wrongHost.Spec.HostNetwork = true
	init := pod("true", plain)
	init.Spec.InitContainers = []corev1.Container{asks("1", "1")}
	initFalse := pod("false", plain)
	initFalse.Spec.InitContainers = []corev1.Container{asks("", "1")}
	empty := pod("", plain)
	empty.Annotations = map[string]string{claims.AnnotationExclusiveENI: ""}
	for name, c := range map[string]struct {
		pod *corev1.Pod
		add bool
		err []string // parts of the message; empty: the pod must be admitted
	}{
		"no annotation":                    {pod: pod("", plain)},
		"no annotation and the resource":   {pod: pod("", asks("2", "2"))},
		"true":                             {pod: pod("true", plain, plain), add: true},
		"true of the host network":         {pod: host},
		"any value of the host network":    {pod: wrongHost},
		"true without containers":          {pod: pod("true")},
		"true and the resource":            {pod: pod("true", plain, asks("1", "1"))},
		"true and the limit alone":         {pod: pod("true", asks("", "1"))},
		"true and 1000m":                   {pod: pod("true", asks("1000m", "1"))},
		"true and another resource":        {pod: pod("true", corev1.Container{Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"aliyun/member-eni": resource.MustParse("1")}}}), add: true},
		"true and the request alone":       {pod: pod("true", asks("1", "")), err: []string{`"true"`, "spec.containers[0]", "limit not set", "want 1 and 1"}},
		"true and 2":                       {pod: pod("true", asks("2", "2")), err: []string{"spec.containers[0]", "request of aliyun/eni 2, limit 2"}},
		"true and 0":                       {pod: pod("true", asks("0", "0")), err: []string{"request of aliyun/eni 0, limit 0"}},
		"true and a limit that differs":    {pod: pod("true", asks("1", "2")), err: []string{"request of aliyun/eni 1, limit 2"}},
		"true and two that ask":            {pod: pod("true", asks("1", "1"), plain, asks("1", "1")), err: []string{"spec.containers[2]", "spec.containers[0].resources has it too"}},
		"true and an init container":       {pod: init, err: []string{"spec.initContainers[0]", "want it in one of spec.containers"}},
		"true and everything wrong":        {pod: pod("true", asks("2", "2"), asks("1", "")), err: []string{"spec.containers[0]", "spec.containers[1]"}},
		"false":                            {pod: pod("false", plain)},
		"false and 0":                      {pod: pod("false", asks("0", "0"))},
		"false and the resource":           {pod: pod("false", plain, asks("1", "1")), err: []string{"exclusive-eni", `"false"`, "spec.containers[1]", "want none"}},
		"false and the limit":              {pod: pod("false", asks("", "1")), err: []string{"want none"}},
		"false and an init container":      {pod: initFalse, err: []string{"spec.initContainers[0]"}},
		"a word":                           {pod: pod("yes", plain), err: []string{"network.terway.dev/exclusive-eni", `"yes"`, `want "true"`, `"false"`}},
		"capitals":                         {pod: pod("True", plain), err: []string{`"True"`}},
		"a number":                         {pod: pod("1", plain), err: []string{`"1"`}},
		"a space":                          {pod: pod("true ", plain), err: []string{`"true "`}},
		"empty":                            {pod: empty, err: []string{`""`}},
		"a word beside the right resource": {pod: pod("on", asks("1", "1")), err: []string{`"on"`}},
	} {
		t.Run(name, func(t *testing.T) {
			add, err := Admit(c.pod)
			if add != c.add {
				t.Errorf("add is %v, want %v", add, c.add)
			}
			if (err == nil) != (c.err == nil) {
				t.Fatalf("error %v, want one with %q", err, c.err)
			}
			for _, part := range c.err {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q, want %q in it", err, part)
				}
			}
		})
	}
}

// For any annotation: two values are valid, the error names all others, and on the host network
// all are ignored.
func FuzzAnnotation(f *testing.F) {
	for _, v := range []string{"true", "false", "", "True", "yes", "1", " true", "true\n", "\x00", "真"} {
		f.Add(v, false)
		f.Add(v, true)
	}
	f.Fuzz(func(t *testing.T, value string, host bool) {
		p := pod("", asks("", ""))
		p.Annotations = map[string]string{claims.AnnotationExclusiveENI: value}
		p.Spec.HostNetwork = host
		asked, err := Asked(p.Annotations)
		if right := value == "true" || value == "false"; right != (err == nil) || asked != (value == "true") {
			t.Errorf("%q: asked %v, error %v", value, asked, err)
		}
		if err != nil && !strings.Contains(err.Error(), claims.AnnotationExclusiveENI) {
			t.Errorf("%q: error %q does not name the annotation", value, err)
		}
		add, admit := Admit(p)
		if host && (add || admit != nil) {
			t.Errorf("%q of the host network: add %v, error %v", value, add, admit)
		}
		if !host && (add != asked || (admit == nil) != (err == nil)) {
			t.Errorf("%q: the webhook would add %v (%v), the agent says %v (%v)", value, add, admit, asked, err)
		}
	})
}
