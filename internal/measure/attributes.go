package measure

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// attributes returns the canonical record of a path's attributes, one line each, as text:
//
//	type file|directory|link|other
//	mode 4755                  permission, set-id and sticky bits, octal (AttrMode)
//	owner 0 0                  uid and gid (AttrOwner)
//	target /usr/bin/x          of a link, in text form (AttrLinks)
//	xattr security.capability 0100…   name in text form, value in hex; ascending (AttrXattrs)
//
// A link's own mode means nothing and is left out.
func (r *run) attributes(path []byte, want []string) ([]byte, rats.Code) {
	st, code := r.system.Stat(path, false)
	if code != "" {
		return nil, code
	}
	kind := entryType(st.Mode)
	out := fmt.Appendf(nil, "type %s\n", map[uint8]string{EntryFile: "file", EntryDir: "directory", EntrySymlink: "link", EntryOther: "other"}[kind])
	if slices.Contains(want, plan.AttrMode) && kind != EntrySymlink {
		out = fmt.Appendf(out, "mode %04o\n", st.Mode&0o7777)
	}
	if slices.Contains(want, plan.AttrOwner) {
		out = fmt.Appendf(out, "owner %d %d\n", st.UID, st.GID)
	}
	if slices.Contains(want, plan.AttrLinks) && kind == EntrySymlink {
		target, code := r.told(path, OpenLink, plan.MaxName)
		if code != "" {
			return nil, code
		}
		out = fmt.Appendf(out, "target %s\n", rats.EscapePath(target))
	}
	if slices.Contains(want, plan.AttrXattrs) {
		list, code := r.xattrs(path)
		if code != "" {
			return nil, code
		}
		for _, x := range list {
			out = fmt.Appendf(out, "xattr %s %x\n", rats.EscapePath(x.name), x.value)
		}
	}
	// Whoever swaps the file between the questions shows in its change time.
	if after, code := r.system.Stat(path, false); code != "" || after != st {
		return nil, CodeChanged.Code
	}
	return out, ""
}

type xattr struct{ name, value []byte }

// xattrs returns the extended attributes of a path, ascending by name. What the outside sends is checked.
func (r *run) xattrs(path []byte) ([]xattr, rats.Code) {
	b, code := r.told(path, OpenXattrs, 2<<20)
	if code != "" {
		return nil, code
	}
	var out []xattr
	for len(b) > 0 {
		if len(b) < 2 {
			return nil, CodeContent.Code
		}
		n := int(binary.LittleEndian.Uint16(b))
		if b = b[2:]; n == 0 || len(b) < n+4 {
			return nil, CodeContent.Code
		}
		x := xattr{name: b[:n]}
		size := binary.LittleEndian.Uint32(b[n:])
		if b = b[n+4:]; uint64(size) > uint64(len(b)) {
			return nil, CodeContent.Code
		}
		x.value, b = b[:size], b[size:]
		if len(out) > 0 && bytes.Compare(out[len(out)-1].name, x.name) >= 0 {
			return nil, CodeContent.Code
		}
		out = append(out, x)
	}
	return out, ""
}

// told reads what OpenLink or OpenXattrs tell of a path.
func (r *run) told(path []byte, flags uint32, most int) ([]byte, rats.Code) {
	fd, code := r.system.Open(path, flags)
	if code != "" {
		return nil, code
	}
	defer r.system.Close(fd)
	return r.drain(fd, most)
}

// drain reads a descriptor to its end, at most most bytes; what is read counts against the run's limit.
func (r *run) drain(fd int32, most int) ([]byte, rats.Code) {
	var out []byte
	for {
		if r.ctx.Err() != nil {
			return nil, CodeTime.Code
		}
		out = slices.Grow(out, 4096)
		p := out[len(out):cap(out)]
		n, code := r.system.ReadAt(fd, p, int64(len(out)))
		switch {
		case code != "":
			return nil, code
		case n < 0 || n > len(p):
			return nil, CodeSystem.Code
		case n == 0:
			return out, ""
		}
		if r.left.Add(-int64(n)) < 0 || len(out)+n > most {
			return nil, CodeBytes.Code
		}
		out = out[:len(out)+n]
	}
}
