package ima

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
)

// asciiSource reads ascii_runtime_measurements, or one of the lists by bank of newer kernels: per line the PCR, the
// template digest in hex, the template's name and its fields. It makes the template data that the digest is of.
type asciiSource struct {
	b    []byte
	n    int
	data []byte
	sum  [64]byte
	old  []byte
}

// sumSizes are the sizes of template digests.
var sumSizes = map[int]string{20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}

func (s *asciiSource) next(r *record) (bool, error) {
	for s.n < len(s.b) && s.b[s.n] == '\n' { // a list that was copied by hand ends with empty lines
		s.n++
	}
	if s.n == len(s.b) {
		return false, nil
	}
	r.offset = s.n
	line, _, _ := bytes.Cut(s.b[s.n:], []byte("\n"))
	bad := func(expected, seen string) (bool, error) {
		return false, CodeMalformed.Bad(fmt.Sprintf("offset %d", r.offset), expected, clip(seen, 160))
	}
	if len(line) > 4*maxData {
		return bad("a shorter line", fmt.Sprintf("%d bytes", len(line)))
	}
	s.n = min(s.n+len(line)+1, len(s.b))
	head := bytes.SplitN(bytes.TrimLeft(line, " "), []byte(" "), 4)
	if len(head) < 4 {
		return bad("PCR, template digest, template and fields", strconv.Quote(clip(string(line), 80)))
	}
	pcr, err := strconv.Atoi(string(head[0]))
	if err != nil || pcr < 0 || pcr > maxPCR {
		return bad(fmt.Sprintf("a PCR up to %d", maxPCR), strconv.Quote(clip(string(head[0]), 40)))
	}
	n := 0
	if len(head[1]) <= 2*len(s.sum) {
		n, err = hex.Decode(s.sum[:], head[1])
	}
	if err != nil || sumSizes[n] == "" {
		return bad("a template digest in hex", strconv.Quote(clip(string(head[1]), 140)))
	}
	t, ok := templateOf(head[2])
	if !ok {
		return false, CodeTemplate.Bad(fmt.Sprintf("offset %d", r.offset), "a known template", fmt.Sprintf("%.64q", head[2]))
	}
	r.PCR, r.sum, r.template = pcr, s.sum[:n], t
	if t.old {
		digest, name, ok := bytes.Cut(head[3], []byte(" "))
		d, err := hex.DecodeString(string(digest))
		if !ok || err != nil || len(d) > 20 || len(name) > 255 {
			return bad("a digest of at most 20 bytes and a name of at most 255", strconv.Quote(clip(string(head[3]), 80)))
		}
		s.old = r.setOld(s.old, append(d, make([]byte, 20-len(d))...), name)
		return true, nil
	}
	values := bytes.SplitN(head[3], []byte(" "), len(t.fields)+1)
	for len(values) < len(t.fields) && len(t.fields)-len(values) <= 2 {
		values = append(values, nil) // trailing empty fields lose their spaces when a list is copied
	}
	if len(values) != len(t.fields) {
		return bad(fmt.Sprintf("%d fields of template %s", len(t.fields), t.name), fmt.Sprintf("%d fields", len(values)))
	}
	s.data = s.data[:0]
	for i, f := range t.fields {
		if s.data, err = appendField(s.data, f, values[i]); err != nil {
			return bad(fmt.Sprintf("field %d of template %s", i+1, t.name), err.Error())
		}
	}
	r.data = s.data
	return true, r.decode(r.offset)
}

// appendField appends the binary form of a field to template data.
func appendField(b []byte, f field, text []byte) ([]byte, error) {
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	switch f {
	case fieldDigest, fieldDigest2, fieldModDigest:
		if len(text) == 0 && f == fieldModDigest {
			break
		}
		i := bytes.LastIndexByte(text, ':')
		if i < 0 {
			return nil, fmt.Errorf("digest without algorithm")
		}
		sum, err := hex.DecodeString(string(text[i+1:]))
		if err != nil {
			return nil, fmt.Errorf("digest that is not hex")
		}
		b = append(append(append(b, text[:i+1]...), 0), sum...)
	case fieldName:
		b = append(append(b, text...), 0)
	case fieldXattrNames:
		if len(text) > 0 {
			b = append(append(b, text...), 0)
		}
	case fieldUID, fieldGID, fieldMode:
		if len(text) == 0 {
			break
		}
		v, err := strconv.ParseUint(string(text), 10, 32)
		if err != nil || f == fieldMode && v > 0xffff {
			return nil, fmt.Errorf("number %.20q", text)
		}
		if f == fieldMode {
			b = binary.LittleEndian.AppendUint16(b, uint16(v))
		} else {
			b = binary.LittleEndian.AppendUint32(b, uint32(v))
		}
	default:
		sum, err := hex.DecodeString(string(text))
		if err != nil {
			return nil, fmt.Errorf("bytes that are not hex")
		}
		b = append(b, sum...)
	}
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b, nil
}
