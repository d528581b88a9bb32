package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/rats"
)

// The codes of the command line itself.
var (
	CodeUsage = rats.CodeInfo{
		Code: "cli.usage", Title: "the command can't be run as written",
		Hint: "add --help to see how it is used",
	}
	CodeNoServer = rats.CodeInfo{
		Code: "cli.server.none", Title: "no server is configured",
		Hint: "give --server and --ca, or write them to ~/.config/assay/config.yaml; `assay server init` makes such a file",
	}
	CodeConfig = rats.CodeInfo{
		Code: "cli.config.malformed", Title: "the configuration file is not usable",
		Hint: "it knows the fields server, ca, token_file and namespace",
	}
	CodeFile = rats.CodeInfo{
		Code: "cli.file.unusable", Title: "a file that was named is not usable",
		Hint: "check its path, owner and content",
	}
	CodeFileMode = rats.CodeInfo{
		Code: "cli.file.mode", Title: "a file with a secret is readable by others",
		Hint: "chmod 600 it; if others may have read it, replace the secret",
	}
	CodeTimeout = rats.CodeInfo{
		Code: "cli.wait.timeout", Title: "the node didn't reach that state in time",
		Hint: "`assay node explain` says what keeps it",
	}
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{CodeUsage, CodeNoServer, CodeConfig, CodeFile, CodeFileMode, CodeTimeout}

// verdictError ends a command whose output was printed and whose exit code is a verdict.
type verdictError struct{ exit int }

func (e *verdictError) Error() string { return fmt.Sprintf("verdict with exit code %d", e.exit) }

// verdictExit returns the error that makes the process exit as the verdict table says; nil for trusted.
func verdictExit(v rats.Verdict) error {
	if v.Exit == rats.ExitOK {
		return nil
	}
	return &verdictError{exit: v.Exit}
}

func usage(cmd *cobra.Command, what string) error {
	return CodeUsage.Bad(cmd.CommandPath(), cmd.UseLine(), what)
}

// exitCode returns the exit code of an error that is not a verdict.
func exitCode(err error) int {
	var unreachable *client.Unreachable
	if errors.As(err, &unreachable) {
		return rats.ExitUnreachable
	}
	return rats.ExitError
}

// failure is what a person and a program are told of an error.
type failure struct {
	Error    string        `json:"error"`
	Code     rats.Code     `json:"code,omitempty"`
	Path     string        `json:"path,omitempty"`
	Expected string        `json:"expected,omitempty"`
	Seen     string        `json:"seen,omitempty"`
	Hint     string        `json:"hint,omitempty"`
	Request  string        `json:"request,omitempty"`
	Reasons  []rats.Reason `json:"reasons,omitempty"`
}

func failureOf(err error) failure {
	var refused *client.Error
	var unreachable *client.Unreachable
	switch {
	case errors.As(err, &refused):
		return failureOfProblem(refused.Problem)
	case errors.As(err, &unreachable):
		f := failure{Error: unreachable.Title, Code: unreachable.Code, Path: unreachable.Server, Seen: unreachable.Detail, Hint: unreachable.Hint}
		if unreachable.Detail == "" && unreachable.Err != nil {
			f.Seen = unreachable.Err.Error()
		}
		return f
	case errors.Is(err, context.Canceled):
		return failure{Error: "interrupted"}
	}
	if r, ok := rats.ReasonOf(err); ok {
		return failure{Error: r.Title, Code: r.Code, Path: r.Path, Expected: r.Expected, Seen: r.Seen, Hint: r.Hint}
	}
	return failure{Error: err.Error()}
}

func failureOfProblem(p api.Problem) failure {
	f := failure{
		Error: p.Title, Code: p.Code, Path: p.Path, Expected: p.Expected, Seen: p.Seen,
		Hint: p.Hint, Request: p.Request, Reasons: p.Reasons,
	}
	if p.Detail != "" {
		f.Error += ": " + p.Detail
	}
	return f
}

// printError says on standard error what failed, with its code, what was expected and seen, and what to do.
func (a *app) printError(err error) {
	f := failureOf(err)
	if a.flags.output == outputJSON {
		if b, err := json.Marshal(f); err == nil {
			fmt.Fprintf(a.env.Err, "%s\n", b)
			return
		}
	}
	w := a.env.Err
	fmt.Fprintf(w, "error: %s\n", clean(f.Error))
	printField(w, "  ", "code", string(f.Code))
	printField(w, "  ", "at", f.Path)
	printField(w, "  ", "expected", f.Expected)
	printField(w, "  ", "seen", f.Seen)
	printField(w, "  ", "hint", f.Hint)
	printField(w, "  ", "request", f.Request)
	for _, r := range f.Reasons {
		printReason(w, "  - ", r)
	}
}

// printField prints an aligned field unless it is empty.
func printField(w io.Writer, indent, name, value string) {
	if value != "" {
		fmt.Fprintf(w, "%s%-9s %s\n", indent, name, clean(value))
	}
}

// printReason prints one reason; first stands before its first line, as many spaces before the others.
func printReason(w io.Writer, first string, r rats.Reason) {
	indent := fmt.Sprintf("%*s", len(first), "")
	fmt.Fprintf(w, "%s%s\n", first, clean(titleOf(r)))
	printField(w, indent, "code", string(r.Code))
	printField(w, indent, "at", r.Path)
	printField(w, indent, "rule", r.Rule)
	printField(w, indent, "expected", r.Expected)
	printField(w, indent, "seen", r.Seen)
	printField(w, indent, "hint", r.Hint)
}

func titleOf(r rats.Reason) string {
	if r.Title != "" {
		return r.Title
	}
	return string(r.Code)
}
