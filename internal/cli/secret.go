package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
)

// maxSecret is the largest value of a secret.
const maxSecret = 64 << 10

func (a *app) secretCmd() *cobra.Command {
	return group("secret", "secrets: handed to nodes only while they are trusted", "",
		a.secretPutCmd(), a.secretListCmd(),
		a.deleteCmd("secret", "remove a secret: it is never released again", (*client.Client).DeleteSecret))
}

func (a *app) secretPutCmd() *cobra.Command {
	var file string
	var s api.SecretPut
	var age time.Duration
	cmd := &cobra.Command{
		Use:   "put NAME",
		Short: "store a secret; its value comes from standard input or a file, never from the arguments",
		Long: `Stores the value as the newest version. The rule is a condition as in policies, over the node and its verified claims; a
secret is released to a trusted node for which the rule holds. Without a rule it is released to nobody.`,
		Example: "  assay secret put db-password --rule 'node.labels[\"role\"] == \"web\"' < password\n" +
			"  assay secret put tls-key --file key.pem --rule 'node.name == \"web-1\"' --max-result-age 30s",
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := a.readSecret(file, maxSecret)
			if err != nil {
				return err
			}
			defer clear(value)
			s.Value = value
			if age > 0 {
				s.MaxResultAge = age.String()
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			stored, err := c.PutSecret(cmd.Context(), args[0], s)
			if err != nil {
				return err
			}
			if s.Rule == "" {
				a.done("warning: without --rule the secret is released to nobody")
			}
			return a.show(stored, func(w io.Writer) { secretRows(w, []api.Secret{stored}) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "file", "-", "file with the value, mode 0600; - is standard input")
	f.StringVar(&s.Rule, "rule", "", "the condition of its release")
	f.BoolVar(&s.AcceptWarning, "accept-warning", false, "release to nodes whose verdict is trusted (warning), too")
	f.DurationVar(&age, "max-result-age", 0, "attest again before a release if the result is older; default 60s")
	return cmd
}

func secretRows(w io.Writer, list []api.Secret) {
	row(w, "NAME", "VERSION", "RULE", "WARNING OK", "RESULT AGE", "CREATED")
	for _, s := range list {
		rule := s.Rule
		if rule == "" {
			rule = "(none: released to nobody)"
		}
		row(w, s.Name, fmt.Sprint(s.Version), rule, yes(s.AcceptWarning), s.MaxResultAge, at(s.CreatedAt))
	}
}

func (a *app) secretListCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "list secrets with their rules; values are never shown",
		Example: "  assay secret list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			list, err := c.ListSecrets(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) { secretRows(w, list) })
		},
	}
}
