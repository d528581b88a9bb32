package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/evidence/all"
	"github.com/assay-attest/assay/rats"
)

func (a *app) evidenceCmd() *cobra.Command {
	return group("evidence", "evidence in files: decode it, judge it, pack it for an auditor; no server is needed", `Files may be raw, hex, base64, PEM, or JSON with any of these inside; collateral is recognised by content, whatever the
files are called.`,
		a.evidenceInspectCmd(), a.evidenceVerifyCmd(), a.evidenceBundleCmd(), a.evidenceFormatsCmd())
}

// inspected is what `assay evidence inspect` prints.
type inspected struct {
	Format  rats.Format   `json:"format"`
	Title   string        `json:"title"`
	Size    int           `json:"size"` // of the evidence, without its wrapping
	Wrapped bool          `json:"wrapped"`
	Parsed  bool          `json:"parsed"`
	Decoded any           `json:"decoded,omitempty"`
	Problem *failure      `json:"problem,omitempty"`
	Inside  []rats.Format `json:"inside,omitempty"`
	Digest  rats.Digest   `json:"digest"`
}

func (a *app) evidenceInspectCmd() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "say what a file is and decode it, without believing any of it",
		Long: `Decodes quotes, reports, logs, certificates, enclave signatures, attestation results and collateral. Nothing is verified.
Exit codes: 0 decoded, 2 not decoded.`,
		Example: "  assay evidence inspect quote.bin\n  assay evidence inspect report.b64 -o json",
		Args:    exactly("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := a.readDocument(args[0])
			if err != nil {
				return err
			}
			out := inspect(b, format)
			if err := a.show(out, func(w io.Writer) { inspectText(w, out) }); err != nil {
				return err
			}
			if !out.Parsed {
				return &verdictError{exit: rats.ExitNotTrusted}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "format the file should be of; default: what recognises it")
	return cmd
}

func inspect(b []byte, format string) inspected {
	formats := all.Offline()
	out := inspected{Digest: rats.SHA256(b), Size: len(b)}
	if token, ok := decodeToken(b); ok && format == "" {
		out.Format, out.Title, out.Decoded, out.Parsed = "ear", "attestation result", token, true
		return out
	}
	o, body := appraise.Recognise(formats, format, b)
	if o == nil {
		f := failureOf(appraise.CodeFileUnrecognised.Bad("byte 0", "evidence", fmt.Sprintf("%d bytes beginning with %x", len(b), b[:min(len(b), 16)])))
		out.Problem = &f
		return out
	}
	out.Format, out.Title, out.Size, out.Wrapped = o.Descriptor().ID, o.Descriptor().Title, len(body), len(body) != len(b)
	if i, ok := o.(appraise.Inspector); ok {
		v, err := i.Inspect(body)
		out.Decoded, out.Parsed = v, err == nil
		if err != nil {
			f := failureOf(err)
			out.Problem, out.Decoded = &f, nil
		}
	}
	if c, ok := o.(appraise.Container); ok {
		for _, in := range c.Inside(body) {
			if o, _ := appraise.Recognise(formats, "", in); o != nil {
				out.Inside = append(out.Inside, o.Descriptor().ID)
			}
		}
	}
	return out
}

func inspectText(w io.Writer, out inspected) {
	row(w, "format", string(out.Format))
	row(w, "title", out.Title)
	row(w, "size", fmt.Sprint(out.Size))
	row(w, "digest", out.Digest.String())
	for _, f := range out.Inside {
		row(w, "holds", string(f))
	}
	if p := out.Problem; p != nil {
		row(w, "problem", p.Error)
		row(w, "code", string(p.Code))
		row(w, "at", p.Path)
		row(w, "expected", p.Expected)
		row(w, "seen", p.Seen)
	}
	if out.Decoded != nil {
		var b strings.Builder
		if err := writeYAML(&b, out.Decoded); err == nil {
			for line := range strings.SplitSeq(strings.TrimRight(b.String(), "\n"), "\n") {
				fmt.Fprintln(w, clean(line))
			}
		}
	}
}

// evidenceFlags are what verify and bundle are given besides the evidence.
type evidenceFlags struct {
	format, at, nonce, reportData string
	pcrs, signature, ak, log      string
	policy                        string
	collateral, ca                []string
}

