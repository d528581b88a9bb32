package ima

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emmansun/gmsm/sm3"

	"github.com/assay-attest/assay/rats"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func rsaSigner(t testing.TB) signer { return newSigner(t, must(rsa.GenerateKey(rand.Reader, 2048))) }
func ecSigner(t testing.TB) signer {
	return newSigner(t, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)))
}

// metadata is what an EVM signature covers.
type metadata struct {
	names    []string
	values   [][]byte
	uid, gid uint32
	mode     uint16
}

// digestXattr is a security.ima with a digest of a content.
func digestXattr(content string) []byte {
	sum := sha256.Sum256([]byte(content))
	return append([]byte{xattrDigestNG, 4}, sum[:]...)
}

func fileMetadata(ima []byte) metadata {
	return metadata{names: []string{"security.selinux", xattrIMA}, values: [][]byte{[]byte("system_u:object_r:bin_t:s0\x00"), ima}, uid: 0, gid: 5, mode: 0o100755}
}

// digest computes the EVM digest the other way round than the verifier: from the structure, not from the list's fields.
func (m metadata) digest() []byte {
	h := sha256.New()
	for _, v := range m.values {
		h.Write(v)
	}
	if err := binary.Write(h, binary.LittleEndian, struct {
		Inode      uint64
		Generation uint32
		UID, GID   uint32
		Mode       uint16
		_          [2]byte
	}{UID: m.uid, GID: m.gid, Mode: m.mode}); err != nil {
		panic(err)
	}
	return h.Sum(nil)
}

// signEVM makes a security.evm.
func (s signer) signEVM(t testing.TB, kind, version byte, m metadata) []byte {
	t.Helper()
	d := m.digest()
	if version == 3 {
		sum := sha256.Sum256(append([]byte{kind, 4}, d...))
		d = sum[:]
	}
	sig := must(s.key.Sign(rand.Reader, d, crypto.SHA256))
	b := append([]byte{kind, version, 4}, s.id...)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(sig))), sig...)
}

// fields returns the fields of template evm-sig.
func (m metadata) fields(path, content string, sig []byte) [][]byte {
	var lengths, values []byte
	for _, v := range m.values {
		lengths = binary.LittleEndian.AppendUint32(lengths, uint32(len(v)))
		values = append(values, v...)
	}
	u32 := func(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
	return [][]byte{
		dng("", []byte(content)), []byte(path + "\x00"), sig, []byte(strings.Join(m.names, "|") + "\x00"), lengths, values,
		u32(m.uid), u32(m.gid), binary.LittleEndian.AppendUint16(nil, m.mode),
	}
}

func (l *list) evm(path, content string, sig []byte, m metadata) *list {
	return l.add("evm-sig", data(m.fields(path, content, sig)...))
}

// pkcs7 makes an appended signature as the kernel's sign-file does; its hook changes one thing.
func (s signer) pkcs7(t testing.TB, content string, change func(*signerInfo, *contentInfo)) []byte {
	t.Helper()
	sum := sha256.Sum256([]byte(content))
	si := signerInfo{
		Version: 3, ID: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, Bytes: s.id},
		Digest:    pkix.AlgorithmIdentifier{Algorithm: modsigHashes[0].digest},
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: asn1.NullRawValue},
		Signature: must(s.key.Sign(rand.Reader, sum[:], crypto.SHA256)),
	}
	if _, ok := s.key.(*ecdsa.PrivateKey); ok {
		si.Algorithm = pkix.AlgorithmIdentifier{Algorithm: modsigHashes[0].ecdsa}
	}
	info := contentInfo{Type: oidSignedData}
	if change != nil {
		change(&si, &info)
	}
	sd := signedData{
		Version: 3, Algorithms: asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSet, IsCompound: true, Bytes: must(asn1.Marshal(si.Digest))},
		Content: asn1.RawValue{FullBytes: must(asn1.Marshal([]asn1.ObjectIdentifier{oidData}))}, Signers: []signerInfo{si},
	}
	info.Content = asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: must(asn1.Marshal(sd))}
	return must(asn1.Marshal(info))
}

func (l *list) modsig(path, whole, content string, sig []byte) *list {
	return l.add("ima-modsig", data(dng("", []byte(whole)), []byte(path+"\x00"), nil, dng("", []byte(content)), sig))
}

