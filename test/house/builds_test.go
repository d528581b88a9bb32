package house

import (
	"os"
	"os/exec"
	"slices"
	"testing"
)

func TestPublicPackagesBuildForTheBrowser(t *testing.T) {
	var list []string
	table := rooms(t)
	for _, p := range allPackages(t) {
		if table[p.Path] == library && p.Go > 0 {
			list = append(list, p.Path)
		}
	}
	buildFor(t, "js", list)
}

func TestTheMeasuringSideBuildsForEnclaves(t *testing.T) {
	var list []string
	for _, p := range allPackages(t) {
		if slices.Contains([]string{"rats", "plan", "sealed", "internal/measure", "enclave/sdk"}, p.Path) {
			list = append(list, p.Path)
		}
	}
	buildFor(t, "wasip1", list)
}

func buildFor(t *testing.T, goos string, paths []string) {
	t.Helper()
	if testing.Short() {
		t.Skip("a first build of the standard library for wasm takes half a minute; runs without -short")
	}
	args := []string{"build", "-o", os.DevNull}
	for _, p := range paths {
		args = append(args, "./"+p)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("building for %s: %v\n%s", goos, err, out)
	}
}
