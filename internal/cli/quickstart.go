package cli

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/internal/quickstart"
)

func (a *app) quickstartCmd() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "quickstart",
		Short: "see the whole idea on this machine, in a temporary directory, in a minute",
		Long: `Starts a software TPM, a server, a monitor with the measuring enclave, and an agent on this machine, captures reference values from its files, attests it, releases a
secret to it, changes one file of a scratch copy, shows that the machine is then refused, and restores the file. Everything lies in a
temporary directory and is gone afterwards; with --keep it runs on until Ctrl-C. Needs swtpm and swtpm-tools, not root.`,
		Example: "  assay quickstart\n  assay quickstart --keep\n  assay quickstart -o json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := quickstart.Options{Binary: a.env.Executable, Rand: a.env.Rand, Now: a.env.Now}
			people := a.flags.output == outputTable
			if people {
				fmt.Fprintf(a.env.Out, "Assay on this machine and its own files.\n\n")
				o.Report = a.reportStep
			}
			if keep {
				o.Wait = func(ctx context.Context, out quickstart.Outcome) {
					a.quickstartDone(out, people)
					a.done("running until Ctrl-C")
					<-ctx.Done()
				}
			}
			out, err := quickstart.Run(cmd.Context(), o)
			if err != nil || keep {
				return err
			}
			a.quickstartDone(out, people)
			return nil
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave everything running until Ctrl-C")
	return cmd
}

func (a *app) reportStep(s quickstart.Step) {
	w := a.env.Out
	fmt.Fprintf(w, "%6.2fs  %-17s ", s.Seconds, s.Name)
	if s.Verdict == "" {
		fmt.Fprintf(w, "%s\n", clean(s.Detail))
		return
	}
	fmt.Fprintf(w, "%s   evidence: %s", strings.ToUpper(clean(s.Verdict)), clean(formatList(s.Formats)))
	if len(s.Marks) > 0 {
		fmt.Fprintf(w, "   marks: %s", clean(strings.Join(s.Marks, ", ")))
	}
	fmt.Fprintln(w)
	for _, f := range slices.Sorted(maps.Keys(s.Highlights)) {
		fmt.Fprintf(w, "%25s   %s: %s\n", "", clean(string(f)), clean(highlightText(s.Highlights[f])))
	}
	for _, r := range s.Reasons {
		printReason(w, fmt.Sprintf("%25s - ", ""), r)
	}
}

func (a *app) quickstartDone(out quickstart.Outcome, people bool) {
	if !people {
		if err := a.show(out, nil); err != nil {
			a.done("error: %s", clean(err.Error()))
		}
		return
	}
	w := a.env.Out
	fmt.Fprintf(w, "\n%d files measured, %.1f s in all. API: %s\n\n", out.Files, out.Seconds, out.API)
	fmt.Fprintf(w, "The marks say what this did not prove; `node explain` says what each means, LIMITATIONS.md has the rest.\n")
	fmt.Fprintf(w, "To try next (with `%s quickstart --keep`, which leaves everything running):\n", os.Args[0])
	for _, c := range out.Commands {
		fmt.Fprintf(w, "  %s\n", clean(c))
	}
}
