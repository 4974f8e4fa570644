package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// moved is a hidden command that names the command of terway-lab that replaces it.
func moved(name string, now ...string) *cobra.Command {
	to := strings.Join(append([]string{"terway-lab"}, now...), " ")
	return &cobra.Command{
		Use:    name,
		Short:  fmt.Sprintf("Moved to %q", to),
		Hidden: true,
		// All arguments, also --help, are for the other program.
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			return fmt.Errorf("the lab and the simulated VPC are in another program, beside this one: instead of \"terwayctl %s\" run %q",
				strings.Join(append([]string{name}, args...), " "), strings.Join(append([]string{to}, args...), " "))
		},
	}
}
