package cli

import (
	"encoding/base64"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/rats"
)

// maxHookSecret is more than the server accepts, so that it is the server who refuses.
const maxHookSecret = 4 << 10

func (a *app) webhookCmd() *cobra.Command {
	return group("webhook", "webhooks: events sent to other systems, signed",
		"An event is delivered at least once and in order, or becomes a dead letter, which is kept until it is sent again. See docs/events.md.",
		a.webhookAddCmd(), a.webhookListCmd(), a.webhookTestCmd(), a.webhookDeadCmd(), a.webhookRedeliverCmd(),
		a.deleteCmd("webhook", "delete a webhook and its dead letters", (*client.Client).DeleteWebhook))
}

func (a *app) webhookAddCmd() *cobra.Command {
	var r api.WebhookRequest
	var f client.EventFilter
	var file string
	cmd := &cobra.Command{
		Use:   "add URL",
		Short: "register a webhook, from the next event on",
		Long: `Registers an address that gets every wanted event as a signed POST. Without --secret-file the server makes a secret and
tells it once; with --jws it signs with the key of its results (/.well-known/jwks.json) instead.`,
		Example: "  assay webhook add https://alerts.example.org/assay --severity warning\n" +
			"  assay webhook add https://siem.example.org/in --kind 'node.*' --kind action.fired --jws",
		Args: exactly("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.URL, r.Kinds, r.Nodes, r.Severity = args[0], f.Kinds, f.Nodes, f.Severity
			if file != "" {
				secret, err := a.readSecret(file, maxHookSecret)
				if err != nil {
					return err
				}
				defer clear(secret)
				r.Secret = secret
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			h, err := c.AddWebhook(cmd.Context(), r)
			if err != nil {
				return err
			}
			defer clear(h.Secret)
			return a.show(h, func(w io.Writer) {
				row(w, "id", h.ID)
				row(w, "signs", h.Signs)
				if len(h.Secret) > 0 {
					row(w, "secret (base64, told once)", base64.StdEncoding.EncodeToString(h.Secret))
				}
			})
		},
	}
	filterFlags(cmd.Flags(), &f)
	cmd.Flags().StringVar(&file, "secret-file", "", "file with the secret that authenticates deliveries, mode 0600; - is standard input")
	cmd.Flags().BoolVar(&r.SignJWS, "jws", false, "sign with the server's key instead of a secret")
	return cmd
}

func (a *app) webhookListCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "list webhooks and how they fare",
		Example: "  assay webhook list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			list, err := c.ListWebhooks(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) {
				row(w, "ID", "URL", "KINDS", "SEVERITY", "SIGNS", "BEHIND", "DEAD", "FAILING SINCE", "PROBLEM")
				for _, h := range list {
					row(w, h.ID, h.URL, strings.Join(h.Kinds, ","), h.Severity, h.Signs, fmt.Sprint(h.Behind), fmt.Sprint(h.Dead),
						a.ago(h.Failing), strings.TrimSpace(string(h.Problem)+" "+h.Seen))
				}
			})
		},
	}
}

func (a *app) webhookTestCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "test ID",
		Short:   "make a delivery now and say what came of it",
		Example: "  assay webhook test wh_…",
		Args:    exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			t, err := c.TestWebhook(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := a.show(t, func(w io.Writer) {
				row(w, "delivered", yes(t.OK))
				row(w, "took", t.Took)
				if t.Status != 0 {
					row(w, "status", fmt.Sprint(t.Status))
				}
			}); err != nil || t.Reason == nil {
				return err
			}
			return &rats.BadEvidence{Reason: *t.Reason}
		},
	}
}

func (a *app) webhookDeadCmd() *cobra.Command {
	var after int64
	cmd := &cobra.Command{
		Use:     "dead ID",
		Short:   "list events that could not be delivered",
		Example: "  assay webhook dead wh_…",
		Args:    exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			letters := []api.DeadLetter{}
			for at := after; ; {
				page, err := c.DeadLetters(cmd.Context(), args[0], at)
				if err != nil {
					return err
				}
				letters = append(letters, page.Letters...)
				if at = page.Next; at == 0 {
					break
				}
			}
			return a.show(letters, func(w io.Writer) {
				row(w, "SEQ", "KIND", "SUBJECT", "AT", "GIVEN UP", "ATTEMPTS", "PROBLEM", "DUE")
				for _, l := range letters {
					row(w, fmt.Sprint(l.Seq), l.Kind, l.Subject, at(l.At), a.ago(l.Given), fmt.Sprint(l.Attempts), string(l.Problem)+" "+l.Seen, yes(l.Due))
				}
			})
		},
	}
	cmd.Flags().Int64Var(&after, "after", 0, "start after this sequence number")
	return cmd
}

func (a *app) webhookRedeliverCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "redeliver ID [SEQ...]",
		Short:   "send dead letters again, all of them if none is named",
		Example: "  assay webhook redeliver wh_…\n  assay webhook redeliver wh_… 1207 1209",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var seqs []int64
			for _, s := range args[1:] {
				n, err := strconv.ParseInt(s, 10, 64)
				if err != nil || n < 1 {
					return usage(cmd, clean(s)+" is not a sequence number")
				}
				seqs = append(seqs, n)
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			due, err := c.Redeliver(cmd.Context(), args[0], seqs...)
			if err != nil {
				return err
			}
			return a.show(api.Redelivered{Due: due}, func(w io.Writer) { row(w, "to be sent again", fmt.Sprint(due)) })
		},
	}
}

func (a *app) nodeQuarantineCmd() *cobra.Command {
	var why string
	var lift bool
	cmd := &cobra.Command{
		Use:   "quarantine NODE",
		Short: "set a node apart: not trusted, no secrets, until it is lifted",
		Long: `A node in quarantine is not trusted whatever its results say, and gets no secrets. A policy's action can put it there;
only an administrator lifts it. Both are written to the audit log.`,
		Example: "  assay node quarantine web-1 --why 'unknown kernel module, being looked at'\n" +
			"  assay node quarantine web-1 --lift --why 'it was the new network driver'",
		Args: exactly("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if why == "" {
				return usage(cmd, "--why is missing")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			if lift {
				if err := c.LiftQuarantine(cmd.Context(), args[0], why); err != nil {
					return err
				}
				a.done("the quarantine of %s is lifted; it is challenged anew", clean(args[0]))
				return nil
			}
			n, err := c.QuarantineNode(cmd.Context(), args[0], why)
			if err != nil {
				return err
			}
			return a.show(n, func(w io.Writer) { a.nodeTable(w, n) })
		},
	}
	cmd.Flags().StringVar(&why, "why", "", "the reason, for the audit log")
	cmd.Flags().BoolVar(&lift, "lift", false, "end the quarantine")
	return cmd
}
