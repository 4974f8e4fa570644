// Package supportbundle is the command "terwayctl support-bundle": one file with what a report of a
// problem needs, without secrets. It only reads, and never a Secret.
package supportbundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"terway.dev/terway/internal/atomicfile"
	"terway.dev/terway/internal/cli/cluster"
	"terway.dev/terway/internal/cli/kubeflags"
	"terway.dev/terway/internal/cli/program"
)

// NewCommand returns "terwayctl support-bundle".
func NewCommand() *cobra.Command {
	var kube kubeflags.Flags
	var output program.Output
	var c collector
	var file string
	cmd := &cobra.Command{
		Use:   "support-bundle",
		Short: "Write a file with what a report of a problem needs, without secrets",
		Long: `Write a file (tar, gzip) with what a report of a problem needs: the state of the nodes
("terwayctl status") and the pods' addresses ("terwayctl pods --check --no-cloud");
Nodes, NodeNetworks, and of Terway's namespace Terway's pods, Deployments, DaemonSets,
Leases and its configuration (ConfigMap eni-config); events about nodes, sandboxes and
Terway; logs of the controller and of agents, those of nodes with problems first.

Secrets are not read. What has the form of a secret is removed from all files: access
keys, tokens, private keys, users in URLs, and values whose name says that they are
secret; of containers, the values of all variables. Names and addresses of the cluster
stay: look through the file before you give it away (tar -xzf FILE).

What cannot be read is left out and listed in lacks.txt of the file; then the exit
status is 1.

It needs to list nodes, nodenetworks.network.terway.dev, and the pods and events of all
namespaces, and in Terway's namespace to list deployments.apps, daemonsets.apps and
leases.coordination.k8s.io, and to get the first and the last of these, the ConfigMap
eni-config, and pods/log.`,
		Example: `  terwayctl support-bundle
  terwayctl support-bundle --node node1 --since 2h --file node1.tar.gz`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case c.since < time.Second:
				return program.Usagef("--since %s: want 1s or more", c.since)
			case c.agents < 0:
				return program.Usagef("--agents %d: want 0 or more", c.agents)
			case len(c.nodes) > 0 && cmd.Flags().Changed("agents"):
				return program.Usagef("--node and --agents: give one of them")
			}
			if file == "" {
				file = "terway-support-" + time.Now().UTC().Format("20060102-150405") + ".tar.gz"
			}
			cfg, err := kube.Config(cmd.Context())
			if err != nil {
				return err
			}
			cfg.QPS = -1 // one request at a time
			if c.reader, err = cluster.New(cfg, kube.Terway); err != nil {
				return err
			}
			if c.logs, err = kubernetes.NewForConfig(cfg); err != nil {
				return fmt.Errorf("make a client for the cluster at %s: %w", cfg.Host, err)
			}
			var content bytes.Buffer
			a := newArchive(&content, time.Now())
			c.add = a.add
			if err := errors.Join(c.collect(cmd.Context()), a.close()); err != nil {
				return err
			}
			if err := atomicfile.Create(file, content.Bytes(), 0o600); errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s exists: want another --file", file)
			} else if err != nil {
				return fmt.Errorf("write the bundle: %w", err)
			}
			w := written{File: file, Parts: c.parts, Lacks: c.lacks}
			return errors.Join(output.Write(cmd.OutOrStdout(), w, w.write), w.verdict())
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "file", "", "the `FILE` to write; it must not exist (default: terway-support-TIME.tar.gz)")
	f.DurationVar(&c.since, "since", 24*time.Hour, "how far back logs go")
	f.IntVar(&c.agents, "agents", 20, "of how many agents logs are taken")
	f.StringSliceVar(&c.nodes, "node", nil, "take the logs of the agent of this `NODE`, and of no others; may be repeated")
	kube.Add(f)
	kube.AddTerway(f)
	output.Add(f)
	return cmd
}

// written is the result.
type written struct {
	File  string   `json:"file"`
	Parts []string `json:"parts"`
	// Lacks are sentences for people: what could not be read.
	Lacks []string `json:"lacks,omitempty"`
}

func (w written) write(out io.Writer) error {
	for _, p := range w.Parts {
		fmt.Fprintln(out, " ", p)
	}
	for _, l := range w.Lacks {
		fmt.Fprintln(out, "problem:", l)
	}
	_, err := fmt.Fprintf(out, "%s has these; look through it before you give it away\n", w.File)
	return err
}

func (w written) verdict() error {
	if len(w.Lacks) == 0 {
		return nil
	}
	return fmt.Errorf("%s is written, and lacks %d things that could not be read", w.File, len(w.Lacks))
}

// archive is a tar with gzip, all in one folder.
type archive struct {
	gzip *gzip.Writer
	tar  *tar.Writer
	at   time.Time
}

func newArchive(w io.Writer, at time.Time) *archive {
	z := gzip.NewWriter(w)
	return &archive{z, tar.NewWriter(z), at}
}

func (a *archive) add(name string, content []byte) error {
	err := a.tar.WriteHeader(&tar.Header{Name: "terway-support/" + name, Mode: 0o600, Size: int64(len(content)), ModTime: a.at})
	if err == nil {
		_, err = a.tar.Write(content)
	}
	if err != nil {
		return fmt.Errorf("add %s to the bundle: %w", name, err)
	}
	return nil
}

func (a *archive) close() error { return errors.Join(a.tar.Close(), a.gzip.Close()) }
