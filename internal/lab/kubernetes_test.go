package lab

import (
	"archive/zip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseKubernetes(t *testing.T) {
	const shape = "want a minor version such as 1.34, whose newest release is taken, or a release such as 1.34.4"
	const runs = "the lab runs 1.31 to 1.36"
	for _, tt := range []struct{ in, want, err string }{
		{in: "1.34", want: "v1.34"},
		{in: "v1.34", want: "v1.34"},
		{in: "1.34.0", want: "v1.34.0"},
		{in: "v1.34.10", want: "v1.34.10"},
		{in: "1.31", want: "v1.31"},
		// The release of the source tree needs no other module.
		{in: "1.36", want: KubernetesVersion},
		{in: "1.36.3", want: KubernetesVersion},
		{in: "1.36.1", want: "v1.36.1"},
		{in: "1.30", err: runs},
		{in: "1.5.2", err: runs},
		{in: "1.37.0", err: runs},
		{in: "", err: shape},
		{in: "1", err: shape},
		{in: "34", err: shape},
		{in: "1.34.", err: shape},
		{in: "1.034", err: shape},
		{in: "1.34.x", err: shape},
		{in: "1.34.4.1", err: shape},
		{in: "1.34.0-rc.1", err: shape},
		{in: "2.34", err: shape},
		{in: "latest", err: shape},
		{in: " 1.34", err: shape},
	} {
		got, err := ParseKubernetes(tt.in)
		if tt.err != "" {
			if want := fmt.Sprintf("--kubernetes %q: %s", tt.in, tt.err); err == nil || err.Error() != want {
				t.Errorf("ParseKubernetes(%q) = %q, %v, want the error %q", tt.in, got, err, want)
			}
		} else if err != nil || got != tt.want {
			t.Errorf("ParseKubernetes(%q) = %q, %v, want %s", tt.in, got, err, tt.want)
		}
	}
	o := options("cn-hangzhou-i")
	o.Kubernetes = "1.x"
	if err := o.Normalize(); err == nil || !strings.Contains(err.Error(), `--kubernetes "1.x"`) {
		t.Errorf("a lab of Kubernetes 1.x: %v", err)
	}
}

// The module of another version has everything in the versions of that Kubernetes.
func TestKubeGoMod(t *testing.T) {
	const upstream = `// Kubernetes' own notes
module k8s.io/kubernetes

go 1.24.0

godebug default=go1.24

require (
	github.com/spf13/cobra v1.9.1
	k8s.io/api v0.0.0
	k8s.io/kubectl v0.0.0
	k8s.io/sample-apiserver v0.0.0
)

require go.etcd.io/etcd/server/v3 v3.6.4 // indirect

replace (
	k8s.io/api => ./staging/src/k8s.io/api
	k8s.io/kubectl => ./staging/src/k8s.io/kubectl
	k8s.io/sample-apiserver => ./staging/src/k8s.io/sample-apiserver
)

tool k8s.io/code-generator/cmd/go-to-protobuf
`
	const want = `// Kubernetes' own notes
module terway.dev/terway/internal/lab/modules/kube

go 1.24.0

godebug default=go1.24

require (
	github.com/spf13/cobra v1.9.1
	k8s.io/api v0.0.0
	k8s.io/kubectl v0.0.0
)

require (
	go.etcd.io/etcd/server/v3 v3.6.4 // indirect
	k8s.io/kubernetes v1.34.4
)

replace (
	k8s.io/api => k8s.io/api v0.34.4
	k8s.io/kubectl => k8s.io/kubectl v0.34.4
)
`
	got, err := kubeGoMod([]byte(upstream), "v1.34.4")
	if err != nil || string(got) != want {
		t.Errorf("%v, the module is\n%s\nwant\n%s", err, got, want)
	}
	for _, broken := range []string{"", "modul k8s.io/kubernetes\n", "module k8s.io/api\n"} {
		if got, err := kubeGoMod([]byte(broken), "v1.34.4"); err == nil {
			t.Errorf("of %q the module %q is made", broken, got)
		}
	}
}

// Each version has its own programs, which a lab of another one does not replace; all else is the same.
func TestProgramsOfEachVersion(t *testing.T) {
	made := func(version string) (kube, rest []string) {
		o := &Options{Source: "/source", Cache: "/cache", Kubernetes: version}
		for _, target := range o.targets() {
			for _, m := range target.made {
				if strings.HasSuffix(m, "/kube") {
					kube = append(kube, o.cached(m), target.name, o.moduleDir(target), strings.Join(target.flags, " "))
				} else {
					rest = append(rest, m)
				}
			}
		}
		for _, name := range kubePrograms {
			if dir := filepath.Dir(o.Bin(name)); dir != filepath.Dir(kube[0]) || !strings.HasPrefix(o.binPath(), dir+":") {
				t.Errorf("%s of %s is in %s, the PATH is %s, and the program is %s", name, version, dir, o.binPath(), kube[0])
			}
		}
		return kube, rest
	}
	usual, rest := made("")
	other, same := made("v1.34.4")
	if !slices.Equal(rest, same) {
		t.Errorf("with another Kubernetes the lab has %q, without %q", same, rest)
	}
	for i, want := range [][2]string{
		{"/cache/bin/kube", "/cache/kubernetes/v1.34.4/kube"},
		{"Kubernetes " + KubernetesVersion + " and etcd", "Kubernetes v1.34.4 and etcd"},
		{"/source/internal/lab/modules/kube", "/cache/kubernetes/v1.34.4/module"},
	} {
		if usual[i] != want[0] || other[i] != want[1] {
			t.Errorf("%q and %q, want %q", usual[i], other[i], want)
		}
	}
	for _, flag := range []string{"version.gitVersion=v1.34.4", "version.gitMajor=1", "version.gitMinor=34"} {
		if !strings.Contains(other[3], flag) {
			t.Errorf("v1.34.4 is built with %s, want %s", other[3], flag)
		}
	}
}

