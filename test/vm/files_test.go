package vm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/pe"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestArchiveIsWhatTheKernelUnpacks(t *testing.T) {
	var a Archive
	a.File("/bin/tool", 0o755, []byte("five!"))
	a.Link("/bin/other", "tool")
	a.Dir("/empty")
	var b, again bytes.Buffer
	for _, w := range []io.Writer{&b, &again} {
		if _, err := a.Clone().WriteTo(w); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Error("equal archives are different bytes")
	}
	z, err := gzip.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw)%4 != 0 || !bytes.HasPrefix(raw, []byte("070701")) || !bytes.Contains(raw, []byte("TRAILER!!!\x00")) {
		t.Errorf("%d bytes that are no cpio archive", len(raw))
	}
	if got := a.Content("/bin/tool"); string(got) != "five!" || a.Content("/bin/other") != nil || a.Content("/bin") != nil {
		t.Errorf("the content of /bin/tool is %q", got)
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("no busybox to unpack the archive with (package busybox-static)")
	}
	dir := t.TempDir()
	cmd := exec.Command(busybox, "cpio", "-idm")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(raw)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "bin/other")); err != nil || string(got) != "five!" {
		t.Errorf("by way of the link: %q, %v", got, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "bin/tool")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestPayloadHoldsItsFiles(t *testing.T) {
	b, err := Payload(map[string][]byte{"/usr/bin/b": []byte("b"), "/usr/bin/a": []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(b))
	for _, want := range []string{"usr/bin/a", "usr/bin/b"} {
		h, err := r.Next()
		if err != nil || h.Name != want || h.Mode != 0o755 {
			t.Fatalf("%+v, %v, expected %s", h, err, want)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("a third file: %v", err)
	}
}

// stub makes a small PE image of 64 bits with one section and room for others.
func stub(t *testing.T) []byte {
	t.Helper()
	b := make([]byte, 0x40)
	copy(b, "MZ")
	binary.LittleEndian.PutUint32(b[0x3c:], 0x40)
	b = append(b, "PE\x00\x00"...)
	var opt pe.OptionalHeader64
	opt.Magic, opt.SectionAlignment, opt.FileAlignment, opt.SizeOfImage, opt.SizeOfHeaders, opt.NumberOfRvaAndSizes = 0x20b, 0x1000, 0x200, 0x2000, 0x400, 16
	text := pe.SectionHeader32{VirtualSize: 4, VirtualAddress: 0x1000, SizeOfRawData: 0x200, PointerToRawData: 0x400}
	copy(text.Name[:], ".text")
	for _, v := range []any{
		pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 1, SizeOfOptionalHeader: uint16(binary.Size(opt))}, opt, text,
	} {
		var err error
		if b, err = binary.Append(b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	return append(b, make([]byte, 0x600-len(b))...)
}

func TestSectionsAreAppendedToAnImage(t *testing.T) {
	add := []section{{".cmdline", []byte("quiet")}, {".initrd", bytes.Repeat([]byte("x"), 5000)}}
	out, err := appendSections(stub(t), add)
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	end := uint32(0)
	for _, s := range f.Sections {
		if s.VirtualAddress < end || s.VirtualAddress%page != 0 {
			t.Errorf("section %s lies at %#x, the one before ends at %#x", s.Name, s.VirtualAddress, end)
		}
		end = s.VirtualAddress + s.VirtualSize
	}
	for _, a := range add {
		s := f.Section(a.name)
		if s == nil {
			t.Fatalf("no section %s", a.name)
		}
		got, err := s.Data()
		if err != nil || !bytes.Equal(got[:s.VirtualSize], a.data) {
			t.Errorf("section %s holds %d bytes, %v", a.name, len(got), err)
		}
	}
	if opt := f.OptionalHeader.(*pe.OptionalHeader64); opt.SizeOfImage < end {
		t.Errorf("the image has %#x bytes in memory, its sections end at %#x", opt.SizeOfImage, end)
	}
	digest, err := Authenticode(out)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(out)
	changed[len(changed)-1]++
	if d, err := Authenticode(changed); err != nil || d.Equal(digest) {
		t.Errorf("another byte, %v, and the digest is the same", err)
	}
	if _, err := Authenticode(append(stub(t), 0)[:0x300]); err == nil {
		t.Error("a digest was made of half an image")
	}
	many := make([]section, 32)
	if _, err := appendSections(stub(t), many); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("32 sections more: %v", err)
	}
	if _, err := appendSections([]byte("MZ"), add); err == nil {
		t.Error("two bytes were taken for an image")
	}
}

// That the value is the right one is shown by a machine: TestAnotherCommandLineIsRefusedByValueAndByFact.
func TestPCR9DependsOnCommandLineAndInitramfs(t *testing.T) {
	seen := map[string]bool{PCR9("quiet", []byte("i")): true}
	for _, other := range []string{PCR9("quiet ", []byte("i")), PCR9("quiet", []byte("j")), PCR9("", []byte("i"))} {
		if seen[other] || len(other) != 64 {
			t.Errorf("%s is no value of its own", other)
		}
		seen[other] = true
	}
}

func TestFindNamesWhatIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv(KernelDir, t.TempDir())
	_, missing := Find(Shim)
	text := strings.Join(missing, "\n")
	for _, want := range []string{"shim-signed", "grub-efi-amd64-signed", "package qemu-system-x86", "package swtpm", "package busybox-static", "package linux-image-cloud-amd64", "package sbsigntool"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not among what is missing:\n%s", want, text)
		}
	}
}

// That shim reads it is shown by a machine: TestKernelOfAnotherKeyIsRefusedByShimOrNamedByTheVerdict.
func TestVariableIsAddedBehindTheOthers(t *testing.T) {
	store := make([]byte, 1024)
	binary.LittleEndian.PutUint16(store[0x30:], 0x48)
	binary.LittleEndian.PutUint32(store[0x48+16:], 512)
	for i := range store[0x48+28:] {
		store[0x48+28+i] = 0xff
	}
	one, err := ShimVariable(store, "A", []byte("five!"))
	if err != nil {
		t.Fatal(err)
	}
	two, err := EnrolMOK(one, []byte("certificate"))
	if err != nil {
		t.Fatal(err)
	}
	first := 0x48 + 28
	second := (first + 60 + 4 + 5 + 3) &^ 3
	if !bytes.Equal(one[first:first+4], []byte{0xaa, 0x55, 0x3f, 0}) || !bytes.Equal(two[first:second], one[first:second]) || !bytes.Contains(two[second:], []byte("certificate")) {
		t.Errorf("%x", two[first:second+120])
	}
	for name, bad := range map[string][]byte{"no bytes": nil, "no header": make([]byte, 0x48), "other bytes": bytes.Repeat([]byte{1}, 1024)} {
		if _, err := ShimVariable(bad, "A", nil); err == nil {
			t.Errorf("%s was taken for a store", name)
		}
	}
	if _, err := ShimVariable(store, "A", make([]byte, 512)); err == nil {
		t.Error("a variable was added to a full store")
	}
}
