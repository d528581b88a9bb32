package enclave

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"

	"github.com/assay-attest/assay/enclave/abi"
)

// Bounds of an image.
const (
	MaxModule  = 64 << 20 // bytes of WebAssembly
	MaxHeap    = 4 << 30  // bytes of linear memory
	MaxBuffer  = 16 << 20 // bytes of marshalling buffer
	MaxTCS     = 16
	WasmPage   = 64 << 10
	headerSize = 128
	version    = 1
)

// What an image without other options has.
const (
	DefaultHeap   = 256 << 20
	DefaultBuffer = 1 << 20
	DefaultXFRM   = 3 // x87 and SSE, which SGX demands of every enclave
)

var magic = [8]byte{'A', 'S', 'S', 'A', 'Y', 'E', 'N', 'C'}

// Options are what an enclave is built with. Heap, Buffer and TCS are measured. The rest are only the defaults that
// signing starts from: they stand in the file, not in the measurement.
type Options struct {
	Heap       uint64 // most bytes of linear memory, a multiple of 64 KiB; 0: DefaultHeap
	Buffer     uint32 // bytes of the marshalling buffer, a multiple of 4 KiB; 0: DefaultBuffer
	TCS        uint16 // how many calls may be inside at a time; 0: 1, and a Go guest can't have more
	ProductID  uint16
	SVN        uint16
	MiscSelect uint32
	Attributes abi.Attributes // 0: INIT, MODE64BIT and DefaultXFRM
}

// Image is an enclave before it is signed: a WebAssembly module and its options.
type Image struct {
	Options Options
	Module  []byte
}

// header is the head of an image file (128 bytes, little-endian). The fields up to Buffer and TCS, and the module's
// digest, are measured; the defaults for signing read as zero in the measured page.
type header struct {
	Magic      [8]byte
	Version    uint16
	Size       uint16
	Module     uint32
	Heap       uint64
	Buffer     uint32
	TCS        uint16
	ProductID  uint16
	SVN        uint16
	Reserved1  uint16
	MiscSelect uint32
	Attributes abi.Attributes
	Digest     [32]byte // SHA-256 of the module
	Reserved2  [40]byte
}

// New makes an image of a module and checks both. The module is kept, not copied.
func New(module []byte, o Options) (*Image, error) {
	if o.Heap == 0 {
		o.Heap = DefaultHeap
	}
	if o.Buffer == 0 {
		o.Buffer = DefaultBuffer
	}
	if o.TCS == 0 {
		o.TCS = 1
	}
	if o.Attributes == (abi.Attributes{}) {
		o.Attributes = abi.Attributes{Flags: abi.FlagInit | abi.FlagMode64, XFRM: DefaultXFRM}
	}
	i := &Image{Options: o, Module: module}
	return i, i.check()
}

func (i *Image) check() error {
	o := i.Options
	switch {
	case len(i.Module) == 0 || len(i.Module) > MaxModule:
		return CodeImageSize.Bad("module", fmt.Sprintf("1 to %d bytes", MaxModule), fmt.Sprint(len(i.Module)))
	case o.Heap == 0 || o.Heap > MaxHeap || o.Heap%WasmPage != 0:
		return CodeImageSize.Bad("heap", fmt.Sprintf("a multiple of %d up to %d bytes", WasmPage, int64(MaxHeap)), fmt.Sprint(o.Heap))
	case o.Buffer == 0 || o.Buffer > MaxBuffer || o.Buffer%PageSize != 0:
		return CodeImageSize.Bad("buffer", fmt.Sprintf("a multiple of %d up to %d bytes", PageSize, MaxBuffer), fmt.Sprint(o.Buffer))
	case o.TCS == 0 || o.TCS > MaxTCS:
		return CodeImageSize.Bad("tcs", fmt.Sprintf("1 to %d", MaxTCS), fmt.Sprint(o.TCS))
	}
	return checkModule(i.Module, o.Heap)
}

func (i *Image) header() header {
	o := i.Options
	return header{
		Magic: magic, Version: version, Size: headerSize, Module: uint32(len(i.Module)), Heap: o.Heap, Buffer: o.Buffer, TCS: o.TCS,
		ProductID: o.ProductID, SVN: o.SVN, MiscSelect: o.MiscSelect, Attributes: o.Attributes, Digest: sha256.Sum256(i.Module),
	}
}

// Encode returns the image file: the header and the module.
func (i *Image) Encode() []byte {
	return append(headerBytes(i.header()), i.Module...)
}

func headerBytes(h header) []byte {
	b, err := binary.Append(make([]byte, 0, headerSize), binary.LittleEndian, &h)
	if err != nil { // integers and byte arrays only
		panic(err)
	}
	return b
}

