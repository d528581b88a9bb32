// Command assert reads what `assay quickstart -o json` printed and fails unless the machine was trusted, then not trusted
// with a reason, then trusted again, with real formats, in less than a minute.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

type outcome struct {
	Steps []struct {
		Name    string            `json:"name"`
		Seconds float64           `json:"seconds"`
		Verdict string            `json:"verdict"`
		Reasons []json.RawMessage `json:"reasons"`
		Formats []string          `json:"formats"`
	} `json:"steps"`
}

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "assert:", err)
		os.Exit(1)
	}
}

func run(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var o outcome
	if err := json.Unmarshal(b, &o); err != nil {
		return fmt.Errorf("not one JSON object: %w\n%s", err, b)
	}
	var verdicts []string
	total := 0.0
	for _, s := range o.Steps {
		total += s.Seconds
		if s.Verdict == "" {
			continue
		}
		verdicts = append(verdicts, s.Verdict)
		if len(s.Formats) == 0 {
			return fmt.Errorf("step %q names no formats", s.Name)
		}
		if s.Verdict == "not trusted" && len(s.Reasons) == 0 {
			return fmt.Errorf("step %q gives no reason", s.Name)
		}
	}
	if got, want := fmt.Sprint(verdicts), fmt.Sprint([]string{"trusted", "not trusted", "trusted"}); got != want {
		return fmt.Errorf("verdicts %s, expected %s\n%s", got, want, b)
	}
	if total >= 60 {
		return fmt.Errorf("took %.1f s, expected less than 60", total)
	}
	fmt.Printf("quickstart: %v in %.1f s\n", verdicts, total)
	return nil
}
