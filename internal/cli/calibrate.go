package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/refvalue"
)

// calibration is what `ref calibrate` is asked for.
type calibration struct {
	capture
	set                           string
	runs, repeat, margin, workers int
}

func (a *app) refCalibrateCmd() *cobra.Command {
	var o calibration
	cmd := &cobra.Command{
		Use:   "calibrate NAME",
		Short: "learn how long measurements take on this machine, and write time windows into a reference set",
		Long: `Measures files many times as an agent would, in units of a reference hash, and writes windows of usual times into a reference set: that
of --set, or the newest of this name on the server. Run it on a machine of the kind that will be judged, as quiet or as busy as those are.
With --policy only the policy's timed tests are measured, with their own repetitions. Windows hold for the native backend: times inside
an enclave are others.`,
		Example: "  assay ref calibrate lab --set lab.json --runs 50 --policy web.yaml --out lab.json\n" +
			"  assay ref calibrate lab --dir /usr/bin --repeat 5 --margin 40 --upload",
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.out == "" && !o.upload {
				return usage(cmd, "say --out FILE (- is standard output) or --upload, or both")
			}
			base, err := a.calibrated(cmd.Context(), args[0], o.set)
			if err != nil {
				return err
			}
			windows, err := a.calibrate(cmd.Context(), o)
			if err != nil {
				return err
			}
			set, err := base.WithWindows(&windows)
			if err != nil {
				return err
			}
			a.done("%d windows of %d runs: pace %d to %d ‰, spread up to %d ‰", len(windows.Names), windows.Runs, windows.Pace.Low, windows.Pace.High, windows.Spread.High)
			return a.keep(cmd.Context(), args[0], set, o.capture)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.files, "file", nil, "a file; repeatable")
	f.StringArrayVar(&o.globs, "glob", nil, "a pattern of files (* does not cross /); repeatable")
	f.StringArrayVar(&o.dirs, "dir", nil, "everything below a directory; repeatable")
	f.StringArrayVar(&o.excludes, "exclude", nil, "leave out this path and what is below it (with --dir); repeatable")
	f.StringVar(&o.policy, "policy", "", "measure the timed tests of this policy document")
	f.StringVar(&o.alg, "alg", "sha256", "sha256, sha384 or sha512")
	f.StringVar(&o.set, "set", "", "the reference set to write into; default: the server's of this name")
	f.IntVar(&o.runs, "runs", 50, fmt.Sprintf("how many runs to learn from, at least %d", plan.MinRuns))
	f.IntVar(&o.repeat, "repeat", 3, fmt.Sprintf("measurements of each file in a run, of which the shortest counts; 1 to %d", plan.MaxRepeat))
	f.IntVar(&o.margin, "margin", 25, "percent by which windows are wider than what was seen")
	f.IntVar(&o.workers, "workers", 0, "files measured at the same time; default: one per processor, as an agent does")
	f.StringVar(&o.out, "out", "", "write the set to this file")
	f.BoolVar(&o.upload, "upload", false, "store the set on the server")
	return cmd
}

// calibrated returns the set that windows are written into.
func (a *app) calibrated(ctx context.Context, name, file string) (*refvalue.Set, error) {
	var doc []byte
	var err error
	if file != "" {
		if doc, err = os.ReadFile(file); err != nil {
			return nil, CodeFile.Bad(file, "a reference set", cause(err))
		}
	} else {
		c, err := a.connect()
		if err != nil {
			return nil, err
		}
		if doc, err = c.RefSetDocument(ctx, name, 0); err != nil {
			return nil, err
		}
	}
	set, err := refvalue.Parse(doc)
	if err == nil && set.Header().Name != name {
		err = CodeFile.Bad(cmp.Or(file, name), "a reference set called "+name, set.Header().Name)
	}
	return set, err
}

// calibrate measures and learns.
func (a *app) calibrate(ctx context.Context, o calibration) (plan.Windows, error) {
	tests, limits, err := o.tests()
	if err != nil {
		return plan.Windows{}, err
	}
	if o.policy != "" {
		tests = slices.DeleteFunc(tests, func(t plan.Test) bool { return !t.Timed })
	}
	if len(tests) == 0 || o.runs < plan.MinRuns || o.repeat < 1 || o.repeat > plan.MaxRepeat || o.margin < 0 || o.margin > 1000 {
		return plan.Windows{}, CodeUsage.Bad("ref calibrate", fmt.Sprintf("timed tests, --runs of at least %d, --repeat of 1 to %d, --margin of 0 to 1000", plan.MinRuns, plan.MaxRepeat), fmt.Sprintf("%d tests", len(tests)))
	}
	repeat := o.repeat
	for i := range tests {
		if o.policy == "" {
			tests[i].Timed, tests[i].Repeat = true, o.repeat
		} else {
			repeat = max(tests[i].Repeat, 1)
		}
	}
	runner := measure.Runner{System: measure.Local(), Now: a.env.Now, Workers: o.workers}
	runs := make([][]plan.Timed, 0, o.runs)
	for i := range o.runs {
		outcomes, err := runner.Run(ctx, tests, limits)
		if err != nil {
			return plan.Windows{}, err
		}
		times, err := plan.Times(tests, outcomes)
		if err != nil {
			return plan.Windows{}, err
		}
		runs = append(runs, plan.InUnits(times))
		if a.env.Terminal {
			fmt.Fprintf(a.env.Err, "\r%d of %d runs, %d times", i+1, o.runs, len(times))
		}
	}
	if a.env.Terminal {
		fmt.Fprintln(a.env.Err)
	}
	w, err := plan.Learn(runs, plan.Learning{Backend: plan.BackendNative, Repeat: repeat, Margin: int64(o.margin) * 10})
	if err != nil {
		return w, CodeFile.Bad("ref calibrate", "files that can be measured in every run", err.Error())
	}
	return w, nil
}
