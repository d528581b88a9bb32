package cli

import (
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/rats"
)

func (a *app) tokenCmd() *cobra.Command {
	return group("token", "join tokens: each lets one agent join once, within the hour", "",
		a.tokenCreateCmd(), a.tokenListCmd(), a.deleteCmd("node token", "void a join token", (*client.Client).DeleteToken))
}

func (a *app) tokenCreateCmd() *cobra.Command {
	var r api.TokenRequest
	var ttl time.Duration
	var label []string
	var ek string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "make a join token and print it, once",
		Long: `Makes a token that lets one agent join as one node. It is printed once and stored nowhere; hand it to the node in a
file, not in an argument list.`,
		Example: "  assay node token create --name web-1 --label role=web > join-token\n  assay node token create --ttl 10m --ek sha256:…",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if r.Labels, err = parseLabels(cmd, label); err != nil {
				return err
			}
			if ek != "" {
				if r.EK, err = rats.ParseDigest(ek); err != nil {
					return usage(cmd, "--ek: "+err.Error())
				}
			}
			r.TTL = ttl.String()
			c, err := a.connect()
			if err != nil {
				return err
			}
			t, err := c.CreateToken(cmd.Context(), r)
			if err != nil {
				return err
			}
			return a.show(t, func(w io.Writer) { row(w, t.Token) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.Name, "name", "", "name of the node; default: what the agent proposes")
	f.StringVar(&r.Kind, "kind", "host", "host, vm, sandbox or enclave")
	f.StringVar(&r.Parent, "parent", "", "name of the node this one runs on")
	f.StringArrayVar(&label, "label", nil, "label key=value, by which policies select nodes; repeatable")
	f.StringVar(&ek, "ek", "", "digest of the one endorsement key that may use it, as `assay doctor` prints it")
	f.BoolVar(&r.Replace, "replace", false, "if the machine is a node already, delete that node")
	f.DurationVar(&ttl, "ttl", time.Hour, "how long it is good for, at most 1h")
	return cmd
}

func parseLabels(cmd *cobra.Command, list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(list))
	for _, l := range list {
		k, v, ok := strings.Cut(l, "=")
		if _, twice := m[k]; !ok || k == "" || twice {
			return nil, usage(cmd, "--label "+clean(l)+" is not key=value, or stands twice")
		}
		m[k] = v
	}
	return m, nil
}

func (a *app) tokenListCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "list join tokens, without their secrets",
		Example: "  assay node token list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			ts, err := c.ListTokens(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(ts, func(w io.Writer) {
				row(w, "ID", "NAME", "KIND", "LABELS", "EXPIRES", "USED", "BY")
				for _, t := range ts {
					row(w, t.ID, t.Name, t.Kind, labels(t.Labels), a.ago(t.Expires), a.ago(t.UsedAt), t.UsedBy)
				}
			})
		},
	}
}
