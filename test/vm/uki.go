package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"unicode/utf16"
)

// Unified makes a unified kernel image: systemd's EFI stub with kernel, command line and initramfs as sections, in one
// file that firmware loads, measures and, with Secure Boot, checks as a whole (UAPI.5, Unified Kernel Image).
func Unified(t Tools, cmdline string, initrd []byte) ([]byte, error) {
	stub, err := os.ReadFile(t.Stub)
	if err != nil {
		return nil, fmt.Errorf("reading the EFI stub: %w", err)
	}
	kernel, err := os.ReadFile(t.Kernel.Image)
	if err != nil {
		return nil, fmt.Errorf("reading the kernel: %w", err)
	}
	image, err := appendSections(stub, []section{
		{".osrel", []byte("ID=assay-guest\nNAME=\"guest of a test\"\nVERSION_ID=1\n")},
		{".cmdline", []byte(cmdline)},
		{".linux", kernel},
		{".initrd", initrd},
	})
	if err != nil {
		return nil, fmt.Errorf("making a unified kernel image: %w", err)
	}
	return image, nil
}

type section struct {
	name string
	data []byte
}

// page is the alignment of sections in memory; the stub's own may be less.
const page = 4096

// appendSections adds data sections to a PE image (PE Format, sections "Optional Header" and "Section Table"). The new
// headers must fit before the first section.
func appendSections(image []byte, add []section) ([]byte, error) {
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	opt, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return nil, errors.New("the image is not one of 64 bits")
	}
	coff := int(binary.LittleEndian.Uint32(image[0x3c:])) + 4
	optional := coff + binary.Size(f.FileHeader)
	table := optional + int(f.SizeOfOptionalHeader)
	end, first, last := uint32(0), opt.SizeOfHeaders, opt.SizeOfHeaders
	for _, s := range f.Sections {
		end, last = max(end, s.VirtualAddress+s.VirtualSize), max(last, s.Offset+s.Size)
	}
	const headerSize = 40
	if table+headerSize*(len(f.Sections)+len(add)) > int(first) {
		return nil, fmt.Errorf("no room for %d section headers", len(add))
	}
	if int(last) > len(image) {
		return nil, errors.New("a section lies outside of the image")
	}
	// Symbols follow the sections. They would be a gap between sections, which firmware hashes in its own way.
	out := bytes.Clone(image[:last])
	clear(out[coff+8 : coff+16]) // PointerToSymbolTable, NumberOfSymbols
	for i, s := range add {
		out = append(out, make([]byte, -len(out)&int(opt.FileAlignment-1))...)
		h := pe.SectionHeader32{
			VirtualSize: uint32(len(s.data)), VirtualAddress: align(end, max(page, opt.SectionAlignment)),
			SizeOfRawData: align(uint32(len(s.data)), opt.FileAlignment), PointerToRawData: uint32(len(out)),
			Characteristics: pe.IMAGE_SCN_CNT_INITIALIZED_DATA | pe.IMAGE_SCN_MEM_READ,
		}
		copy(h.Name[:], s.name)
		if _, err := binary.Encode(out[table+headerSize*(len(f.Sections)+i):], binary.LittleEndian, h); err != nil {
			return nil, err
		}
		out = append(out, s.data...)
		out = append(out, make([]byte, int(h.SizeOfRawData)-len(s.data))...)
		end = h.VirtualAddress + h.VirtualSize
	}
	binary.LittleEndian.PutUint16(out[coff+2:], f.NumberOfSections+uint16(len(add)))
	binary.LittleEndian.PutUint32(out[optional+56:], align(end, max(page, opt.SectionAlignment))) // SizeOfImage
	binary.LittleEndian.PutUint32(out[optional+64:], 0)                                           // CheckSum: unused by firmware
	return out, nil
}

func align(n, to uint32) uint32 { return (n + to - 1) &^ (to - 1) }

// snakeoil is the passphrase of the key that Debian's firmware package publishes, with the key, for tests.
const snakeoil = "snakeoil"

// Sign signs an image with the published test key whose certificate the SecureBoot tier's firmware trusts. dir is for
// files on the way.
func Sign(ctx context.Context, t Tools, dir string, image []byte) ([]byte, error) {
	dir, err := os.MkdirTemp(dir, "sign-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	in, key, out := filepath.Join(dir, "in.efi"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "out.efi")
	if err := os.WriteFile(in, image, 0o600); err != nil {
		return nil, err
	}
	for _, argv := range [][]string{
		{t.OpenSSL, "pkey", "-in", t.SecureKey, "-passin", "pass:" + snakeoil, "-out", key},
		{t.Sbsign, "--key", key, "--cert", t.SecureCert, "--output", out, in},
	} {
		if text, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("signing with %s: %w: %s", filepath.Base(argv[0]), err, text)
		}
	}
	return os.ReadFile(out)
}

// PCR9 computes, without a boot, the value that PCR 9 (sha256, hex) has after the OVMF tier booted: the kernel's EFI stub
// measures its command line, as QEMU hands it over, and then the initramfs.
func PCR9(cmdline string, initrd []byte) string {
	options, err := binary.Append(nil, binary.LittleEndian, utf16.Encode([]rune(cmdline+" initrd=initrd\x00")))
	if err != nil {
		panic(err) // a slice of integers always encodes
	}
	var pcr [sha256.Size]byte
	for _, b := range [][]byte{options, initrd} {
		d := sha256.Sum256(b)
		pcr = sha256.Sum256(append(pcr[:], d[:]...))
	}
	return hex.EncodeToString(pcr[:])
}