// Parse reads an image file and refuses everything that New and Encode would not have made. The image shares the
// memory of b.
func Parse(b []byte) (*Image, error) {
	if len(b) < headerSize {
		return nil, CodeImage.Bad(fmt.Sprintf("image at byte %d", len(b)), fmt.Sprintf("a header of %d bytes", headerSize), fmt.Sprintf("%d bytes", len(b)))
	}
	var h header
	if _, err := binary.Decode(b[:headerSize], binary.LittleEndian, &h); err != nil {
		return nil, fmt.Errorf("decoding the header of an enclave image: %w", err)
	}
	module := b[headerSize:]
	switch {
	case h.Magic != magic:
		return nil, CodeImage.Bad("image at byte 0", fmt.Sprintf("%q", magic), fmt.Sprintf("%q", h.Magic))
	case h.Version != version || h.Size != headerSize:
		return nil, CodeImage.Bad("image at byte 8", fmt.Sprintf("version %d", version), fmt.Sprintf("version %d with a header of %d bytes", h.Version, h.Size))
	case uint64(h.Module) != uint64(len(module)):
		return nil, CodeImage.Bad("image at byte 12", fmt.Sprintf("a module of %d bytes", h.Module), fmt.Sprintf("%d bytes", len(module)))
	case h.Reserved1 != 0 || !zero(h.Reserved2[:]):
		return nil, CodeImage.Bad("image at byte 34", "reserved bytes that are zero", "others")
	case h.Digest != sha256.Sum256(module):
		return nil, CodeImage.Bad("image at byte 56", "the digest of the module", "another")
	}
	i := &Image{Module: module, Options: Options{
		Heap: h.Heap, Buffer: h.Buffer, TCS: h.TCS, ProductID: h.ProductID, SVN: h.SVN, MiscSelect: h.MiscSelect, Attributes: h.Attributes,
	}}
	return i, i.check()
}

// IsImage says cheaply whether b could be an image file.
func IsImage(b []byte) bool { return len(b) >= headerSize && bytes.Equal(b[:len(magic)], magic[:]) }

// Layout says where what lies in the enclave's address range, in pages of 4 KiB.
//
//	0        configuration: the header, without the defaults for signing; R, measured
//	1…       the module, padded with zeroes; R, measured
//	then     one TCS for each call that may be inside; measured
//	then     the heap, RW: added, its content (zeroes) not measured
type Layout struct {
	Module, TCS, Heap Region
	Size              uint64 // of the address range in bytes: a power of two
}

// Region is a run of pages.
type Region struct {
	Offset, Pages uint64
	Flags         uint64
}

// Layout returns where the image's parts lie.
func (i *Image) Layout() Layout {
	l := Layout{
		Module: Region{Offset: PageSize, Pages: (uint64(len(i.Module)) + PageSize - 1) / PageSize, Flags: PageREG | PageR},
	}
	l.TCS = Region{Offset: l.Module.end(), Pages: uint64(i.Options.TCS), Flags: PageTCS}
	l.Heap = Region{Offset: l.TCS.end(), Pages: i.Options.Heap / PageSize, Flags: PageREG | PageR | PageW}
	l.Size = 1 << bits.Len64(l.Heap.end()-1)
	return l
}

func (r Region) end() uint64 { return r.Offset + r.Pages*PageSize }

// WriteStream writes the image's record stream (.sgxs), whose SHA-256 is the MRENCLAVE. The heap's pages are added and
// not extended: a stream of a 256 MiB heap has 4 MiB of them.
func (i *Image) WriteStream(w io.Writer) error {
	l := i.Layout()
	r := &records{w: w}
	r.create(1, l.Size)
	h := i.header()
	h.ProductID, h.SVN, h.MiscSelect, h.Attributes = 0, 0, 0, abi.Attributes{}
	var page [PageSize]byte
	copy(page[:], headerBytes(h))
	r.page(0, PageREG|PageR, &page)
	for n := range l.Module.Pages {
		clear(page[:])
		copy(page[:], i.Module[n*PageSize:])
		r.page(l.Module.Offset+n*PageSize, l.Module.Flags, &page)
	}
	for n := range l.TCS.Pages {
		page = tcsPage(l, n)
		r.page(l.TCS.Offset+n*PageSize, l.TCS.Flags, &page)
	}
	for n := range l.Heap.Pages {
		r.add(l.Heap.Offset+n*PageSize, l.Heap.Flags)
	}
	return r.err
}

// tcsPage returns a thread control structure (SDM 3D, 34.8). A WebAssembly guest has neither stack frames nor segments
// in it; what remains is the offset of the code and of the save area, so that pages of different threads differ.
func tcsPage(l Layout, n uint64) (page [PageSize]byte) {
	binary.LittleEndian.PutUint64(page[16:], l.Heap.Offset)      // OSSA
	binary.LittleEndian.PutUint32(page[28:], 1)                  // NSSA
	binary.LittleEndian.PutUint64(page[32:], l.Module.Offset)    // OENTRY
	binary.LittleEndian.PutUint64(page[48:], l.TCS.Offset+n)     // OFSBASE
	binary.LittleEndian.PutUint32(page[64:], uint32(PageSize-1)) // FSLIMIT
	binary.LittleEndian.PutUint32(page[68:], uint32(PageSize-1)) // GSLIMIT
	return page
}

// Measure returns the image's MRENCLAVE.
func (i *Image) Measure() [32]byte {
	h := sha256.New()
	if err := i.WriteStream(h); err != nil { // a hash doesn't fail
		panic(err)
	}
	return [32]byte(h.Sum(nil))
}
