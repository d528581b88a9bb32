package sdk

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/assay-attest/assay/enclave/sdk/boundary"
)

// What Outside encodes by hand is what package boundary encodes, which the monitor decodes with.
func TestOperationsAreEncodedAsTheBoundaryHasThem(t *testing.T) {
	le := binary.LittleEndian
	path := []byte("/etc/\xffname")
	for what, c := range map[string]struct {
		value any
		hand  []byte
	}{
		"open":    {boundary.Open{Path: path, Flags: 1}, le.AppendUint32(appendBytes(nil, path), 1)},
		"read-at": {boundary.ReadAt{FD: -7, Offset: 1 << 40}, le.AppendUint64(le.AppendUint32(nil, 0xfffffff9), 1<<40)},
		"list":    {boundary.List{FD: 7, Cookie: 1 << 63}, le.AppendUint64(le.AppendUint32(nil, 7), 1<<63)},
		"stat":    {boundary.StatOf{Path: path, Follow: true}, append(appendBytes(nil, path), 1)},
		"close":   {boundary.Close{FD: 9}, le.AppendUint32(nil, 9)},
	} {
		if want, err := boundary.Encode(c.value); err != nil || !bytes.Equal(want, c.hand) {
			t.Errorf("%s: %x, want %x, %v", what, c.hand, want, err)
		}
	}
	st := Stat{Mode: 1, UID: 2, GID: 3, Size: -4, CTime: 5, Dev: 6, Ino: 7}
	b, err := boundary.Encode(st)
	if err != nil || len(b) != statSize || parseStat(b) != st {
		t.Errorf("%+v of %d bytes, %v", parseStat(b), len(b), err)
	}
	if b, err = boundary.Encode(boundary.FileHead{Before: st}); err != nil || len(b) != FileHeadSize || parseStat(b[1:]) != st {
		t.Errorf("a head of %d bytes, %v", len(b), err)
	}
}
