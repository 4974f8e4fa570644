package vpcsim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/program"
	sim "terway.dev/terway/internal/vpcsim"
)

// newFaults returns `vpcsim faults`, a client of the admin endpoint.
func newFaults() *cobra.Command {
	var endpoint string
	var output program.Output
	c := &cobra.Command{
		Use:   "faults",
		Short: "List, add and remove the faults of a running simulator",
	}
	c.PersistentFlags().StringVar(&endpoint, "endpoint", "", "the simulator's endpoint, as serve printed it")
	// It fails only if the flag is not defined above.
	if err := c.MarkPersistentFlagRequired("endpoint"); err != nil {
		panic(err)
	}
	output.Add(c.PersistentFlags())
	at := func() string { return strings.TrimSuffix(endpoint, "/") + sim.AdminPrefix + "/faults" }
	c.AddCommand(
		&cobra.Command{
			Use: "list", Short: "Print the rules and their effects", Args: program.Args(),
			RunE: func(c *cobra.Command, _ []string) error {
				return call(c.Context(), c.OutOrStdout(), &output, http.MethodGet, at(), nil)
			},
		},
		&cobra.Command{
			Use: "add FILE", Short: "Add the rules of a JSON file; - is standard input", Args: program.Args("FILE"),
			Example: `  echo '{"name":"burst","action":"Assign*","probability":0.3,"error":{"code":"Throttling"}}' |
    terway-lab vpcsim faults add --endpoint http://127.0.0.1:7100 -`,
			RunE: func(c *cobra.Command, args []string) error {
				rules, err := readFaults(args[0], c.InOrStdin())
				if err != nil {
					return err
				}
				body, err := json.Marshal(rules)
				if err != nil {
					return fmt.Errorf("encode fault rules: %w", err)
				}
				return call(c.Context(), c.OutOrStdout(), &output, http.MethodPost, at(), body)
			},
		},
		&cobra.Command{
			Use: "remove [NAME]", Short: "Remove one rule, or all", Args: program.Args("[NAME]"),
			RunE: func(c *cobra.Command, args []string) error {
				query := ""
				if len(args) == 1 {
					query = "?name=" + url.QueryEscape(args[0])
				}
				return call(c.Context(), c.OutOrStdout(), &output, http.MethodDelete, at()+query, nil)
			},
		},
	)
	return c
}

func call(ctx context.Context, out io.Writer, output *program.Output, method, url string, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("--endpoint: %w", err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("ask the simulator: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("read the simulator's answer: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the simulator refused: %s", bytes.TrimSpace(text))
	}
	var said any
	if err := json.Unmarshal(text, &said); err != nil {
		return fmt.Errorf("the answer of %s is not a simulator's: %w", url, err)
	}
	if output.Is(program.Text) { // rules are easiest to read as they are written
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, text, "", "  "); err != nil {
			return err
		}
		_, err = pretty.WriteTo(out)
		return err
	}
	return output.Encode(out, said)
}
