package lab

import (
	"context"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Terway is installed by the lab's terwayctl, with the lab's values, cluster and cloud. What it says is kept, and is the error if it fails.
func TestInstall(t *testing.T) {
	o := options("cn-hangzhou-i")
	o.Dir = t.TempDir()
	if err := o.Normalize(); err != nil {
		t.Fatal(err)
	}
	s := &State{Options: o, Cloud: Cloud{Endpoint: "http://127.0.0.1:1", Region: Region, AccessKeyID: "id"}}
	program := func(script string) {
		t.Helper()
		if err := writeFile(s.Options.Terwayctl(), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	said := func() string {
		t.Helper()
		b, err := os.ReadFile(s.Options.path("log", "install.log"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	program(`echo "$@"; echo "$KUBECONFIG $ECS_ENDPOINT $VPC_ENDPOINT $SLB_ENDPOINT $NLB_ENDPOINT"; grep accessKeyID "$5"`)
	if err := s.installTerway(t.Context()); err != nil {
		t.Fatal(err)
	}
	const cloud = " http://127.0.0.1:1"
	for _, want := range []string{"install --chart " + o.Source + "/deploy/chart --values " + s.Options.path("values.yaml") + " --force-conflicts\n",
		s.Options.Kubeconfig() + cloud + cloud + cloud + cloud + "\n", "accessKeyID: id\n"} {
		if !strings.Contains(said(), want) {
			t.Errorf("%q, want %q", said(), want)
		}
	}
	program("echo problem: max-pods; echo checks have failed >&2; exit 1")
	if err := s.installTerway(t.Context()); err == nil || err.Error() != "terwayctl install: exit status 1\nproblem: max-pods\nchecks have failed\n" || said() != "problem: max-pods\nchecks have failed\n" {
		t.Errorf("%v, and in the log %q", err, said())
	}
	// It may end by itself: it records that the release has failed.
	ctx, cancel := context.WithCancel(t.Context())
	program(`trap "echo recorded; exit 130" INT; echo $$ > "$5.began"; while :; do sleep 0.01; done`)
	go func() {
		for {
			if _, err := os.Stat(s.Options.path("values.yaml.began")); err == nil || t.Context().Err() != nil {
				cancel()
				return
			}
		}
	}()
	if err := s.installTerway(ctx); err == nil || said() != "recorded\n" {
		t.Errorf("interrupted: %v, and in the log %q", err, said())
	}
}

// A node is there when its kubelet reports the image of Terway: "terwayctl install" would refuse it before.
func TestNodeRegistered(t *testing.T) {
	n := &corev1.Node{}
	for range 2 {
		if got := nodeRegistered(n); !strings.Contains(got, ImageTerway) {
			t.Errorf("images %v: %q", n.Status.Images, got)
		}
		n.Status.Images = []corev1.ContainerImage{{Names: []string{ImagePause}}}
	}
	n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{ImageTerway}})
	if got := nodeRegistered(n); got != "" {
		t.Errorf("with it: %q", got)
	}
}