// judged verifies a list and judges it by rules.
func judged(t testing.TB, l *list, r *Rules) string {
	t.Helper()
	c, _ := mustVerify(t, evidence(l.b), l.inputs("a"))
	if reasons := r.Lint(); len(reasons) > 0 {
		t.Fatal(reasons)
	}
	return codesOf(r.Check(c, lookup{"/bin/known": {"known"}}, noon))
}

var uncovered = string(CodeCoverage.Code) + "/warning"

// R141: portable EVM signatures of version 2 and 3 accept a file by its security.ima; each changed field is refused.
func TestEVMSignaturesAcceptFiles(t *testing.T) {
	a, b, imaKey := rsaSigner(t), ecSigner(t), ecSigner(t)
	good := fileMetadata(digestXattr("x"))
	refused := string(CodeEVM.Code) + "/contraindicated " + uncovered
	for name, tc := range map[string]struct {
		sig  func() []byte
		m    func() metadata
		path string
		want string
	}{
		"RSA":                       {sig: func() []byte { return a.signEVM(t, 5, 2, good) }, want: uncovered},
		"ECDSA":                     {sig: func() []byte { return b.signEVM(t, 5, 2, good) }, want: uncovered},
		"version 3":                 {sig: func() []byte { return b.signEVM(t, 5, 3, good) }, want: uncovered},
		"version 3, plain":          {sig: func() []byte { s := b.signEVM(t, 5, 2, good); s[1] = 3; return s }, want: refused},
		"version 1":                 {sig: func() []byte { return b.signEVM(t, 5, 1, good) }, want: refused},
		"not portable":              {sig: func() []byte { return b.signEVM(t, 3, 2, good) }, want: refused},
		"SHA-1":                     {sig: func() []byte { s := b.signEVM(t, 5, 2, good); s[2] = 2; return s }, want: refused},
		"cut":                       {sig: func() []byte { s := b.signEVM(t, 5, 2, good); return s[:len(s)-1] }, want: refused},
		"type only":                 {sig: func() []byte { return []byte{5} }, want: refused},
		"by a key for security.ima": {sig: func() []byte { return imaKey.signEVM(t, 5, 2, good) }, want: refused},
		"another owner":             {sig: func() []byte { return a.signEVM(t, 5, 2, good) }, m: func() metadata { m := good; m.uid = 1; return m }, want: refused},
		"another group":             {sig: func() []byte { return a.signEVM(t, 5, 2, good) }, m: func() metadata { m := good; m.gid = 0; return m }, want: refused},
		"setuid":                    {sig: func() []byte { return a.signEVM(t, 5, 2, good) }, m: func() metadata { m := good; m.mode |= 0o4000; return m }, want: refused},
		"another label":             {sig: func() []byte { return a.signEVM(t, 5, 2, good) }, m: func() metadata { m := fileMetadata(digestXattr("x")); m.values[0] = []byte("other\x00"); return m }, want: refused},
		"another file":              {sig: func() []byte { return a.signEVM(t, 5, 2, fileMetadata(digestXattr("y"))) }, m: func() metadata { return fileMetadata(digestXattr("y")) }, want: refused},
		"no security.ima": {sig: func() []byte {
			m := good
			m.names = []string{"security.selinux", "security.apparmor"}
			return a.signEVM(t, 5, 2, m)
		}, m: func() metadata { m := good; m.names = []string{"security.selinux", "security.apparmor"}; return m }, want: refused},
		"two security.ima":      {sig: func() []byte { return a.signEVM(t, 5, 2, good) }, m: func() metadata { m := good; m.names = []string{xattrIMA, xattrIMA}; return m }, want: refused},
		"a SHA-1 security.ima":  {sig: func() []byte { return a.signEVM(t, 5, 2, fileMetadata(append([]byte{1}, make([]byte, 20)...))) }, m: func() metadata { return fileMetadata(append([]byte{1}, make([]byte, 20)...)) }, want: refused},
		"a signed security.ima": {sig: func() []byte { return nil }, want: uncovered}, // below
		"one signed by nobody":  {sig: func() []byte { return nil }, want: refused},   // below
	} {
		t.Run(name, func(t *testing.T) {
			m, sig := good, tc.sig()
			if tc.m != nil {
				m = tc.m()
			}
			switch name {
			case "a signed security.ima":
				m = fileMetadata(imaKey.sign(t, 3, 2, "x"))
				sig = a.signEVM(t, 5, 2, m)
			case "one signed by nobody":
				m = fileMetadata(b.sign(t, 3, 2, "x"))
				sig = a.signEVM(t, 5, 2, m)
			}
			r := &Rules{EVMKeys: []string{a.pem, b.pem}, Keys: []string{imaKey.pem}}
			if got := judged(t, booted().evm("/bin/x", "x", sig, m), r); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// R141: fields that contradict one another, or are missing, are refused and read without panic.
func TestBrokenEVMFieldsAreRefused(t *testing.T) {
	a := rsaSigner(t)
	m := fileMetadata(digestXattr("x"))
	sig := a.signEVM(t, 5, 2, m)
	for name, change := range map[string]func([][]byte){
		"no names":       func(f [][]byte) { f[3] = nil },
		"no NUL":         func(f [][]byte) { f[3] = f[3][:len(f[3])-1] },
		"more names":     func(f [][]byte) { f[3] = []byte("a|b|security.ima\x00") },
		"short lengths":  func(f [][]byte) { f[4] = f[4][:7] },
		"long length":    func(f [][]byte) { f[4][0]++ },
		"huge length":    func(f [][]byte) { f[4][3] = 0xff },
		"moved boundary": func(f [][]byte) { f[4][0]--; f[4][4]++ },
		"values left":    func(f [][]byte) { f[5] = append(f[5], 0) },
		"no owner":       func(f [][]byte) { f[6] = nil },
		"no group":       func(f [][]byte) { f[7] = nil },
		"no mode":        func(f [][]byte) { f[8] = nil },
	} {
		fields := m.fields("/bin/x", "x", sig)
		for i := range fields {
			fields[i] = bytes.Clone(fields[i])
		}
		change(fields)
		if got := judged(t, booted().add("evm-sig", data(fields...)), &Rules{EVMKeys: []string{a.pem}}); got != string(CodeEVM.Code)+"/contraindicated "+uncovered {
			t.Errorf("%s: %s", name, got)
		}
	}
	// What is no file has none of the fields: the boot aggregate of a kernel that uses the template for everything.
	l := new(list).add("evm-sig", data(aggregateField(10), []byte("boot_aggregate\x00"), nil, nil, nil, nil, nil, nil, nil)).evm("/bin/x", "x", sig, m)
	if got := judged(t, l, &Rules{EVMKeys: []string{a.pem}}); got != uncovered {
		t.Error(got)
	}
	ascii := evidence(l.ascii(t))
	ascii.MediaType = MediaTypeASCII
	c, _ := mustVerify(t, evidence(l.b), l.inputs("a"))
	if d, _ := mustVerify(t, ascii, l.inputs("a")); !bytes.Equal(c.Entries, d.Entries) {
		t.Error("the ASCII list has other entries")
	}
}

// R141: appended signatures accept a file, whose digest without them the kernel listed.
func TestAppendedSignaturesAcceptFiles(t *testing.T) {
	a, b, foreign := rsaSigner(t), ecSigner(t), rsaSigner(t)
	refused := string(CodeModsig.Code) + "/contraindicated " + uncovered
	set := func(v []byte) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: v}
	}
	for name, tc := range map[string]struct {
		sig  []byte
		want string
	}{
		"RSA":                   {a.pkcs7(t, "x", nil), uncovered},
		"ECDSA":                 {b.pkcs7(t, "x", nil), uncovered},
		"sha256WithRSA":         {a.pkcs7(t, "x", func(s *signerInfo, _ *contentInfo) { s.Algorithm.Algorithm = modsigHashes[0].rsa }), uncovered},
		"of another file":       {a.pkcs7(t, "y", nil), refused},
		"by another key":        {foreign.pkcs7(t, "x", nil), refused},
		"signed attributes":     {a.pkcs7(t, "x", func(s *signerInfo, _ *contentInfo) { s.Attributes = set([]byte{0x30, 0}) }), refused},
		"SHA-1":                 {a.pkcs7(t, "x", func(s *signerInfo, _ *contentInfo) { s.Digest.Algorithm = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26} }), refused},
		"SHA-512":               {a.pkcs7(t, "x", func(s *signerInfo, _ *contentInfo) { s.Digest.Algorithm = modsigHashes[2].digest }), refused},
		"ECDSA named for RSA":   {a.pkcs7(t, "x", func(s *signerInfo, _ *contentInfo) { s.Algorithm.Algorithm = modsigHashes[0].ecdsa }), refused},
		"RSA with SHA-512":      {a.pkcs7(t, "x", func(s *signerInfo, _ *contentInfo) { s.Algorithm.Algorithm = modsigHashes[2].rsa }), refused},
		"changed signature":     {a.pkcs7(t, "x", func(s *signerInfo, _ *contentInfo) { s.Signature[9]++ }), refused},
		"not signed data":       {a.pkcs7(t, "x", func(_ *signerInfo, c *contentInfo) { c.Type = oidData }), refused},
		"followed by something": {append(a.pkcs7(t, "x", nil), 0), refused},
		"cut":                   {a.pkcs7(t, "x", nil)[:100], refused},
		"no DER":                {[]byte("pkcs7"), refused},
		"none":                  {nil, string(CodeUnknown.Code) + "/contraindicated " + uncovered},
	} {
		r := &Rules{ModsigKeys: []string{a.pem, b.pem}, EVMKeys: []string{foreign.pem}, Keys: []string{foreign.pem}}
		if got := judged(t, booted().modsig("/lib/m.ko", "x and its signature", "x", tc.sig), r); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
	// The listed digest is by another algorithm than the signature's.
	sum := sha512.Sum384([]byte("x"))
	l := booted().add("ima-modsig", data(dng("", []byte("w")), []byte("/lib/m.ko\x00"), nil, append([]byte("sha384:\x00"), sum[:]...), a.pkcs7(t, "x", nil)))
	if got := judged(t, l, &Rules{ModsigKeys: []string{a.pem}}); got != refused {
		t.Error(got)
	}
}

// A second opinion: what OpenSSL signs as a module is signed, evmctl as a distribution signs files, is accepted.
func TestSignaturesOfOtherToolsAreAccepted(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	run := func(t *testing.T, tool string, args ...string) []byte {
		t.Helper()
		path, err := exec.LookPath(tool)
		if err != nil {
			t.Skipf("no %s here: signatures of our own making are checked all the same", tool)
		}
		cmd := exec.Command(path, args...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v: %s", tool, err, errs.String())
		}
		return out
	}
	a := rsaSigner(t)
	key := file("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(a.key))}))
	template := &x509.Certificate{SerialNumber: big.NewInt(7), SubjectKeyId: []byte("modules key"), Subject: pkix.Name{CommonName: "modules"}, NotBefore: noon, NotAfter: noon.AddDate(1, 0, 0)}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: must(x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key))})
	content := file("x", []byte("x"))
	t.Run("openssl", func(t *testing.T) {
		sign := []string{"cms", "-sign", "-binary", "-md", "sha256", "-outform", "DER", "-signer", file("cert.pem", cert), "-inkey", key, "-in", content}
		for _, how := range [][]string{{"-noattr"}, {"-noattr", "-nocerts", "-keyid"}} { // the second is what sign-file does
			sig := run(t, "openssl", append(sign, how...)...)
			if got := judged(t, booted().modsig("/lib/m.ko", "w", "x", sig), &Rules{ModsigKeys: []string{string(cert)}}); got != uncovered {
				t.Errorf("%v: %s", how, got)
			}
		}
		sig := run(t, "openssl", sign...)
		if got := judged(t, booted().modsig("/lib/m.ko", "w", "x", sig), &Rules{ModsigKeys: []string{string(cert)}}); !strings.Contains(got, string(CodeModsig.Code)) {
			t.Errorf("signed attributes: %s", got)
		}
	})
	t.Run("evmctl, EVM", func(t *testing.T) {
		m := fileMetadata(digestXattr("x"))
		m.names, m.values = m.names[1:], m.values[1:]
		out := run(t, "evmctl", "sign", "-o", "--key", key, "-a", "sha256", "-n", "--uid", fmt.Sprint(m.uid), "--gid", fmt.Sprint(m.gid), "--mode", fmt.Sprint(m.mode), "--ima", hex.EncodeToString(m.values[0]), content)
		sig := must(hex.DecodeString(strings.TrimSpace(string(out))))
		if got := judged(t, booted().evm("/bin/x", "x", sig, m), &Rules{EVMKeys: []string{a.pem}}); got != uncovered {
			t.Error(got)
		}
	})
	t.Run("evmctl, IMA", func(t *testing.T) {
		sig := must(hex.DecodeString(strings.TrimSpace(string(run(t, "evmctl", "ima_sign", "--key", key, "-a", "sha256", "-n", content)))))
		if got := judged(t, booted().sig("/bin/x", "x", sig), &Rules{Keys: []string{a.pem}}); got != uncovered {
			t.Error(got)
		}
	})
}

