package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/evidence/all"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

func (a *app) refCmd() *cobra.Command {
	return group("ref", "reference sets: what files should be", "",
		a.refCaptureCmd(), a.refCalibrateCmd(), a.refApplyCmd(), a.refListCmd(), a.refShowCmd(),
		a.deleteCmd("ref", "remove a reference set: whatever is compared with it is refused", (*client.Client).DeleteRefSet))
}

// capture is what `ref capture` is asked for.
type capture struct {
	files, globs, dirs, excludes []string
	checks, sysctls, attributes  []string
	policy                       string
	alg, source, out             string
	expires                      time.Duration
	upload, partial              bool
	chunk                        int64
}

func (a *app) refCaptureCmd() *cobra.Command {
	var o capture
	cmd := &cobra.Command{
		Use:   "capture NAME",
		Short: "make a reference set from the files of this machine, which you must have reason to trust",
		Long: `Measures files as an agent would, and writes their digests as a reference set. What to measure is said by paths, or taken from
a policy document. With --check, what a named check finds on this machine is captured likewise: NAME, or NAME+OPTION+OPTION. A file that can't be read ends the capture, unless --skip-unreadable says it shall be left out (and will then be refused
as unknown on nodes that have it).`,
		Example: "  assay ref capture lab --dir /usr/bin --dir /usr/sbin --file /etc/ssh/sshd_config --out lab.json\n" +
			"  assay ref capture lab --check listening-sockets+owners+udp --check modules --sysctl kernel.kptr_restrict --out lab.json\n" +
			"  assay ref capture lab --policy web.yaml --upload --expires 720h",
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.out == "" && !o.upload {
				return usage(cmd, "say --out FILE (- is standard output) or --upload, or both")
			}
			set, err := a.capture(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			return a.keep(cmd.Context(), args[0], set, o)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.files, "file", nil, "a file; repeatable")
	f.StringArrayVar(&o.globs, "glob", nil, "a pattern of files (* does not cross /); repeatable")
	f.StringArrayVar(&o.dirs, "dir", nil, "everything below a directory; repeatable")
	f.StringArrayVar(&o.excludes, "exclude", nil, "leave out this path and what is below it (with --dir); repeatable")
	f.StringArrayVar(&o.checks, "check", nil, "what a named check finds, with its options: NAME+OPTION; repeatable")
	f.StringArrayVar(&o.sysctls, "sysctl", nil, "a kernel parameter; repeatable")
	f.StringSliceVar(&o.attributes, "attributes", nil, "beside contents: links, mode, owner, xattrs")
	f.Int64Var(&o.chunk, "chunk", 0, "make Merkle roots over chunks of so many bytes, a power of two, for tests with chunk")
	f.StringVar(&o.policy, "policy", "", "measure what this policy document wants measured")
	f.StringVar(&o.alg, "alg", "sha256", "sha256, sha384 or sha512")
	f.StringVar(&o.source, "source", "", "where the values come from, in words; default: this host and the time")
	f.StringVar(&o.out, "out", "", "write the set to this file")
	f.BoolVar(&o.upload, "upload", false, "store the set on the server")
	f.DurationVar(&o.expires, "expires", 0, "how long the values are good for; default: for ever")
	f.BoolVar(&o.partial, "skip-unreadable", false, "leave out files that can't be read")
	return cmd
}

// tests returns what is to be measured.
func (o capture) tests() ([]plan.Test, plan.Limits, error) {
	if o.policy != "" {
		return testsOfPolicy(o.policy)
	}
	var out []plan.Test
	add := func(kind string, texts, excludes []string) error {
		for _, text := range texts {
			options := plan.FileOptions{Attributes: o.attributes, Chunk: o.chunk}
			t, err := plan.NewFilesTest(uint32(len(out)+1), kind, o.alg, text, below(text, excludes), options)
			if err != nil {
				return CodeUsage.Bad("--"+kind, "an absolute path without '.', '..' and trailing '/'", err.Error())
			}
			out = append(out, t)
		}
		return nil
	}
	if err := cmp.Or(add(plan.KindFile, o.files, nil), add(plan.KindGlob, o.globs, nil), add(plan.KindDir, o.dirs, o.excludes)); err != nil {
		return nil, plan.Limits{}, err
	}
	out, err := o.addChecks(out)
	if err != nil {
		return nil, plan.Limits{}, err
	}
	if len(out) == 0 {
		return nil, plan.Limits{}, CodeUsage.Bad("ref capture", "--file, --glob, --dir, --check, --sysctl or --policy", "none of them")
	}
	return out, plan.Limits{}, nil
}

// addChecks appends the named checks.
func (o capture) addChecks(out []plan.Test) ([]plan.Test, error) {
	var list []plan.CheckArgs
	for _, text := range o.checks {
		words := strings.Split(text, "+")
		list = append(list, plan.CheckArgs{Check: words[0], Switches: words[1:]})
	}
	if len(o.sysctls) > 0 {
		list = append(list, plan.CheckArgs{Check: "sysctls", Names: o.sysctls})
	}
	for _, args := range list {
		t, err := plan.NewCheck(uint32(len(out)+1), o.alg, args)
		if err != nil {
			return nil, CodeUsage.Bad("--check", "a check and its options", err.Error())
		}
		out = append(out, t)
	}
	return out, nil
}

// below returns the excludes that lie below a directory.
func below(dir string, excludes []string) []string {
	var out []string
	for _, e := range excludes {
		if dir == "/" || len(e) > len(dir) && e[:len(dir)+1] == dir+"/" {
			out = append(out, e)
		}
	}
	return out
}

func testsOfPolicy(file string) ([]plan.Test, plan.Limits, error) {
	doc, err := os.ReadFile(file)
	if err != nil {
		return nil, plan.Limits{}, CodeFile.Bad(file, "a policy document", cause(err))
	}
	p, reasons := policy.Compile(doc, all.Descriptors())
	if p == nil {
		r := reasons[0]
		return nil, plan.Limits{}, CodeFile.Bad(file, "a policy without errors", r.String())
	}
	built, err := p.Plan(refvalue.NewIndex(nil), [32]byte{})
	if err != nil {
		return nil, plan.Limits{}, err
	}
	// What a pattern judges has no value to be captured.
	built.Tests = slices.DeleteFunc(built.Tests, func(t plan.Test) bool {
		s, err := t.Scope()
		return err == nil && s.Command != nil && s.Command.Match != ""
	})
	if len(built.Tests) == 0 {
		return nil, plan.Limits{}, CodeFile.Bad(file, "a policy that has something measured", "no tests")
	}
	return built.Tests, built.Limits, nil
}

// capture measures and makes the set.
func (a *app) capture(ctx context.Context, name string, o capture) (*refvalue.Set, error) {
	tests, limits, err := o.tests()
	if err != nil {
		return nil, err
	}
	now := a.env.Now()
	alg := make(map[uint32]string, len(tests))
	entries := make(map[string]refvalue.Entry)
	for i, t := range tests {
		alg[t.ID] = t.Alg
		outcomes, err := measure.Capture(ctx, measure.Local(), []plan.Test{t}, limits)
		if err != nil {
			return nil, err
		}
		for _, out := range outcomes {
			if err := add(entries, alg[out.Test], out, o.partial, a.done); err != nil {
				return nil, err
			}
		}
		if a.env.Terminal {
			fmt.Fprintf(a.env.Err, "\r%d of %d tests, %d files", i+1, len(tests), len(entries))
		}
	}
	if a.env.Terminal {
		fmt.Fprintln(a.env.Err)
	}
	head := refvalue.Header{Name: name, Source: o.source, Created: now}
	if o.expires > 0 {
		head.Expires = now.Add(o.expires)
	}
	if head.Source == "" {
		host, _ := os.Hostname() // "" is as good a name as none
		head.Source = fmt.Sprintf("captured on %s by assay %s", host, Version)
	}
	list := make([]refvalue.Entry, 0, len(entries))
	for _, k := range sortedKeys(entries) {
		list = append(list, entries[k])
	}
	return refvalue.New(head, list)
}

// add puts one outcome into the entries.
func add(entries map[string]refvalue.Entry, alg string, out plan.Outcome, partial bool, warn func(string, ...any)) error {
	name := rats.EscapePath(out.Name)
	if out.Err != "" {
		if len(out.Name) > 0 && partial {
			warn("warning: %s left out (%s)", clean(name), out.Err)
			return nil
		}
		return CodeFile.Bad(name, "a readable file, or --skip-unreadable", string(out.Err))
	}
	e := entries[name]
	d := rats.Digest{Alg: alg, Sum: out.Digest}
	if !slices.ContainsFunc(e.Digests, d.Equal) {
		e.Digests = append(e.Digests, d)
	}
	e.Name, e.Size = name, out.Size
	entries[name] = e
	return nil
}

// keep writes and uploads a captured set.
func (a *app) keep(ctx context.Context, name string, set *refvalue.Set, o capture) error {
	doc := set.Encode()
	switch o.out {
	case "":
	case "-":
		if _, err := a.env.Out.Write(doc); err != nil {
			return err
		}
	default:
		if err := os.WriteFile(o.out, doc, 0o644); err != nil {
			return CodeFile.Bad(o.out, "a file that can be written", cause(err))
		}
	}
	if !o.upload {
		a.done("captured %d files into %s", set.Len(), name)
		return nil
	}
	c, err := a.connect()
	if err != nil {
		return err
	}
	r, err := c.PutRefSet(ctx, name, doc)
	if err != nil {
		return err
	}
	return a.show(r, func(w io.Writer) { refRows(w, []api.RefSet{r}) })
}

func (a *app) refApplyCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "apply FILE",
		Short:   "store a reference set on the server as the newest version; results under older versions stop counting at once",
		Example: "  assay ref apply lab.json",
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, err := a.readDocument(args[0])
			if err != nil {
				return err
			}
			set, err := refvalue.Parse(doc)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			r, err := c.PutRefSet(cmd.Context(), set.Header().Name, doc)
			if err != nil {
				return err
			}
			return a.show(r, func(w io.Writer) { refRows(w, []api.RefSet{r}) })
		},
	}
}

func refRows(w io.Writer, list []api.RefSet) {
	row(w, "NAME", "VERSION", "ENTRIES", "SOURCE", "EXPIRES", "AUTHOR", "AT", "DIGEST")
	for _, r := range list {
		row(w, r.Name, fmt.Sprint(r.Version), fmt.Sprint(r.Entries), r.Source, at(r.Expires), r.Author, at(r.At), short(r.Digest))
	}
}

func (a *app) refListCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "list reference sets",
		Example: "  assay ref list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			list, err := c.ListRefSets(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) { refRows(w, list) })
		},
	}
}

func (a *app) refShowCmd() *cobra.Command {
	var version int64
	cmd := &cobra.Command{
		Use:     "show NAME",
		Short:   "print a reference set as it was stored; with -o json its description",
		Example: "  assay ref show lab > lab.json\n  assay ref show lab -o json",
		Args:    exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			if a.flags.output != outputTable {
				r, err := c.GetRefSet(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.show(r, nil)
			}
			doc, err := c.RefSetDocument(cmd.Context(), args[0], version)
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
