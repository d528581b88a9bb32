package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/rats"
)

func (a *app) nodeCmd() *cobra.Command {
	return group("node", "nodes: what gets a verdict",
		"A node is a host, a VM, a sandbox or an enclave. A node is named by its name or its id (nd_…).",
		a.nodeListCmd(), a.nodeShowCmd(), a.nodeExplainCmd(), a.nodeAttestCmd(), a.nodeWaitCmd(), a.nodeEventsCmd(),
		a.nodeHistoryCmd(), a.nodeApproveCmd(), a.nodeRevokeCmd(), a.nodeQuarantineCmd(), a.nodeDeleteCmd(), a.tokenCmd(), a.akCmd(),
	)
}

func (a *app) nodeListCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "list nodes with their verdicts",
		Example: "  assay node list\n  assay node list -o json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			nodes := []api.Node{}
			for after := ""; ; {
				page, err := c.ListNodes(cmd.Context(), after, 500)
				if err != nil {
					return err
				}
				nodes = append(nodes, page.Nodes...)
				if after = page.Next; after == "" {
					break
				}
			}
			return a.show(nodes, func(w io.Writer) {
				row(w, "NAME", "VERDICT", "STATE", "SINCE", "VALID UNTIL", "KIND", "CONNECTED", "MARKS", "WHY")
				for _, n := range nodes {
					row(w, n.Name, n.Verdict, string(n.State), a.ago(n.Since), a.ago(n.ValidUntil), n.Kind,
						yes(n.Connected), strings.Join(n.Marks, ","), firstReason(n))
				}
			})
		},
	}
}

func firstReason(n api.Node) string {
	switch {
	case n.Enrolment != "approved":
		return n.Enrolment
	case n.Quarantine != nil:
		return "quarantine by " + n.Quarantine.By
	case len(n.Reasons) == 0:
		return ""
	case len(n.Reasons) == 1:
		return string(n.Reasons[0].Code)
	default:
		return fmt.Sprintf("%s and %d more", n.Reasons[0].Code, len(n.Reasons)-1)
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (a *app) nodeShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "show NODE",
		Short:   "show a node; the exit code is its verdict",
		Example: "  assay node show web-1\n  assay node show web-1 -o json && echo trusted",
		Args:    exactly("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			n, err := c.GetNode(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := a.show(n, func(w io.Writer) { a.nodeTable(w, n) }); err != nil {
				return err
			}
			return verdictExit(rats.VerdictOfState(n.State))
		},
	}
}

func (a *app) nodeTable(w io.Writer, n api.Node) {
	policy := ""
	if n.Policy != nil {
		policy = refText(*n.Policy)
	}
	for _, f := range [][2]string{
		{"name", n.Name}, {"id", n.ID}, {"kind", n.Kind}, {"parent", n.Parent}, {"labels", labels(n.Labels)},
		{"enrolment", n.Enrolment}, {"connected", yes(n.Connected)},
		{"verdict", n.Verdict}, {"state", string(n.State)}, {"since", at(n.Since)}, {"valid until", at(n.ValidUntil)},
		{"last result", n.LastResult}, {"last attested", at(n.LastAt)}, {"marks", strings.Join(n.Marks, ", ")},
		{"policy", policy}, {"endorsement key", n.EK.String()}, {"created", at(n.CreatedAt)},
	} {
		row(w, f[0], f[1])
	}
	for _, f := range slices.Sorted(maps.Keys(n.Highlights)) {
		row(w, string(f), highlightText(n.Highlights[f]))
	}
	if q := n.Quarantine; q != nil {
		row(w, "quarantine", "since "+at(q.At)+" by "+q.By+": "+q.Why)
	}
	if n.Withheld != "" {
		row(w, "secrets withheld", "by the policy's action "+n.Withheld)
	}
	for _, r := range n.Reasons {
		row(w, "reason", r.String())
	}
}

// highlightText is one line of what a format's evidence says that belongs to the verdict.
func highlightText(hs []rats.Highlight) string {
	parts := make([]string, len(hs))
	for i, h := range hs {
		parts[i] = h.Name + " " + h.Value
	}
	return strings.Join(parts, " · ")
}

func refText(r rats.Ref) string {
	return fmt.Sprintf("%s v%d (%s)", r.Name, r.Version, short(r.Digest))
}

func (a *app) nodeAttestCmd() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:     "attest NODE",
		Short:   "challenge a node now and wait for the result; the exit code is its verdict",
		Example: "  assay node attest web-1\n  assay node attest web-1 --timeout 60s -o json",
		Args:    exactly("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout+10*time.Second)
			defer cancel()
			r, err := c.Attest(ctx, args[0], timeout)
			if err != nil {
				return err
			}
			if err := a.show(r, func(w io.Writer) { a.resultText(w, r) }); err != nil {
				return err
			}
			return verdictExit(r.Result.Verdict(a.env.Now()))
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for the result, at most 2m")
	return cmd
}

