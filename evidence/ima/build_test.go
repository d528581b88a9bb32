package ima

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/rats"
)

// list builds a binary list and keeps PCR 10 as the kernel would.
type list struct {
	b      []byte
	sha1   [20]byte
	sha256 [32]byte
	padded bool // as kernels before 5.8
	count  int
}

func lenField(b, v []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(v))), v...)
}

func dng(prefix string, content []byte) []byte {
	d := sha256.Sum256(content)
	return append([]byte(prefix+"sha256:\x00"), d[:]...)
}

// data returns template data of fields.
func data(fields ...[]byte) []byte {
	var b []byte
	for _, f := range fields {
		b = lenField(b, f)
	}
	return b
}

func (l *list) add(template string, d []byte) *list { return l.addAt(10, template, d) }

func (l *list) addAt(pcr uint32, template string, d []byte) *list {
	sum := sha1.Sum(d)
	l.b = binary.LittleEndian.AppendUint32(l.b, pcr)
	l.b = lenField(append(l.b, sum[:]...), []byte(template))
	l.b = lenField(l.b, d)
	wide := sha256.Sum256(d)
	if l.padded {
		wide = [32]byte{}
		copy(wide[:], sum[:])
	}
	l.extend(sum, wide)
	return l
}

func (l *list) extend(sum [20]byte, wide [32]byte) {
	l.sha1 = sha1.Sum(append(l.sha1[:], sum[:]...))
	l.sha256 = sha256.Sum256(append(l.sha256[:], wide[:]...))
	l.count++
}

// file adds an entry of template ima-ng.
func (l *list) file(path, content string) *list {
	return l.add("ima-ng", data(dng("", []byte(content)), []byte(path+"\x00")))
}

// sig adds an entry of template ima-sig.
func (l *list) sig(path, content string, sig []byte) *list {
	return l.add("ima-sig", data(dng("", []byte(content)), []byte(path+"\x00"), sig))
}

// buf adds an entry of template ima-buf.
func (l *list) buf(name, content string) *list {
	return l.add("ima-buf", data(dng("", []byte(content)), []byte(name+"\x00"), []byte(content)))
}

// violation adds a violation: zeros in the list, ones in the register.
func (l *list) violation(path string) *list {
	l.b = binary.LittleEndian.AppendUint32(l.b, 10)
	l.b = lenField(append(l.b, make([]byte, 20)...), []byte("ima-ng"))
	l.b = lenField(l.b, data(append([]byte("sha256:\x00"), make([]byte, 32)...), []byte(path+"\x00")))
	l.extend([20]byte(violation[:20]), [32]byte(violation[:32]))
	return l
}

// old adds an entry of template ima.
func (l *list) old(path string, content string) *list {
	d := sha1.Sum([]byte(content))
	td := make([]byte, 20+256)
	copy(td, d[:])
	copy(td[20:], path)
	sum := sha1.Sum(td)
	l.b = binary.LittleEndian.AppendUint32(l.b, 10)
	l.b = lenField(append(l.b, sum[:]...), []byte("ima"))
	l.b = lenField(append(l.b, d[:]...), []byte(path))
	l.extend(sum, sha256.Sum256(td))
	return l
}

// pcrs are values of PCRs 0 to 9 for the tests.
func pcrs() map[int][]byte {
	m := map[int][]byte{}
	for n := range 10 {
		v := sha256.Sum256([]byte{byte(n)})
		m[n] = v[:]
	}
	return m
}

func aggregateField(n int) []byte {
	h := sha256.New()
	for i := range n {
		h.Write(pcrs()[i])
	}
	return append([]byte("sha256:\x00"), h.Sum(nil)...)
}

// booted starts a list with the boot aggregate.
func booted() *list {
	return new(list).add("ima-ng", data(aggregateField(10), []byte("boot_aggregate\x00")))
}

// inputs vouch for the list's register in a boot.
func (l *list) inputs(boot string) rats.Inputs {
	values := pcrs()
	values[10] = append([]byte(nil), l.sha256[:]...)
	return rats.Inputs{Facts: rats.Facts{
		Registers: []rats.Registers{{By: "tpm", Kind: "pcr", Alg: "sha256", Values: values}},
		Boots:     []rats.Boot{{By: "tpm", ID: rats.SHA256([]byte(boot))}},
	}}
}

func evidence(b []byte) rats.Evidence {
	return rats.Evidence{Format: Format, MediaType: MediaType, Body: b}
}

func mustVerify(t testing.TB, e rats.Evidence, in rats.Inputs) (*Claims, []byte) {
	t.Helper()
	v, err := New().Verify(t.Context(), e, in)
	if err != nil {
		t.Fatal(err)
	}
	c := v.Claims.(*Claims)
	// Claims survive JSON: dry-runs judge what was stored.
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	again := new(Claims)
	if err := json.Unmarshal(b, again); err != nil {
		t.Fatal(err)
	}
	return again, v.Resume
}

func wantCode(t testing.TB, err error, code rats.CodeInfo) {
	t.Helper()
	r, ok := rats.ReasonOf(err)
	if !ok || r.Code != code.Code {
		t.Errorf("got %v, want %s", err, code.Code)
	}
}

// lookup is a reference set "files".
type lookup map[string][]string

func (l lookup) Find(set, name string, d rats.Digest) (rats.RefHit, error) {
	if set != "files" {
		return rats.RefHit{}, rats.CodeInfo{Code: "refvalue.set.missing"}.Missing(set, "a set", "none")
	}
	hit := rats.RefHit{Set: set}
	for _, content := range l[name] {
		want := rats.SHA256([]byte(content))
		hit.Expected = append(hit.Expected, want)
		hit.Known = hit.Known || want.Equal(d)
	}
	return hit, nil
}

func (l lookup) Names(string, string) (iter.Seq[string], error) {
	return func(func(string) bool) {}, nil
}
func (l lookup) Ref(string) (rats.Ref, error) { return rats.Ref{}, nil }

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func codesOf(reasons []rats.Reason) string {
	var s []string
	for _, r := range reasons {
		s = append(s, fmt.Sprintf("%s/%s", r.Code, r.Tier))
	}
	return strings.Join(s, " ")
}

// ascii returns the list as the kernel prints it.
func (l *list) ascii(t testing.TB) []byte {
	t.Helper()
	var out strings.Builder
	s := &binarySource{b: l.b}
	var r record
	for {
		ok, err := s.next(&r)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return []byte(out.String())
		}
		fmt.Fprintf(&out, "%d %x %s", r.PCR, r.sum, r.template.name)
		if r.template.old {
			fmt.Fprintf(&out, " %x %s\n", r.Digest, r.Path)
			continue
		}
		d := r.data
		for _, f := range r.template.fields {
			n := binary.LittleEndian.Uint32(d)
			v := d[4 : 4+n]
			d = d[4+n:]
			out.WriteByte(' ')
			switch f {
			case fieldDigest, fieldDigest2, fieldModDigest:
				head, sum, _ := strings.Cut(string(v), "\x00")
				out.WriteString(head + hex.EncodeToString([]byte(sum)))
			case fieldName, fieldXattrNames:
				out.WriteString(strings.TrimSuffix(string(v), "\x00"))
			case fieldUID, fieldGID, fieldMode:
				switch len(v) {
				case 4:
					fmt.Fprint(&out, binary.LittleEndian.Uint32(v))
				case 2:
					fmt.Fprint(&out, binary.LittleEndian.Uint16(v))
				}
			default:
				out.WriteString(hex.EncodeToString(v))
			}
		}
		out.WriteByte('\n')
	}
}