// Kubelets accept the lab's short time between restarts of a container since 1.32, and without a feature gate since 1.35.
func TestKubeletOfOlderVersions(t *testing.T) {
	const short, gate = "map[maxContainerRestartPeriod:1s]", "map[KubeletCrashLoopBackOffMax:true]"
	for version, want := range map[string][2]string{"": {short, "<nil>"}, "v1.35.0": {short, "<nil>"}, "v1.34.4": {short, gate}, "v1.32.0": {short, gate}, "v1.31.14": {"<nil>", "<nil>"}} {
		o := options("cn-hangzhou-i")
		if err := o.Normalize(); err != nil {
			t.Fatal(err)
		}
		o.Kubernetes = version
		conf := o.kubeletConfig(Machine{})
		if got := [2]string{fmt.Sprint(conf["crashLoopBackOff"]), fmt.Sprint(conf["featureGates"])}; got != want {
			t.Errorf("version %q: crashLoopBackOff and featureGates are %q, want %q", version, got, want)
		}
	}
}

// A proxy of modules has releases of a tiny Kubernetes and of a module that is published with it: a minor version is its
// newest release, the module made for it can be built as it is, and a second time nothing has changed.
func TestAnotherKubernetesIsBuilt(t *testing.T) {
	proxy, cache := t.TempDir(), t.TempDir()
	t.Setenv("GOPROXY", "file://"+proxy)
	t.Setenv("GONOSUMDB", "k8s.io")
	t.Setenv("GOMODCACHE", filepath.Join(cache, "mod"))
	t.Cleanup(func() { // the Go command makes its folders read-only
		if out, err := exec.Command("go", "clean", "-modcache").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	publish := func(module, version string, files map[string]string) {
		t.Helper()
		dir := filepath.Join(proxy, module, "@v")
		for file, text := range map[string]string{".info": fmt.Sprintf(`{"Version": %q}`, version), ".mod": files["go.mod"]} {
			if err := writeFile(filepath.Join(dir, version+file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		archive, err := os.Create(filepath.Join(dir, version+".zip"))
		if err != nil {
			t.Fatal(err)
		}
		defer archive.Close()
		z := zip.NewWriter(archive)
		for name, text := range files {
			f, err := z.Create(module + "@" + version + "/" + name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(f, text); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	const own = "module k8s.io/kubernetes\n\ngo 1.24.0\n\nrequire k8s.io/api v0.0.0\n\nreplace k8s.io/api => ./staging/src/k8s.io/api\n"
	releases := []string{"9", "10"}
	for _, r := range releases {
		publish("k8s.io/kubernetes", "v1.34."+r, map[string]string{"go.mod": own, "app/app.go": "package app\n\nimport \"k8s.io/api\"\n\nconst Release = \"kubernetes " + r + ", api \" + api.Release\n"})
		publish("k8s.io/api", "v0.34."+r, map[string]string{"go.mod": "module k8s.io/api\n\ngo 1.24.0\n", "api.go": "package api\n\nconst Release = \"" + r + "\"\n"})
	}
	if err := writeFile(filepath.Join(proxy, "k8s.io/kubernetes/@v/list"), []byte("v1.34.9\nv1.34.10\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	source := t.TempDir()
	if err := writeFile(filepath.Join(source, kubeSource, "main.go"), []byte("package main\n\nimport \"k8s.io/kubernetes/app\"\n\nfunc main() { print(app.Release) }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	lab := func(version string) (o *Options, fresh bool, err error) {
		o = &Options{Source: source, Cache: filepath.Join(cache, "lab"), Kubernetes: version}
		p := NewProgress(io.Discard, time.Now)
		if err := o.chooseKubernetes(t.Context(), p); err != nil {
			return nil, false, err
		}
		if fresh, _, err = o.fresh(t.Context(), o.kubeTarget()); err != nil {
			return nil, false, err
		}
		return o, fresh, o.buildAll(t.Context(), []target{o.kubeTarget()}, p)
	}
	for _, tt := range []struct {
		version, release string
		fresh            bool
	}{{"v1.34", "10", false}, {"v1.34.9", "9", false}, {"v1.34", "10", true}} {
		o, fresh, err := lab(tt.version)
		if err != nil {
			t.Fatal(err)
		}
		if o.Kubernetes != "v1.34."+tt.release || fresh != tt.fresh {
			t.Errorf("%s is release %s, and was there before: %t; want v1.34.%s and %t", tt.version, o.Kubernetes, fresh, tt.release, tt.fresh)
		}
		out, err := exec.Command(o.cached(o.kubeDir("kube"))).CombinedOutput()
		if want := "kubernetes " + tt.release + ", api " + tt.release; err != nil || string(out) != want {
			t.Errorf("%s: the program prints %q, %v, want %q", tt.version, out, err, want)
		}
	}
	for _, version := range []string{"v1.33", "v1.34.11"} {
		if _, _, err := lab(version); err == nil || !strings.Contains(err.Error(), "Kubernetes "+version) || !strings.Contains(err.Error(), "k8s.io/kubernetes@"+version) {
			t.Errorf("%s, which there is not: %v", version, err)
		}
	}
}
