package quickstart

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/assay-attest/assay/evidence/all"
	"github.com/assay-attest/assay/policy"
)

func TestThePolicyOfTheQuickstartCompilesWhateverFilesAreCalled(t *testing.T) {
	f := files{trees: []tree{{Dir: "/usr/bin"}, {Dir: `/etc/a "b"`, Exclude: []string{"/etc/a \"b\"/x%0Ay", "/etc/a \"b\"/ü: #"}}}}
	doc, err := policyDocument(f, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	_, reasons := policy.Compile(doc, all.Descriptors())
	for _, r := range reasons {
		// Without the CA of a software TPM nothing says which TPMs are trusted; all else must be right.
		if r.Code != "tpm.rule.no-trust" && r.Code != "policy.field.type" {
			t.Errorf("%s\n%s", r, doc)
		}
	}
}

func TestWhatCannotBeReadIsExcludedByName(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	closed := filepath.Join(dir, "closed")
	if err := os.WriteFile(closed, nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	got, err := look(dir)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 { // root reads everything
		if got.count != 3 || len(got.Exclude) != 0 {
			t.Errorf("%+v, expected 3 files and no excludes", got)
		}
		return
	}
	if got.count != 2 || !slices.Equal(got.Exclude, []string{closed}) {
		t.Errorf("%+v, expected 2 files and %s excluded", got, closed)
	}
}
