package enclave

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/bits"
)

// Sizes of the record stream that MRENCLAVE is the SHA-256 of (SDM 3D, ECREATE, EADD and EEXTEND).
const (
	PageSize   = 4096
	recordSize = 64
	chunkSize  = 256 // what one EEXTEND covers
)

// Flags of a page (SDM 3D, 34.12.1): access rights and, from bit 8 on, the type.
const (
	PageR   = 1 << 0
	PageW   = 1 << 1
	PageX   = 1 << 2
	PageTCS = 1 << 8
	PageREG = 2 << 8

	pageTypeShift = 8
	pageFlagsMask = 0xff<<pageTypeShift | PageR | PageW | PageX
)

// pageTypes are the types that EADD takes: TCS, REG, and the two of shadow stacks.
var pageTypes = map[uint64]bool{1: true, 2: true, 5: true, 6: true}

// The tags of records. UNMEASRD is what the Fortanix tools write for content that is loaded and not measured.
var (
	tagCreate     = [8]byte{'E', 'C', 'R', 'E', 'A', 'T', 'E'}
	tagAdd        = [8]byte{'E', 'A', 'D', 'D'}
	tagExtend     = [8]byte{'E', 'E', 'X', 'T', 'E', 'N', 'D'}
	tagUnmeasured = [8]byte{'U', 'N', 'M', 'E', 'A', 'S', 'R', 'D'}
)

// maxPages bounds a stream: 16 GiB of enclave.
const maxPages = 1 << 22

// records writes records.
type records struct {
	w   io.Writer
	err error
}

func (r *records) write(b []byte) {
	if r.err == nil {
		_, r.err = r.w.Write(b)
	}
}

// create writes what ECREATE measures: the size of a state save area in pages and the size of the enclave in bytes.
func (r *records) create(ssaFrame uint32, size uint64) {
	var b [recordSize]byte
	copy(b[:], tagCreate[:])
	binary.LittleEndian.PutUint32(b[8:], ssaFrame)
	binary.LittleEndian.PutUint64(b[12:], size)
	r.write(b[:])
}

// add writes what EADD measures: the page's offset and the first 48 bytes of its SECINFO, which are its flags.
func (r *records) add(offset, flags uint64) {
	var b [recordSize]byte
	copy(b[:], tagAdd[:])
	binary.LittleEndian.PutUint64(b[8:], offset)
	binary.LittleEndian.PutUint64(b[16:], flags)
	r.write(b[:])
}

// page writes a page with its content measured: EADD and sixteen times EEXTEND, each followed by 256 bytes.
func (r *records) page(offset, flags uint64, content *[PageSize]byte) {
	r.add(offset, flags)
	for at := uint64(0); at < PageSize; at += chunkSize {
		var b [recordSize]byte
		copy(b[:], tagExtend[:])
		binary.LittleEndian.PutUint64(b[8:], offset+at)
		r.write(b[:])
		r.write(content[at : at+chunkSize])
	}
}

// Stream describes a record stream.
type Stream struct {
	MRENCLAVE  [32]byte
	SSAFrame   uint32 // pages
	Size       uint64 // bytes, a power of two
	Pages      int    // added
	TCS        int    // of them
	Measured   int64  // bytes of content that are measured
	Unmeasured int64  // bytes of content that are loaded and not measured: anything may stand there
	Writable   bool   // some page is writable and executable
}

// MeasureStream reads a record stream (.sgxs) to its end and returns its measurement. It refuses what the processor
// would: a size that is no power of two, pages outside it, unaligned, of another type, or added twice, content of pages
// that were not added, and any non-zero reserved byte. Errors carry the byte offset.
func MeasureStream(r io.Reader) (Stream, error) {
	p := &streamParser{r: bufio.NewReaderSize(r, 1<<16), hash: sha256.New(), added: make(map[uint64]bool)}
	if err := p.run(); err != nil {
		return Stream{}, err
	}
	p.hash.Sum(p.out.MRENCLAVE[:0])
	return p.out, nil
}

type streamParser struct {
	r     *bufio.Reader
	hash  hash.Hash
	at    int64
	added map[uint64]bool // by page number
	out   Stream
}

