package measure

import "encoding/binary"

// ListBuffer is the least size of List's buffer: room for several of the longest entries.
const ListBuffer = 4096

// Entry is one record of List's buffer: u64 cookie of the next entry ‖ u8 type ‖ u16 length ‖ name, little-endian.
type Entry struct {
	Next uint64
	Type uint8
	Name []byte
}

// Types of entries. EntryUnknown: the file system doesn't say; ask Stat.
const (
	EntryUnknown uint8 = iota
	EntryFile
	EntryDir
	EntrySymlink
	EntryOther
)

const entryHeader = 11

func (e Entry) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, e.Next)
	b = append(b, e.Type)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(e.Name)))
	return append(b, e.Name...)
}

// nextEntry reads one record. It is false for a record that is cut off, or has no usable name: the buffer comes from
// outside.
func nextEntry(b []byte) (e Entry, rest []byte, ok bool) {
	if len(b) < entryHeader {
		return Entry{}, nil, false
	}
	n := int(binary.LittleEndian.Uint16(b[9:]))
	if n == 0 || len(b) < entryHeader+n {
		return Entry{}, nil, false
	}
	e = Entry{Next: binary.LittleEndian.Uint64(b), Type: b[8], Name: b[entryHeader : entryHeader+n : entryHeader+n]}
	for _, c := range e.Name {
		if c == '/' || c == 0 {
			return Entry{}, nil, false
		}
	}
	return e, b[entryHeader+n:], true
}
