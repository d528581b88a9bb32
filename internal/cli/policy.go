package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/evidence/all"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

func (a *app) policyCmd() *cobra.Command {
	return group("policy", "policies: what is demanded of which nodes", "",
		a.policyLintCmd(), a.policyApplyCmd(), a.policyListCmd(), a.policyShowCmd(),
		a.deleteCmd("policy", "remove a policy: its nodes are selected by the next one, or by none", (*client.Client).DeletePolicy))
}

func (a *app) policyLintCmd() *cobra.Command {
	var remote bool
	cmd := &cobra.Command{
		Use:   "lint FILE",
		Short: "say what is wrong with a policy document; nothing is stored",
		Long: `Reads the document as strictly as the server does: unknown fields, wrong types and conditions over unknown claims are
errors, with line and column. Works without a server; with --remote the server is asked, which knows its own version's formats.`,
		Example: "  assay policy lint web.yaml\n  cat web.yaml | assay policy lint - -o json",
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, err := a.readDocument(args[0])
			if err != nil {
				return err
			}
			var lint api.Lint
			if remote {
				c, err := a.connect()
				if err != nil {
					return err
				}
				if lint, err = c.LintPolicy(cmd.Context(), doc); err != nil {
					return err
				}
			} else {
				p, reasons := policy.Compile(doc, all.Descriptors())
				lint = api.Lint{OK: p != nil, Reasons: reasons}
				if p != nil {
					lint.Reasons = p.Warnings()
				}
			}
			if lint.Reasons == nil {
				lint.Reasons = []rats.Reason{}
			}
			if err := a.show(lint, func(w io.Writer) { lintText(w, args[0], lint) }); err != nil {
				return err
			}
			if !lint.OK {
				return &verdictError{exit: rats.ExitError}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&remote, "remote", false, "let the server judge")
	return cmd
}

// lintText prints each finding as file:line:column: so that editors can follow it.
func lintText(w io.Writer, file string, lint api.Lint) {
	for _, r := range lint.Reasons {
		word := "error"
		if r.Tier == rats.Warning {
			word = "warning"
		}
		printReason(w, fmt.Sprintf("%s: %s: ", clean(file), word), r)
	}
	if lint.OK {
		fmt.Fprintf(w, "%s: ok\n", clean(file))
	}
}

func (a *app) policyApplyCmd() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "store a policy document as the newest version; results under older versions stop counting at once",
		Long: `Stores the document exactly as it is. When the command returns, nothing that was judged under the older version is
accepted any more; nodes it selects are asked again.`,
		Example: "  assay policy apply web.yaml\n  assay policy apply --name web - < web.yaml",
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, err := a.readDocument(args[0])
			if err != nil {
				return err
			}
			if name == "" {
				p, reasons := policy.Compile(doc, all.Descriptors())
				if p == nil {
					lintText(a.env.Err, args[0], api.Lint{Reasons: reasons})
					return &verdictError{exit: rats.ExitError}
				}
				name = p.Name()
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			p, err := c.PutPolicy(cmd.Context(), name, doc)
			if err != nil {
				return err
			}
			return a.show(p, func(w io.Writer) {
				row(w, "policy", refText(p.Ref))
				row(w, "selects", p.Selector)
				for _, r := range p.Warnings {
					row(w, "warning", r.String())
				}
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name to store it under; default: the name in the document")
	return cmd
}

func (a *app) policyListCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "list policies",
		Example: "  assay policy list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			ps, err := c.ListPolicies(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(ps, func(w io.Writer) {
				row(w, "NAME", "VERSION", "PRIORITY", "SELECTOR", "FORMATS", "EVERY", "ALLOWS", "AUTHOR", "AT")
				for _, p := range ps {
					row(w, p.Name, fmt.Sprint(p.Version), fmt.Sprint(p.Priority), p.Selector, formatList(p.Formats), p.Every,
						strings.Join(p.Allow, ","), p.Author, at(p.At))
				}
			})
		},
	}
}

func (a *app) policyShowCmd() *cobra.Command {
	var version int64
	cmd := &cobra.Command{
		Use:     "show NAME",
		Short:   "print a policy document as it was stored; with -o json its description",
		Example: "  assay policy show web > web.yaml\n  assay policy show web --version 2",
		Args:    exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			if a.flags.output != outputTable {
				p, err := c.GetPolicy(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.show(p, nil)
			}
			doc, err := c.PolicyDocument(cmd.Context(), args[0], version)
			if err != nil {
				return err
			}
			_, err = a.env.Out.Write(doc)
			return err
		},
	}
	cmd.Flags().Int64Var(&version, "version", 0, "version; default: the newest")
	return cmd
}
