package cli

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/rats"
)

func (a *app) evidenceBundleCmd() *cobra.Command {
	var flags evidenceFlags
	var out string
	cmd := &cobra.Command{
		Use:   "bundle FILE",
		Short: "pack evidence, collateral, policy and moment into one file that can be judged again years later",
		Long: `The bundle holds the files as they are. assay evidence verify judges it for the moment that is packed with it, so it says
the same for as long as the signatures' algorithms count. The judgement itself isn't packed: it can always be made again.`,
		Example: "  assay evidence bundle quote.dat --collateral collateral/ --at 2026-01-31T12:00:00Z --out quote.bundle.json\n  assay evidence verify quote.bundle.json",
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return usage(cmd, "--out is missing")
			}
			file, err := a.readDocument(args[0])
			if err != nil {
				return err
			}
			k, err := a.evidenceKit(cmd, file, args[0], flags)
			if err != nil {
				return err
			}
			b, err := json.MarshalIndent(k, "", " ")
			if err != nil {
				return err
			}
			if err := writeNew(out, append(b, '\n')); err != nil {
				return err
			}
			v := struct {
				File   string      `json:"file"`
				Digest rats.Digest `json:"digest"`
				Files  int         `json:"files"`
			}{out, rats.SHA256(b, []byte("\n")), 1 + len(k.Beside) + len(k.CA) + len(k.Collateral)}
			return a.show(v, func(w io.Writer) {
				row(w, "bundle", v.File)
				row(w, "digest", v.Digest.String())
				row(w, "files", strconv.Itoa(v.Files))
			})
		},
	}
	flags.register(cmd.Flags())
	cmd.Flags().StringVar(&out, "out", "", "file to write; must not exist")
	return cmd
}

// writeNew writes a file that must not exist: a bundle is evidence, and is never replaced by accident.
func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return CodeFile.Bad(path, "no file of that name", "one")
	}
	if err != nil {
		return CodeFile.Bad(path, "a file that can be written", cause(err))
	}
	if _, err := f.Write(b); err != nil {
		return errors.Join(CodeFile.Bad(path, "a file that can be written", cause(err)), f.Close())
	}
	return f.Close()
}
