package enclave_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/rats"
)

// smallest is the smallest module that may be an enclave: one page of memory, exported.
var smallest = []byte("\x00asm\x01\x00\x00\x00" + "\x05\x03\x01\x00\x01" + "\x07\x0a\x01\x06memory\x02\x00")

// importing returns smallest with one import.
func importing(module string, kind byte) []byte {
	body := append([]byte{1, byte(len(module))}, module...)
	body = append(body, 1, 'f', kind, 0)
	out := append([]byte{}, smallest[:8]...)
	out = append(out, 2, byte(len(body)))
	return append(append(out, body...), smallest[8:]...)
}

func wantCode(t testing.TB, what string, err error, want rats.CodeInfo) {
	t.Helper()
	r, ok := rats.ReasonOf(err)
	if !ok || r.Code != want.Code {
		t.Errorf("%s: got %v, want %s", what, err, want.Code)
		return
	}
	if r.Hint == "" || r.Expected == "" || r.Path == "" {
		t.Errorf("%s: %s says too little: %+v", what, want.Code, r)
	}
}

func small(t testing.TB, o enclave.Options) *enclave.Image {
	t.Helper()
	if o.Heap == 0 {
		o.Heap = enclave.WasmPage
	}
	i, err := enclave.New(smallest, o)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func stream(t testing.TB, i *enclave.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := i.WriteStream(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// R080: the SHA-256 of the record stream is the measurement, and reading the stream gives the same.
func TestMeasurementIsTheHashOfTheRecordStream(t *testing.T) {
	i := small(t, enclave.Options{})
	b := stream(t, i)
	if got := i.Measure(); got != sha256.Sum256(b) {
		t.Errorf("measured %x", got)
	}
	s, err := enclave.MeasureStream(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	l := i.Layout()
	if s.MRENCLAVE != i.Measure() || s.Size != l.Size || s.Pages != 3+16 || s.TCS != 1 || s.Measured != 3*enclave.PageSize || s.Writable || s.SSAFrame != 1 {
		t.Errorf("stream %+v, layout %+v", s, l)
	}
}

// record builds a record by hand, by the tables of the SDM and not by this package.
func record(tag string, fields ...any) []byte {
	b := make([]byte, 8, 64)
	copy(b, tag)
	for _, f := range fields {
		var err error
		if b, err = binary.Append(b, binary.LittleEndian, f); err != nil {
			panic(err)
		}
	}
	return append(b, make([]byte, 64-len(b))...)
}

// sdm is a stream of a two-page enclave.
func sdm() []byte {
	b := record("ECREATE", uint32(1), uint64(0x4000))
	b = append(b, record("EADD", uint64(0), uint64(0x205))...) // REG, R X
	for at := uint64(0); at < 4096; at += 256 {
		b = append(b, record("EEXTEND", at)...)
		b = append(b, bytes.Repeat([]byte{byte(at >> 8)}, 256)...)
	}
	return append(b, record("EADD", uint64(0x1000), uint64(0x100))...) // TCS, not extended
}

// R080: a stream that was built by the SDM's layout, with its digest fixed here so that no change goes unnoticed.
func TestStreamByTheSDMHasItsKnownMeasurement(t *testing.T) {
	s, err := enclave.MeasureStream(bytes.NewReader(sdm()))
	if err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(sdm()); s.MRENCLAVE != want || s.Pages != 2 || s.TCS != 1 || s.Measured != 4096 {
		t.Errorf("got %+v", s)
	}
	withMore := append(sdm(), record("UNMEASRD", uint64(0x1000))...)
	withMore = append(withMore, make([]byte, 256)...)
	u, err := enclave.MeasureStream(bytes.NewReader(withMore))
	if err != nil || u.MRENCLAVE != s.MRENCLAVE || u.Unmeasured != 256 {
		t.Errorf("unmeasured content: %+v, %v", u, err)
	}
}

func TestStreamsThatTheProcessorRefusesAreRefused(t *testing.T) {
	create := record("ECREATE", uint32(1), uint64(0x4000))
	page := record("EADD", uint64(0x1000), uint64(0x203))
	for _, tt := range []struct {
		name string
		b    []byte
		want rats.CodeInfo
	}{
		{"empty", nil, enclave.CodeStream},
		{"no ECREATE", page, enclave.CodeStream},
		{"two ECREATEs", append(bytes.Clone(create), create...), enclave.CodeStream},
		{"unknown tag", append(bytes.Clone(create), record("EBLOCK", uint64(0))...), enclave.CodeStream},
		{"size not a power of two", record("ECREATE", uint32(1), uint64(0x3000)), enclave.CodeStream},
		{"no save area", record("ECREATE", uint32(0), uint64(0x4000)), enclave.CodeStream},
		{"reserved bytes of ECREATE", record("ECREATE", uint32(1), uint64(0x4000), uint8(1)), enclave.CodeStream},
		{"reserved bytes of EADD", append(bytes.Clone(create), record("EADD", uint64(0), uint64(0x203), uint8(1))...), enclave.CodeStream},
		{"reserved bytes of EEXTEND", append(append(bytes.Clone(create), page...), record("EEXTEND", uint64(0x1000), uint8(1))...), enclave.CodeStream},
		{"truncated record", sdm()[:100], enclave.CodeStream},
		{"truncated content", sdm()[:64*3+100], enclave.CodeStream},
		{"page outside", append(bytes.Clone(create), record("EADD", uint64(0x4000), uint64(0x203))...), enclave.CodeStreamPage},
		{"unaligned page", append(bytes.Clone(create), record("EADD", uint64(0x800), uint64(0x203))...), enclave.CodeStreamPage},
		{"page of type SECS", append(bytes.Clone(create), record("EADD", uint64(0), uint64(0x003))...), enclave.CodeStreamPage},
		{"unknown page flags", append(bytes.Clone(create), record("EADD", uint64(0), uint64(0x243))...), enclave.CodeStreamPage},
		{"writable and not readable", append(bytes.Clone(create), record("EADD", uint64(0), uint64(0x202))...), enclave.CodeStreamPage},
		{"page twice", append(append(bytes.Clone(create), page...), page...), enclave.CodeStreamPage},
		{"content of no page", append(bytes.Clone(create), record("EEXTEND", uint64(0x2000))...), enclave.CodeStreamPage},
		{"unaligned content", append(append(bytes.Clone(create), page...), record("EEXTEND", uint64(0x1010))...), enclave.CodeStreamPage},
	} {
		_, err := enclave.MeasureStream(bytes.NewReader(tt.b))
		wantCode(t, tt.name, err, tt.want)
	}
}

func TestImageSurvivesItsFile(t *testing.T) {
	i := small(t, enclave.Options{ProductID: 7, SVN: 3, Buffer: 8192, TCS: 2})
	got, err := enclave.Parse(i.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if got.Options != i.Options || !bytes.Equal(got.Module, i.Module) || got.Measure() != i.Measure() || !enclave.IsImage(i.Encode()) {
		t.Errorf("got %+v, want %+v", got.Options, i.Options)
	}
}

func TestWhatSigningStartsFromIsNotMeasured(t *testing.T) {
	plain := small(t, enclave.Options{})
	if small(t, enclave.Options{SVN: 9, ProductID: 4, MiscSelect: 1}).Measure() != plain.Measure() {
		t.Error("a new version has another measurement without any change to the code")
	}
	for name, o := range map[string]enclave.Options{"heap": {Heap: 2 * enclave.WasmPage}, "buffer": {Buffer: 4096}, "tcs": {TCS: 2}} {
		if small(t, o).Measure() == plain.Measure() {
			t.Errorf("%s is not measured", name)
		}
	}
}

func TestImagesThatBuildWouldNotMakeAreRefused(t *testing.T) {
	good := small(t, enclave.Options{}).Encode()
	changed := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] ^= v
		return b
	}
	for _, tt := range []struct {
		name string
		b    []byte
		want rats.CodeInfo
	}{
		{"empty", nil, enclave.CodeImage},
		{"truncated header", good[:127], enclave.CodeImage},
		{"truncated module", good[:len(good)-1], enclave.CodeImage},
		{"followed", append(bytes.Clone(good), 0), enclave.CodeImage},
		{"magic", changed(0, 1), enclave.CodeImage},
		{"version", changed(8, 2), enclave.CodeImage},
		{"header size", changed(10, 1), enclave.CodeImage},
		{"module size", changed(12, 1), enclave.CodeImage},
		{"heap", changed(16, 1), enclave.CodeImageSize},
		{"huge heap", changed(23, 0x80), enclave.CodeImageSize},
		{"buffer", changed(24, 1), enclave.CodeImageSize},
		{"tcs", changed(29, 0x80), enclave.CodeImageSize},
		{"reserved", changed(34, 1), enclave.CodeImage},
		{"reserved at the end", changed(127, 1), enclave.CodeImage},
		{"digest", changed(60, 1), enclave.CodeImage},
		{"module", changed(len(good)-1, 1), enclave.CodeImage},
	} {
		_, err := enclave.Parse(tt.b)
		wantCode(t, tt.name, err, tt.want)
	}
}

func TestModulesThatAreNoEnclavesAreRefused(t *testing.T) {
	for _, name := range enclave.ImportModules {
		if _, err := enclave.New(importing(name, 0), enclave.Options{}); err != nil {
			t.Errorf("imports of %s: %v", name, err)
		}
	}
	big := bytes.Clone(smallest)
	big[12] = 2 // two pages
	for _, tt := range []struct {
		name   string
		module []byte
		o      enclave.Options
		want   rats.CodeInfo
	}{
		{"no module", nil, enclave.Options{}, enclave.CodeImageSize},
		{"module too large", make([]byte, enclave.MaxModule+1), enclave.Options{}, enclave.CodeImageSize},
		{"heap of no whole pages", smallest, enclave.Options{Heap: 1000}, enclave.CodeImageSize},
		{"buffer of no whole pages", smallest, enclave.Options{Buffer: 1000}, enclave.CodeImageSize},
		{"too many threads", smallest, enclave.Options{TCS: 17}, enclave.CodeImageSize},
		{"an ELF file", []byte("\x7fELF"), enclave.Options{}, enclave.CodeModule},
		{"truncated", smallest[:len(smallest)-1], enclave.Options{}, enclave.CodeModule},
		{"section twice", append(bytes.Clone(smallest), smallest[8:13]...), enclave.Options{}, enclave.CodeModule},
		{"unknown section", append(bytes.Clone(smallest), 99, 0), enclave.Options{}, enclave.CodeModule},
		{"foreign import", importing("env", 0), enclave.Options{}, enclave.CodeModuleImport},
		{"imported memory", importing("assay", 2), enclave.Options{}, enclave.CodeModuleImport},
		{"no memory", smallest[:8], enclave.Options{}, enclave.CodeModuleMemory},
		{"memory not exported", smallest[:13], enclave.Options{}, enclave.CodeModuleMemory},
		{"memory above the heap", big, enclave.Options{Heap: enclave.WasmPage}, enclave.CodeModuleMemory},
		{"shared memory", append(append([]byte{}, smallest[:8]...), 5, 4, 1, 3, 1, 1), enclave.Options{}, enclave.CodeModuleMemory},
	} {
		_, err := enclave.New(tt.module, tt.o)
		wantCode(t, tt.name, err, tt.want)
	}
}

const program = `package main

//go:wasmexport add
func add(a, b uint32) uint32 { return a + b }

func main() {}
`

// Two clean builds in different folders give one MRENCLAVE (ARCHITECTURE part 9).
func TestTwoCleanBuildsGiveOneMeasurement(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a WebAssembly module twice")
	}
	goTool := filepath.Join(runtime.GOROOT(), "bin", "go")
	var measured [2]string
	for n := range measured {
		dir := t.TempDir()
		for name, text := range map[string]string{"main.go": program, "go.mod": "module example.org/vault\n\ngo 1.26\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.CommandContext(t.Context(), goTool, "build", "-buildmode=c-shared", "-trimpath", "-buildvcs=false", "-ldflags=-buildid= -s -w", "-o", "vault.wasm", ".")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		module, err := os.ReadFile(filepath.Join(dir, "vault.wasm"))
		if err != nil {
			t.Fatal(err)
		}
		i, err := enclave.New(module, enclave.Options{})
		if err != nil {
			t.Fatal(err)
		}
		sum := i.Measure()
		measured[n] = hex.EncodeToString(sum[:])
	}
	if measured[0] != measured[1] {
		t.Errorf("two builds: %s and %s", measured[0], measured[1])
	}
}

func FuzzParseImage(f *testing.F) {
	f.Add(small(f, enclave.Options{}).Encode())
	f.Add(smallest)
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := enclave.Parse(b)
		if err == nil && !bytes.Equal(i.Encode(), b) {
			t.Error("an accepted image is written differently")
		}
	})
}

func FuzzModule(f *testing.F) {
	f.Add(smallest)
	f.Add(importing("assay", 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := enclave.New(b, enclave.Options{}); err == nil && !bytes.Contains(b, []byte("memory")) {
			t.Error("a module without exported memory was accepted")
		}
	})
}

func FuzzStream(f *testing.F) {
	f.Add(sdm())
	f.Add(record("ECREATE", uint32(1), uint64(0x4000)))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := enclave.MeasureStream(bytes.NewReader(b))
		if err == nil && s.Unmeasured == 0 && s.MRENCLAVE != sha256.Sum256(b) {
			t.Error("the measurement is not the hash of the stream")
		}
	})
}