func (e *evidenceFlags) register(f *pflag.FlagSet) {
	f.StringVar(&e.format, "format", "", "format the file should be of; default: what recognises it")
	f.StringVar(&e.at, "at", "", "moment to judge for (RFC 3339); default: now")
	f.StringArrayVar(&e.collateral, "collateral", nil, "file or folder with certificates, revocation lists, TCB information; may be repeated")
	f.StringVar(&e.nonce, "nonce", "", "hex that the evidence must be bound to")
	f.StringVar(&e.reportData, "report-data", "", "the same, for formats that call it report data")
	f.StringVar(&e.pcrs, "pcrs", "", "file with register values: text or values of tpm2-tools, or JSON")
	f.StringVar(&e.signature, "signature", "", "file with the evidence's signature, if it stands apart")
	f.StringVar(&e.ak, "ak", "", "file with the key that must have signed: PEM, DER, TPM2B_PUBLIC")
	f.StringVar(&e.log, "log", "", "file with the log that goes on where a boot log ends: /run/log/systemd/tpm2-measure.log")
	f.StringArrayVar(&e.ca, "ca", nil, "file or folder with trust anchors that replace the built-in ones; may be repeated")
	f.StringVar(&e.policy, "policy", "", "policy, or a document with the section of this format; default: the format's own rules")
}

func (a *app) evidenceVerifyCmd() *cobra.Command {
	var flags evidenceFlags
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "judge evidence: is it genuine, and is it acceptable",
		Long: `Genuine: signatures, chains and bindings hold at the given moment. Accepted: it is also good enough, by the policy that is
given, else by the format's own rules, which accept production, up-to-date evidence only. What is missing to know that
is said; without collateral a platform's status is unknown, and it is not accepted.

FILE may be a bundle of assay evidence bundle: it is judged for the moment and with the files inside it, which single
flags replace.

Exit codes: 0 accepted, 2 not accepted, 1 the command can't be run as written.`,
		Example: `  assay evidence verify quote.dat --collateral collateral/
  assay evidence verify quote.msg --signature quote.sig --ak ak.pem --pcrs pcrs.txt --nonce 6368616c6c656e6765
  assay evidence verify ek.der --collateral issuers-and-crls/
  assay evidence verify ek.der --ca tpm-makers/ --at 2024-05-01T00:00:00Z -o json`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := a.readDocument(args[0])
			if err != nil {
				return err
			}
			kit, err := a.evidenceKit(cmd, file, args[0], flags)
			if err != nil {
				return err
			}
			j, err := kit.judge(cmd.Context())
			if err != nil {
				return err
			}
			if err := a.show(j, func(w io.Writer) { judgementText(w, j) }); err != nil {
				return err
			}
			if !j.Accepted {
				return &verdictError{exit: rats.ExitNotTrusted}
			}
			return nil
		},
	}
	flags.register(cmd.Flags())
	return cmd
}

func judgementText(w io.Writer, j *appraise.Judgement) {
	yes := map[bool]string{true: "yes", false: "no"}
	row(w, "format", string(j.Format))
	row(w, "genuine", yes[j.Genuine])
	row(w, "accepted", yes[j.Accepted])
	if !j.Bound {
		row(w, "bound", "no: no nonce was given, so it may be of any age")
	}
	row(w, "judged for", at(j.At))
	if j.TCB.Status != appraise.StatusUnknown || len(j.TCB.Advisories) > 0 {
		row(w, "tcb", strings.TrimSpace(j.TCB.Status+" "+strings.Join(j.TCB.Advisories, ",")))
	}
	if j.Debug != nil {
		row(w, "debug", yes[*j.Debug])
	}
	if len(j.Marks) > 0 {
		row(w, "marks", strings.Join(j.Marks, ","))
	}
	for _, r := range j.Reasons {
		printReason(w, "- ", rats.Reason{Code: r.Code, Title: r.Title, Path: r.Path, Expected: r.Expected, Seen: r.Seen, Hint: r.Hint})
	}
}

func (a *app) evidenceFormatsCmd() *cobra.Command {
	type line struct {
		Format rats.Format `json:"format"`
		Names  []string    `json:"names,omitempty"`
		Title  string      `json:"title"`
		Doc    string      `json:"doc"`
	}
	return &cobra.Command{
		Use:     "formats",
		Short:   "list the formats that can be judged from files",
		Example: "  assay evidence formats",
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			var out []line
			for _, o := range all.Offline() {
				l := line{Format: o.Descriptor().ID, Title: o.Descriptor().Title, Doc: o.Descriptor().Doc}
				if n, ok := o.(appraise.Named); ok {
					l.Names = n.Names()
				}
				out = append(out, l)
			}
			return a.show(out, func(w io.Writer) {
				row(w, "FORMAT", "ALSO", "TITLE")
				for _, l := range out {
					row(w, string(l.Format), strings.Join(l.Names, ","), l.Title)
				}
			})
		},
	}
}

// moment reads --at.
func (a *app) moment(cmd *cobra.Command, text string) (time.Time, error) {
	if text == "" {
		return a.env.Now().UTC(), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, usage(cmd, "--at "+clean(text)+" is not a moment like 2026-01-31T12:00:00Z")
	}
	return t.UTC(), nil
}