// R141: rules can demand a signature where a reference set would do.
func TestSignaturesCanBeDemanded(t *testing.T) {
	a := ecSigner(t)
	fail := func(c rats.CodeInfo) string { return string(c.Code) + "/contraindicated " + uncovered }
	evm := fileMetadata(digestXattr("known"))
	bad := a.signEVM(t, 5, 2, evm)
	bad[20]++
	for name, tc := range map[string]struct {
		l    *list
		want string
	}{
		"unsigned":          {booted().file("/bin/known", "known"), fail(CodeUnsigned)},
		"signed":            {booted().sig("/bin/known", "known", a.sign(t, 3, 2, "known")), uncovered},
		"signed otherwise":  {booted().sig("/bin/known", "known", a.sign(t, 3, 2, "other")), fail(CodeSignature)},
		"EVM":               {booted().evm("/bin/known", "known", a.signEVM(t, 5, 2, evm), evm), uncovered},
		"a broken EVM":      {booted().evm("/bin/known", "known", bad, evm), fail(CodeEVM)},
		"no key for modsig": {booted().modsig("/bin/known", "known", "x", a.pkcs7(t, "x", nil)), fail(CodeUnsigned)},
	} {
		r := &Rules{Allow: []string{"files"}, Keys: []string{a.pem}, EVMKeys: []string{a.pem}, Signed: []string{"/bin/.*"}}
		if got := judged(t, tc.l, r); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
	for field, r := range map[string]*Rules{
		"ima.modsig_keys[0]": {ModsigKeys: []string{"x"}}, "ima.evm_keys[0]": {EVMKeys: []string{"x"}}, "ima.signed[0]": {Keys: []string{a.pem}, Signed: []string{"bin"}},
	} {
		if reasons := r.Lint(); len(reasons) != 1 || reasons[0].Path != field {
			t.Errorf("%s: %v", field, reasons)
		}
	}
}

// R141: claims say by which key each signature was verified, where keys were given.
func TestClaimsNameTheKeyOfEachSignature(t *testing.T) {
	a, b := ecSigner(t), rsaSigner(t)
	m := fileMetadata(digestXattr("e"))
	l := booted().sig("/bin/i", "i", a.sign(t, 3, 2, "i")).modsig("/lib/m.ko", "w", "m", b.pkcs7(t, "m", nil)).evm("/bin/e", "e", a.signEVM(t, 5, 3, m), m).
		sig("/bin/bad", "bad", a.sign(t, 3, 2, "other")).file("/bin/none", "none").violation("/bin/open")
	in := l.inputs("a")
	c, resume := mustVerify(t, evidence(l.b), in)
	if c.Signatures != nil || c.Signed != 4 {
		t.Errorf("without keys: %+v", c.Signatures)
	}
	name := func(s signer) rats.Digest { p, _ := pem.Decode([]byte(s.pem)); return rats.SHA256(p.Bytes) }
	in.Endorsements = []rats.Endorsement{{MediaType: "text/plain", Body: []byte("x")}, {MediaType: MediaTypeKeys, Body: []byte(a.pem + b.pem)}}
	want := []Signature{
		{Entry: 1, Path: "/bin/i", Kind: KindIMA, Valid: true, Key: name(a)}, {Entry: 2, Path: "/lib/m.ko", Kind: KindModsig, Valid: true, Key: name(b)},
		{Entry: 3, Path: "/bin/e", Kind: KindEVM, Valid: true, Key: name(a)}, {Entry: 4, Path: "/bin/bad", Kind: KindIMA, Problem: fmt.Sprintf("a signature that is not valid, by key %x", a.id)},
	}
	// The same from a continued list, whose entries come out of the state.
	rest := rats.Evidence{Format: Format, MediaType: MediaType, Parts: []rats.Part{{Name: PartList, Offset: int64(l.count)}}}
	continued := in
	continued.Resume = resume
	for _, got := range []*Claims{first(mustVerify(t, evidence(l.b), in)), first(mustVerify(t, rest, continued))} {
		if string(must(json.Marshal(got.Signatures))) != string(must(json.Marshal(want))) {
			t.Errorf("%+v", got.Signatures)
		}
	}
	in.Endorsements[1].Body = []byte("no PEM")
	_, err := New().Verify(t.Context(), evidence(l.b), in)
	wantCode(t, err, CodeKeys)
}

func first[A, B any](a A, _ B) A { return a }

// R141: the SM3 bank replays, under each of its names, and so does the kernel's ASCII list for that bank.
func TestSM3BankReplays(t *testing.T) {
	l := booted().file("/bin/sh", "sh").violation("/bin/open").file("/bin/ls", "ls")
	var value [32]byte
	var ascii strings.Builder
	s := &binarySource{b: l.b}
	lines := strings.Split(string(l.ascii(t)), "\n")
	for i, r := 0, new(record); must(s.next(r)); i++ {
		ext := sm3.Sum(r.data)
		listed := ext
		if r.Flags&FlagViolation != 0 {
			ext, listed = [32]byte(violation[:32]), [32]byte{}
		}
		value = sm3.Sum(append(value[:], ext[:]...))
		f := strings.SplitN(lines[i], " ", 3)
		fmt.Fprintf(&ascii, "%s %x %s\n", f[0], listed, f[2])
	}
	for _, name := range []string{"sm3", "sm3_256", "sm3-256"} {
		in := rats.Inputs{Facts: rats.Facts{Registers: []rats.Registers{{By: "tpm", Kind: "pcr", Alg: name, Values: map[int][]byte{10: value[:]}}}}}
		given := rats.Inputs{Params: must(json.Marshal(Params{PCRs: map[string]map[string]string{name: {"10": hex.EncodeToString(value[:])}}}))}
		for _, e := range []rats.Evidence{evidence(l.b), {Format: Format, MediaType: MediaTypeASCII, Body: []byte(ascii.String())}} {
			for _, in := range []rats.Inputs{in, given} {
				if c, _ := mustVerify(t, e, in); c.Bank != "sm3" || c.Count != l.count || c.Extend != ExtendRehash {
					t.Errorf("%s: %d entries in bank %s", name, c.Count, c.Bank)
				}
			}
		}
	}
	in := rats.Inputs{Params: must(json.Marshal(Params{PCRs: map[string]map[string]string{"sm3_256": {"10": strings.Repeat("11", 32)}}}))}
	_, err := New().Verify(t.Context(), evidence(l.b), in)
	wantCode(t, err, CodeReplay)
	// Template digests by two algorithms in one list, and by neither.
	mixed := strings.Split(ascii.String(), "\n")
	f := strings.SplitN(mixed[1], " ", 3)
	for _, sum := range []string{hex.EncodeToString(rats.SHA256([]byte("?")).Sum), strings.Repeat("ab", 32)} {
		mixed[1] = f[0] + " " + sum + " " + f[2]
		_, err := New().Verify(t.Context(), rats.Evidence{Format: Format, MediaType: MediaTypeASCII, Body: []byte(strings.Join(mixed, "\n"))}, in)
		wantCode(t, err, CodeTemplateDigest)
	}
	// The digest of a buffer by SM3, under the kernel's older name.
	sum := sm3.Sum([]byte("quiet"))
	e := Entry{Alg: "sm3-256", Digest: sum[:], Buf: []byte("quiet"), Flags: FlagBuf}
	if !e.bufferMatches() || e.Sum().Check() != nil {
		t.Error("a buffer's SM3 digest is not recognised")
	}
}

func FuzzSignatures(f *testing.F) {
	a := ecSigner(f)
	keys := must(parseKeys(a.pem))
	m := fileMetadata(digestXattr("x"))
	fields := m.fields("/bin/x", "x", a.signEVM(f, 5, 2, m))
	f.Add(a.pkcs7(f, "x", nil), fields[2], fields[3], fields[4], fields[5])
	f.Add([]byte{0x30, 0x80}, []byte{5, 2, 4, 0, 0, 0, 0, 0, 0}, []byte{0}, []byte{}, []byte{})
	sum := sha256.Sum256([]byte("x"))
	f.Fuzz(func(t *testing.T, modsig, sig, names, lengths, values []byte) {
		e := Entry{Alg: "sha256", Digest: sum[:], Mod: Modsig{Alg: "sha256", Digest: sum[:], Sig: modsig}, EVM: EVM{Sig: sig, Names: names, Lengths: lengths, Values: values, GID: 5, Mode: 0o100755, Has: 7}}
		if k, err := e.checkEVM(keys, nil); err == nil && (k == nil || !bytes.Equal(values, fields[5])) {
			t.Errorf("accepted other attributes: %x", values)
		}
		if k, err := e.checkModsig(keys); err == nil && k == nil {
			t.Error("accepted by no key")
		}
	})
}
