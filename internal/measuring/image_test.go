package measuring_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/internal/measuring"
	"github.com/assay-attest/assay/internal/measuring/entry"
	"github.com/assay-attest/assay/internal/testkit/measuringtest"
)

// R101: two clean builds of the measuring enclave, in different folders, are one MRENCLAVE.
func TestTwoCleanBuildsAreOneEnclave(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program without a cache; runs without -short")
	}
	here, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	there := filepath.Join(t.TempDir(), "elsewhere")
	if out, err := exec.Command("git", "-C", here, "ls-files", "-z", "--", "*.go", "go.mod", "go.sum", "*.pem").CombinedOutput(); err != nil {
		t.Skipf("not in a git work tree: %s", out)
	} else {
		for _, f := range strings.Split(strings.TrimRight(string(out), "\x00"), "\x00") {
			b, err := os.ReadFile(filepath.Join(here, f))
			if err != nil {
				continue // removed since
			}
			if err := os.MkdirAll(filepath.Join(there, filepath.Dir(f)), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(there, f), b)
		}
	}
	second, err := measuringtest.Build(there, "-a")
	if err != nil {
		t.Fatal(err)
	}
	first, err := measuringtest.Build(here)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Errorf("modules of %d and %d bytes differ", len(first), len(second))
	}
	i, err := enclave.New(first, measuring.Options())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("MRENCLAVE %x", i.Measure())
}

// What `make build` makes is what tests and policies measure.
func TestMakefileBuildsTheImageWithTheseOptions(t *testing.T) {
	b, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf("--heap %d --buffer %d --product %d --svn %d --launch-config", entry.Heap, entry.Buffer, entry.ProductID, entry.SVN),
		`-buildmode=c-shared -trimpath -buildvcs=false -ldflags "-s -w -buildid="`,
	} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("the Makefile lacks %s", want)
		}
	}
}