// resultText says in a few lines what an attestation found.
func (a *app) resultText(w io.Writer, r api.ResultView) {
	fmt.Fprintf(w, "%s: %s (%s)\n", clean(r.Node), strings.ToUpper(clean(r.Verdict)), clean(r.ID))
	for _, reason := range r.Reasons {
		printReason(w, "  - ", reason)
	}
	fmt.Fprintf(w, "  %-9s %s\n", "checked", clean(formatList(r.Formats)))
	for _, f := range slices.Sorted(maps.Keys(r.Parts)) {
		printField(w, "  ", string(f), highlightText(r.Parts[f].Highlights))
	}
	printField(w, "  ", "marks", strings.Join(r.Marks, ", "))
	printField(w, "  ", "policy", refText(r.Policy))
	printField(w, "  ", "expires", at(r.Expires))
}

func formatList(fs []rats.Format) string {
	parts := make([]string, len(fs))
	for i, f := range fs {
		parts[i] = string(f)
	}
	return strings.Join(parts, ", ")
}

func (a *app) nodeWaitCmd() *cobra.Command {
	var timeout time.Duration
	var want string
	cmd := &cobra.Command{
		Use:     "wait NODE",
		Short:   "wait until a node reaches a state; the exit code is its verdict",
		Example: "  assay node wait web-1\n  assay node wait web-1 --state contraindicated --timeout 10m",
		Args:    exactly("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			s, err := await(ctx, c, args[0], rats.State(want))
			if s.Name == "" && err != nil {
				return err
			}
			if showErr := a.show(s, func(w io.Writer) {
				row(w, s.Name, s.Verdict, string(s.State), "since "+at(s.Since))
			}); showErr != nil {
				return showErr
			}
			if v := verdictExit(rats.VerdictOfState(s.State)); v != nil || err == nil {
				return v
			}
			return CodeTimeout.Bad(args[0], want, string(s.State))
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait")
	cmd.Flags().StringVar(&want, "state", string(rats.StateTrusted), "state to wait for: trusted, warning, contraindicated, unknown or stale")
	return cmd
}

// await asks for a node's status every half second until it has the state. A server that can't be reached meanwhile is
// asked again; the last status known is returned with the error.
func await(ctx context.Context, c *client.Client, node string, want rats.State) (api.Status, error) {
	var last api.Status
	for {
		s, err := c.Status(ctx, node)
		var unreachable *client.Unreachable
		switch {
		case err == nil && s.State == want:
			return s, nil
		case err == nil:
			last = s
		case ctx.Err() == nil && !errors.As(err, &unreachable):
			return last, err
		case ctx.Err() != nil:
			return last, err
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = ctx.Err()
			}
			return last, err
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (a *app) nodeHistoryCmd() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "history NODE",
		Short:   "list a node's results, newest first",
		Example: "  assay node history web-1\n  assay node history web-1 --limit 5 -o json",
		Args:    exactly("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			rs, err := c.Results(cmd.Context(), args[0], limit)
			if err != nil {
				return err
			}
			return a.show(rs, func(w io.Writer) {
				row(w, "RESULT", "AT", "VERDICT", "FORMATS", "POLICY", "MARKS", "REASONS")
				for _, r := range rs {
					codes := make([]string, 0, len(r.Reasons))
					for _, reason := range r.Reasons {
						codes = append(codes, string(reason.Code))
					}
					row(w, r.ID, at(r.At), r.Verdict, formatList(r.Formats), refText(r.Policy), strings.Join(r.Marks, ","), strings.Join(codes, ","))
				}
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "at most so many")
	return cmd
}

func (a *app) nodeApproveCmd() *cobra.Command {
	return a.nodeChange("approve", "let a pending node take part (nobody else vouched for its hardware)",
		func(ctx context.Context, c *client.Client, node string) (api.Node, error) {
			return c.ApproveNode(ctx, node)
		})
}

func (a *app) nodeRevokeCmd() *cobra.Command {
	return a.nodeChange("revoke", "withdraw a node's identity: it is not trusted any more and can't come back without joining again",
		func(ctx context.Context, c *client.Client, node string) (api.Node, error) {
			return c.RevokeNode(ctx, node)
		})
}

func (a *app) nodeChange(verb, what string, f func(context.Context, *client.Client, string) (api.Node, error)) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " NODE",
		Short:   what,
		Example: "  assay node " + verb + " web-1",
		Args:    exactly("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			n, err := f(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return a.show(n, func(w io.Writer) { row(w, n.Name, n.Enrolment, n.ID) })
		},
	}
}

func (a *app) nodeDeleteCmd() *cobra.Command {
	return a.deleteCmd("node", "forget a node and its results", (*client.Client).DeleteNode)
}

// deleteCmd is the verb delete of a noun.
func (a *app) deleteCmd(noun, what string, f func(*client.Client, context.Context, string) error) *cobra.Command {
	arg := strings.ToUpper(noun[strings.LastIndex(noun, " ")+1:])
	return &cobra.Command{
		Use:     "delete " + arg,
		Short:   what,
		Example: "  assay " + noun + " delete NAME",
		Args:    exactly(arg),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			if err := f(c, cmd.Context(), args[0]); err != nil {
				return err
			}
			a.done("%s %s deleted", noun, clean(args[0]))
			return nil
		},
	}
}
