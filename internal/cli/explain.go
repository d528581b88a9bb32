package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/rats"
)

// explanation is what `node explain` prints as JSON.
type explanation struct {
	Node   api.Node        `json:"node"`
	Result *api.ResultView `json:"result,omitempty"`
	Next   []string        `json:"next"`     // what happens now, in sentences
	Try    []string        `json:"commands"` // to run next
}

func (a *app) nodeExplainCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "explain NODE",
		Short: "say why a node has its verdict, and what to do; the exit code is the verdict",
		Long: `Says what was checked, by which policy, every reason with what was expected and seen, what the marks mean, what happens
next and which commands help.`,
		Example: "  assay node explain web-1\n  assay node explain web-1 -o json",
		Args:    exactly("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			e, err := a.explain(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if err := a.show(e, func(w io.Writer) { a.explainText(w, e) }); err != nil {
				return err
			}
			return verdictExit(rats.VerdictOfState(e.Node.State))
		},
	}
}

func (a *app) explain(ctx context.Context, c *client.Client, node string) (explanation, error) {
	n, err := c.GetNode(ctx, node)
	if err != nil {
		return explanation{}, err
	}
	e := explanation{Node: n}
	if n.LastResult != "" {
		r, err := c.Result(ctx, n.LastResult)
		if err != nil {
			return e, err
		}
		e.Result = &r
	}
	e.Next, e.Try = nextSteps(e)
	return e, nil
}

// headlines say a state in one sentence.
var headlines = map[rats.State]string{
	rats.StateTrusted:         "Its evidence was verified and everything policy demands was found as it should be.",
	rats.StateWarning:         "Its evidence was verified; something policy only warns about was found.",
	rats.StateContraindicated: "Its evidence speaks against it.",
	rats.StateUnknown:         "Nobody can say: there is no result that counts.",
	rats.StateStale:           "It was judged once, but that result has expired and no newer one came.",
}

func (a *app) explainText(w io.Writer, e explanation) {
	n := e.Node
	fmt.Fprintf(w, "%s is %s", clean(n.Name), strings.ToUpper(clean(n.Verdict)))
	if !n.Since.IsZero() {
		fmt.Fprintf(w, ", %s since %s (%s)", n.State, at(n.Since), a.ago(n.Since))
	} else {
		fmt.Fprintf(w, " (%s)", n.State)
	}
	fmt.Fprintf(w, "\n%s\n", headlines[n.State])
	if !n.ValidUntil.IsZero() {
		fmt.Fprintf(w, "The verdict holds until %s (%s).\n", at(n.ValidUntil), a.ago(n.ValidUntil))
	}

	fmt.Fprintf(w, "\nWhy\n")
	reasons := n.Reasons
	if len(reasons) == 0 && e.Result != nil {
		reasons = e.Result.Reasons
	}
	if len(reasons) == 0 {
		fmt.Fprintf(w, "  %s\n", noReason(n))
	}
	for i, r := range reasons {
		printReason(w, fmt.Sprintf("  %d. ", i+1), r)
	}

	if e.Result != nil {
		a.explainChecked(w, *e.Result)
	}
	if marks := n.Marks; len(marks) > 0 {
		fmt.Fprintf(w, "\nMarks (policy allows them by name; they say what the verdict does not prove)\n")
		for _, m := range marks {
			fmt.Fprintf(w, "  %s: %s\n", clean(m), markText(m))
		}
	}
	fmt.Fprintf(w, "\nWhat happens next\n")
	for _, s := range e.Next {
		fmt.Fprintf(w, "  - %s\n", clean(s))
	}
	fmt.Fprintf(w, "\nCommands to try\n")
	for _, s := range e.Try {
		fmt.Fprintf(w, "  %s\n", clean(s))
	}
}

