package vm

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/assay-attest/assay/rats"
)

// Authenticode computes the digest that UEFI firmware measures of an image into PCR 4, and that a signature of it is
// over: all but the checksum, the entry of the signatures' directory, and the signatures (Windows Authenticode
// Portable Executable Signature Format, "Calculating the PE Image Hash"). An image with gaps between its
// sections, of which the format says something else than firmware does, is refused.
func Authenticode(image []byte) (rats.Digest, error) {
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		return rats.Digest{}, fmt.Errorf("hashing an image: %w", err)
	}
	opt, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || opt.NumberOfRvaAndSizes <= pe.IMAGE_DIRECTORY_ENTRY_SECURITY {
		return rats.Digest{}, errors.New("hashing an image: it is not one of 64 bits with a directory of signatures")
	}
	optional := int(binary.LittleEndian.Uint32(image[0x3c:])) + 4 + binary.Size(f.FileHeader)
	checksum := optional + 64
	entry := optional + 112 + 8*pe.IMAGE_DIRECTORY_ENTRY_SECURITY
	end := len(image)
	if signatures := opt.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_SECURITY]; signatures.Size > 0 {
		if end = int(signatures.VirtualAddress); end < entry+8 || end > len(image) { // an offset in the file, this once
			return rats.Digest{}, errors.New("hashing an image: its signatures lie outside of it")
		}
	}
	at := opt.SizeOfHeaders
	for _, s := range f.Sections {
		if s.Size > 0 && s.Offset != at {
			return rats.Digest{}, fmt.Errorf("hashing an image: section %s begins at %#x, expected %#x", s.Name, s.Offset, at)
		}
		at += s.Size
	}
	if int(at) > end {
		return rats.Digest{}, errors.New("hashing an image: it ends within a section")
	}
	h := sha256.New()
	h.Write(image[:checksum])
	h.Write(image[checksum+4 : entry])
	h.Write(image[entry+8 : end])
	return rats.Digest{Alg: "sha256", Sum: h.Sum(nil)}, nil
}
