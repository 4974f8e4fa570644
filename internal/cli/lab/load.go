package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/load"
)

func loadCommand(dir *string) *cobra.Command {
	var from, path string
	var output program.Output
	var length time.Duration
	o := load.Options{}
	cmd := &cobra.Command{
		Use:   "load ADDRESS:PORT",
		Short: "Send HTTP requests at a constant rate and print each that fails; exit status 1 if one does",
		Long: `Send HTTP requests at a constant rate, and print each that fails with its time, its cause,
and the pod that had answered on its connection before: the first line of an answer. Each
request is sent once, over a connection of its own, or with --connections over so many that
are kept open. Ends after --for, or when interrupted.`,
		Example: `  terway-lab load 198.51.100.10:80 --from internet --rate 200 --for 1m
  terway-lab load 192.168.0.20:80 --from node1 --connections 20 -o json`,
		Args: program.Args("ADDRESS:PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := netip.ParseAddrPort(args[0])
			if err != nil {
				return program.Usagef("%q: want an address and a port, such as 198.51.100.10:80", args[0])
			}
			s, err := lab.LoadState(*dir)
			if err != nil {
				return err
			}
			ns, err := s.NetNS(from)
			if err != nil {
				return fmt.Errorf("--from: %w", err)
			}
			o.URL = "http://" + to.String() + "/" + path
			o.Dial = func(ctx context.Context) (net.Conn, error) { return lab.DialIn(ctx, ns, "tcp", to.String()) }
			l, err := load.Start(o)
			if err != nil {
				return err
			}
			select {
			case <-cmd.Context().Done():
			case <-time.After(length):
			}
			r := l.Stop()
			err = output.Write(cmd.OutOrStdout(), r, r.WriteText)
			if err == nil && len(r.Failures) > 0 {
				err = fmt.Errorf("%d of %d requests failed", len(r.Failures), r.Sent)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&from, "from", lab.Internet, "where requests come from: a node, \"master\", or "+lab.Internet+", which is outside the VPC and reaches public addresses of load balancers")
	f.IntVar(&o.Rate, "rate", 200, "requests in a second")
	f.IntVar(&o.Connections, "connections", 0, "over how many connections, which are kept open; 0: each request over a new one")
	f.DurationVar(&o.Timeout, "timeout", 5*time.Second, "how long a request may take, with the connection that it opens")
	f.DurationVar(&length, "for", 30*time.Second, "how long to send")
	f.StringVar(&path, "path", "", "the path to ask for, without its first /")
	output.Add(f)
	return cmd
}
