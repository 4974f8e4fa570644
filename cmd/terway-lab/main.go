// Command terway-lab is for developers and for trying Terway: it runs a cluster on a simulated VPC
// on this machine, checks and measurements on it, and the simulated VPC alone.
package main

import (
	"terway.dev/terway/internal/cli/lab"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/cli/version"
	"terway.dev/terway/internal/cli/vpcsim"
)

func main() {
	root := lab.NewCommand()
	root.AddCommand(vpcsim.NewCommand())
	version.Add(root)
	// What a command has begun it puts back after an interrupt, which may take long.
	program.Program{Root: root}.Main()
}