func noReason(n api.Node) string {
	switch {
	case n.Enrolment == "pending":
		return "The node joined, but nobody vouched for its hardware yet: it waits for approval."
	case n.Enrolment == "revoked":
		return "The node's identity was revoked."
	case n.LastResult == "" && n.Policy == nil:
		return "No policy selects this node, so nothing is asked of it."
	case n.LastResult == "" && !n.Connected:
		return "The node was never attested, and its agent is not connected."
	case n.LastResult == "":
		return "The node was never attested."
	case n.State == rats.StateStale && !n.Connected:
		return "The agent is not connected, so no newer evidence came."
	default:
		return "Nothing speaks against it."
	}
}

func (a *app) explainChecked(w io.Writer, r api.ResultView) {
	fmt.Fprintf(w, "\nWhat was checked (result %s of %s, %s)\n", clean(r.ID), at(r.At), a.ago(r.At))
	fmt.Fprintf(w, "  evidence  %s\n", clean(formatList(r.Formats)))
	for _, f := range slices.Sorted(maps.Keys(r.Parts)) {
		printField(w, "  ", string(f), highlightText(r.Parts[f].Highlights))
	}
	fmt.Fprintf(w, "  policy    %s\n", clean(refText(r.Policy)))
	for _, s := range r.Sets {
		fmt.Fprintf(w, "  reference %s\n", clean(refText(s)))
	}
	for _, l := range r.Links {
		fmt.Fprintf(w, "  link      %s\n", clean(fmt.Sprintf("%s - %s: %s", l.From, l.To, l.Kind)))
	}
	for _, s := range r.Demanded {
		if int(s) < len(r.Vector) {
			fmt.Fprintf(w, "  %-18s %s\n", s, slotText(r.Vector[s]))
		}
	}
}

func slotText(t rats.Tier) string {
	if t == rats.None {
		return "none: demanded, but nothing judged it"
	}
	return t.String()
}

// marksInWords says what the known marks mean.
var marksInWords = map[string]string{
	rats.MarkSimulated:   "the enclave that measured is an ordinary process, or its root key a file: whoever is root on the node can make it say anything",
	rats.MarkTestKey:     "the enclave was signed with a published key: anybody can sign another one like it",
	rats.MarkSoftwareTPM: "the TPM is a program: whoever runs it can copy its keys, replay its state and make its registers say anything",
	rats.MarkDebug:       "the enclave or guest is open to a debugger: its memory can be read and changed",
}

func markText(m string) string {
	if s, ok := marksInWords[m]; ok {
		return s
	}
	return "a weakness the policy accepts by this name"
}

// nextSteps says what happens now and which commands help.
func nextSteps(e explanation) (next, try []string) {
	n, v := e.Node, rats.VerdictOfState(e.Node.State)
	switch {
	case v.Secrets && v.OnlyIf:
		next = append(next, "Secrets are released only where the release rule accepts a warning.")
	case v.Secrets:
		next = append(next, "Secrets whose release rule holds are released to it.")
	default:
		next = append(next, "Every secret is refused to it until it is trusted. What it received before stays known to it: rotate that if it may be lost.")
	}
	switch {
	case n.Enrolment == "pending":
		next = append(next, "Nothing is asked of it before it is approved.")
		try = append(try, "assay node approve "+n.Name)
	case n.Enrolment == "revoked":
		next = append(next, "It has to join again with a new token.")
		try = append(try, "assay node token create --name "+n.Name)
	case !n.Connected:
		next = append(next, "Its agent is not connected: it is asked as soon as it is.")
		try = append(try, "assay doctor   # on the node: what it can attest with, and whether it reaches the server")
	case n.Policy == nil:
		try = append(try, "assay policy list   # whose selector should match its labels?")
	default:
		next = append(next, "It is asked again when its policy says, or now by the first command below.")
		try = append(try, "assay node attest "+n.Name)
	}
	try = append(try, "assay node history "+n.Name)
	if n.Policy != nil {
		try = append(try, "assay policy show "+n.Policy.Name)
	}
	return next, try
}
