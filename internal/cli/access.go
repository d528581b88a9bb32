package cli

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/internal/server"
)

// accessMade is what `server access add` prints.
type accessMade struct {
	Name       string   `json:"name"`
	Role       string   `json:"role"`
	Namespaces []string `json:"namespaces"`
	Token      string   `json:"token"`
}

// accessListed is one row of `server access list`.
type accessListed struct {
	Name       string   `json:"name"`
	Role       string   `json:"role"`
	Namespaces []string `json:"namespaces"`
}

func (a *app) serverAccessCmd() *cobra.Command {
	return group("access", "access tokens: who may read verdicts, who may administrate", "",
		a.accessAddCmd(), a.accessListCmd(), a.accessRemoveCmd())
}

func (a *app) accessAddCmd() *cobra.Command {
	var dir, role string
	var namespaces []string
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "make an access token and print it, once",
		Long: `Makes a token for a person or a system, on the server's machine and in its data directory; a running server takes notice by
itself. A reader sees verdicts, policies, events and metrics; an admin may do everything. Only the token's hash is kept.`,
		Example: "  assay server access add grafana --role reader --in default > grafana-token\n  assay server access add alice --role admin --in '*'",
		Args:    exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			token, err := server.Access(dir).Add(args[0], server.Role(role), namespaces, a.env.Rand)
			if err != nil {
				return usage(cmd, err.Error())
			}
			return a.show(accessMade{Name: args[0], Role: role, Namespaces: namespaces, Token: token}, func(w io.Writer) { row(w, token) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "data", serverDir, "directory that `assay server init` made")
	f.StringVar(&role, "role", string(server.Reader), "reader or admin")
	f.StringArrayVar(&namespaces, "in", []string{server.DefaultNamespace}, "namespace it is good in, or '*' for all; repeatable")
	return cmd
}

func (a *app) accessListCmd() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "list access tokens, without their secrets",
		Example: "  assay server access list",
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			entries, err := server.Access(dir).List()
			if err != nil {
				return err
			}
			list := make([]accessListed, 0, len(entries))
			for _, e := range entries {
				list = append(list, accessListed{Name: e.Name, Role: string(e.Role), Namespaces: e.Namespaces})
			}
			return a.show(list, func(w io.Writer) {
				row(w, "NAME", "ROLE", "NAMESPACES")
				for _, e := range list {
					row(w, e.Name, e.Role, strings.Join(e.Namespaces, ","))
				}
			})
		},
	}
	cmd.Flags().StringVar(&dir, "data", serverDir, "directory that `assay server init` made")
	return cmd
}

func (a *app) accessRemoveCmd() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:     "remove NAME",
		Short:   "void an access token",
		Example: "  assay server access remove grafana",
		Args:    exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := server.Access(dir).Remove(args[0]); err != nil {
				return usage(cmd, err.Error())
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "data", serverDir, "directory that `assay server init` made")
	return cmd
}
