package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// moved is a hidden command that says which command of terway-lab does its work now.
func moved(name string, now ...string) *cobra.Command {
	to := strings.Join(append([]string{"terway-lab"}, now...), " ")
	return &cobra.Command{
		Use:    name,
		Short:  fmt.Sprintf("Moved to %q", to),
		Hidden: true,
		// Whatever comes after it, --help too, is for the other program.
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			return fmt.Errorf("the lab and the simulated VPC have a program of their own, which stands beside this one: instead of \"terwayctl %s\" run %q",
				strings.Join(append([]string{name}, args...), " "), strings.Join(append([]string{to}, args...), " "))
		},
	}
}
