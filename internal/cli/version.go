package cli

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/api"
)

// versions is what `assay version` prints.
type versions struct {
	Version  string       `json:"version"`
	Protocol string       `json:"protocol"`
	Go       string       `json:"go"`
	Server   *api.Version `json:"server,omitempty"`
}

func (a *app) versionCmd() *cobra.Command {
	var remote bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "print this binary's version, and the server's with --remote",
		Example: "  assay version\n  assay version --remote -o json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{Version: Version, Protocol: api.Protocol, Go: runtime.Version()}
			if remote {
				c, err := a.connect()
				if err != nil {
					return err
				}
				sv, err := c.Version(cmd.Context())
				if err != nil {
					return err
				}
				v.Server = &sv
			}
			return a.show(v, func(w io.Writer) {
				fmt.Fprintf(w, "assay %s, protocol %s, %s\n", v.Version, v.Protocol, v.Go)
				if v.Server != nil {
					fmt.Fprintf(w, "server %s, protocol %s, verifier %s\n", clean(v.Server.Version), clean(v.Server.Protocol), v.Server.Verifier)
				}
			})
		},
	}
	cmd.Flags().BoolVar(&remote, "remote", false, "ask the server, too")
	return cmd
}
