// Package cli is the command line: one file per noun, each verb a thin call of package client or of the part it starts.
// The scripts below testdata are its manual.
//
// It guarantees that results go to standard output and everything else to standard error, that `-o json` is stable, that
// exit codes are those of the verdict table (rats), that no secret is taken from or shown in an argument list, and that
// text from elsewhere can't steer the terminal. It knows no format of evidence by name: titles, claims and policy sections
// come from descriptors. It holds no logic a program could not reach through the API.
package cli

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/rats"
)

// Version is the version of this binary, set by the linker.
var Version = "dev"

// Env is what the command line takes from its process. All fields but Home are needed.
type Env struct {
	Args       []string // without the program's name
	In         io.Reader
	Out, Err   io.Writer
	Now        func() time.Time
	Rand       io.Reader
	Getenv     func(string) string
	Home       string // "" if there is none
	Executable string // path of this binary, for commands that start others
	UID        int
	Terminal   bool // whether Err is one: progress is shown there only
}

// app is one run of the command line.
type app struct {
	env   Env
	flags globals
}

// Main runs the command that env.Args name until it ends or ctx does, and returns the process's exit code.
func Main(ctx context.Context, env Env) int {
	a := &app{env: env}
	root := a.root()
	root.SetArgs(env.Args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return rats.ExitOK
	}
	var verdict *verdictError
	if errors.As(err, &verdict) {
		return verdict.exit
	}
	a.printError(err)
	return exitCode(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "assay",
		Short: "decide by evidence whether a machine may be trusted, and hand out secrets only while it may",
		Long: `Assay decides, by evidence, whether a machine on somebody else's hardware may be trusted, and hands out secrets
only while that holds.

Exit codes: 0 trusted or done · 1 error · 2 not trusted · 3 unknown or stale · 4 the server can't be reached.`,
		Example: `  assay quickstart          # see the whole idea on this machine
  assay node list           # who is trusted now
  assay node explain web-1  # why, and what to do`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(a.env.In)
	root.SetOut(a.env.Out)
	root.SetErr(a.env.Err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err.Error()) })
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return a.flags.check() }
	a.flags.register(root.PersistentFlags())
	root.AddCommand(
		a.nodeCmd(), a.policyCmd(), a.refCmd(), a.secretCmd(), a.webhookCmd(), a.enclaveCmd(), a.sealCmd(),
		a.serverCmd(), a.agentCmd(), a.evidenceCmd(), a.collateralCmd(),
		a.quickstartCmd(), a.doctorCmd(), a.benchCmd(), a.versionCmd(), a.docsCmd(),
	)
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Example = "  assay completion bash > /etc/bash_completion.d/assay"
			for _, shell := range c.Commands() {
				shell.Example = "  assay completion " + shell.Name()
			}
		}
	}
	return root
}

// group returns a command that only holds others.
func group(use, short, long string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return usage(cmd, "a verb is missing") },
	}
	c.AddCommand(children...)
	for _, child := range children {
		c.Example += child.Example + "\n"
	}
	if n := len(c.Example); n > 0 {
		c.Example = c.Example[:n-1]
	}
	return c
}

// exactly is cobra.ExactArgs with an error of ours that names the arguments.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usage(cmd, "argument "+names[len(args)]+" is missing")
		case len(args) > len(names):
			return usage(cmd, "argument "+clean(args[len(names)])+" is one too many")
		}
		return nil
	}
}

func contextWithTimeout(cmd *cobra.Command, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(cmd.Context(), d)
}