func (p *streamParser) run() error {
	for {
		var b [recordSize]byte
		n, err := io.ReadFull(p.r, b[:])
		switch {
		case errors.Is(err, io.EOF):
			if p.at == 0 {
				return p.bad("an ECREATE record", "an empty stream")
			}
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return p.bad("a record of 64 bytes", fmt.Sprintf("%d bytes", n))
		case err != nil:
			return fmt.Errorf("reading a record stream: %w", err)
		}
		if err := p.record(&b); err != nil {
			return err
		}
	}
}

func (p *streamParser) record(b *[recordSize]byte) error {
	tag := [8]byte(b[:8])
	if (tag == tagCreate) != (p.at == 0) {
		return p.bad("one ECREATE record, at the beginning", fmt.Sprintf("tag %.8q", tag[:]))
	}
	switch tag {
	case tagCreate:
		return p.create(b)
	case tagAdd:
		return p.add(b)
	case tagExtend, tagUnmeasured:
		return p.content(b, tag == tagExtend)
	}
	return p.bad("ECREATE, EADD, EEXTEND or UNMEASRD", fmt.Sprintf("tag %.8q", tag[:]))
}

// consume hashes a record, if it is measured, and moves on.
func (p *streamParser) consume(b []byte, measured bool) {
	if measured {
		p.hash.Write(b)
	}
	p.at += int64(len(b))
}

func (p *streamParser) create(b *[recordSize]byte) error {
	p.out.SSAFrame, p.out.Size = binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint64(b[12:])
	if !zero(b[20:]) {
		return p.bad("44 zero bytes at the end of ECREATE", "others")
	}
	if bits.OnesCount64(p.out.Size) != 1 || p.out.Size < 2*PageSize || p.out.SSAFrame == 0 {
		return p.bad("a size that is a power of two and a save area", fmt.Sprintf("size %d, save area of %d pages", p.out.Size, p.out.SSAFrame))
	}
	p.consume(b[:], true)
	return nil
}

func (p *streamParser) add(b *[recordSize]byte) error {
	offset, flags := binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])
	if !zero(b[24:]) {
		return p.bad("40 zero bytes at the end of EADD", "others")
	}
	seen := fmt.Sprintf("offset 0x%x, flags 0x%x", offset, flags)
	switch {
	case offset%PageSize != 0 || offset >= p.out.Size:
		return p.badPage(fmt.Sprintf("an aligned offset below 0x%x", p.out.Size), seen)
	case flags&^uint64(pageFlagsMask) != 0 || !pageTypes[flags>>pageTypeShift]:
		return p.badPage("flags of a page of type TCS, REG, SS_FIRST or SS_REST", seen)
	case flags&(PageR|PageW) == PageW:
		return p.badPage("a writable page to be readable", seen)
	case p.added[offset/PageSize]:
		return p.badPage("each page once", seen)
	case p.out.Pages == maxPages:
		return p.badPage(fmt.Sprintf("at most %d pages", maxPages), "more")
	}
	p.added[offset/PageSize] = true
	p.out.Pages++
	if flags>>pageTypeShift == 1 {
		p.out.TCS++
	}
	p.out.Writable = p.out.Writable || flags&(PageW|PageX) == PageW|PageX
	p.consume(b[:], true)
	return nil
}

func (p *streamParser) content(b *[recordSize]byte, measured bool) error {
	offset := binary.LittleEndian.Uint64(b[8:])
	if !zero(b[16:]) {
		return p.bad("48 zero bytes at the end of EEXTEND", "others")
	}
	if offset%chunkSize != 0 || !p.added[offset/PageSize] {
		return p.badPage("an aligned offset in a page that was added", fmt.Sprintf("offset 0x%x", offset))
	}
	p.consume(b[:], measured)
	var data [chunkSize]byte
	n, err := io.ReadFull(p.r, data[:])
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return p.bad("256 bytes of content", fmt.Sprintf("%d bytes", n))
	}
	if err != nil {
		return fmt.Errorf("reading a record stream: %w", err)
	}
	p.consume(data[:], measured)
	if measured {
		p.out.Measured += chunkSize
	} else {
		p.out.Unmeasured += chunkSize
	}
	return nil
}

func (p *streamParser) bad(expected, seen string) error {
	return CodeStream.Bad(fmt.Sprintf("stream at byte %d", p.at), expected, seen)
}

func (p *streamParser) badPage(expected, seen string) error {
	return CodeStreamPage.Bad(fmt.Sprintf("stream at byte %d", p.at), expected, seen)
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
