package ima

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"iter"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-attest/assay/rats"
)

// signer makes security.ima values.
type signer struct {
	key crypto.Signer
	pem string
	id  []byte
}

func newSigner(t testing.TB, key crypto.Signer) signer {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(spki, &info); err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(info.Key.Bytes)
	return signer{key, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})), sum[16:]}
}

func (s signer) sign(t testing.TB, kind, version byte, content string) []byte {
	t.Helper()
	d := sha256.Sum256([]byte(content))
	if version == 3 {
		d = sha256.Sum256(append([]byte{kind, 4}, d[:]...))
	}
	sig, err := s.key.Sign(rand.Reader, d[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	b := append([]byte{kind, version, 4}, s.id...)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(sig))), sig...)
}

// R141: signatures of version 2 and 3, RSA and ECDSA, accept a file; others don't.
func TestSignaturesOfListedKeysAcceptFiles(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	foreign, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a, b, c := newSigner(t, rsaKey), newSigner(t, ecKey), newSigner(t, foreign)
	stolen := c
	stolen.id = b.id
	verity := func(l *list, path string, sig []byte) *list {
		return l.add("ima-sigv2", data(dng("verity:", []byte(path)), []byte(path+"\x00"), sig))
	}
	cut := b.sign(t, 3, 2, "x")
	for name, tc := range map[string]struct {
		l  *list
		ok bool
	}{
		"RSA":                   {booted().sig("/bin/x", "x", a.sign(t, 3, 2, "x")), true},
		"ECDSA":                 {booted().sig("/bin/x", "x", b.sign(t, 3, 2, "x")), true},
		"version 3":             {booted().sig("/bin/x", "x", b.sign(t, 3, 3, "x")), true},
		"fs-verity":             {verity(booted(), "/bin/x", a.sign(t, 6, 3, "/bin/x")), true},
		"fs-verity, version 2":  {verity(booted(), "/bin/x", a.sign(t, 3, 2, "/bin/x")), false},
		"of another file":       {booted().sig("/bin/x", "x", a.sign(t, 3, 2, "y")), false},
		"by another key":        {booted().sig("/bin/x", "x", c.sign(t, 3, 2, "x")), false},
		"under a stolen key id": {booted().sig("/bin/x", "x", stolen.sign(t, 3, 2, "x")), false},
		"cut":                   {booted().sig("/bin/x", "x", cut[:len(cut)-1]), false},
		"a plain hash":          {booted().sig("/bin/x", "x", append([]byte{4, 4}, make([]byte, 32)...)), false},
		"none":                  {booted().sig("/bin/x", "x", nil), false},
	} {
		t.Run(name, func(t *testing.T) {
			claims, _ := mustVerify(t, evidence(tc.l.b), tc.l.inputs("a"))
			r := &Rules{Keys: []string{a.pem, b.pem}}
			if reasons := r.Lint(); len(reasons) > 0 {
				t.Fatal(reasons)
			}
			reasons := r.Check(claims, lookup{}, noon)
			got := codesOf(reasons)
			bad := strings.Contains(got, "contraindicated")
			if bad == tc.ok {
				t.Error(reasons)
			}
			if want := string(CodeSignature.Code); !tc.ok && name != "none" && !strings.Contains(got, want) {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

// The RSA key and the list entry of Keylime's own tests.
func TestRecordedSignatureHasTheKeyIDOfItsKey(t *testing.T) {
	dir := shared(t, "evidence")
	text := string(readFile(t, dir, "keylime", "ima_keys", "rsa2048pub.pem"))
	keys, err := parseKeys(text)
	if err != nil || len(keys) != 1 || len(keys[0].ids[0]) != 4 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
}

const fullPolicy = "dont_measure fsmagic=0x9fa0\n# code\nmeasure func=BPRM_CHECK mask=MAY_EXEC\nmeasure func=MMAP_CHECK mask=MAY_EXEC\nmeasure func=MODULE_CHECK\nmeasure func=FIRMWARE_CHECK\nmeasure func=KEXEC_KERNEL_CHECK\nmeasure func=POLICY_CHECK\n"

// S30, S31: what rules make of a list.
func TestListsAreJudged(t *testing.T) {
	set := lookup{"/bin/sh": {"sh", "sh2"}, "kexec-cmdline": {"quiet"}, "/etc/ima/ima-policy": {fullPolicy}, "/var/log/known": {"k"}}
	base := Rules{Allow: []string{"files"}, Data: []string{"/var/log/.*"}, Exclude: []string{"/var/lib/.*", "/.*"}}
	covered := func() *list { return booted().buf("ima_policy", fullPolicy).file("/bin/sh", "sh") }
	reads := func() *list {
		return booted().buf("ima_policy", fullPolicy+"measure func=FILE_CHECK mask=^MAY_READ\n").file("/bin/sh", "sh")
	}
	warn := func(c rats.CodeInfo) string { return string(c.Code) + "/warning" }
	fail := func(c rats.CodeInfo) string { return string(c.Code) + "/contraindicated" }
	for name, tc := range map[string]struct {
		l      *list
		change func(*Rules)
		want   string
	}{
		"all known, code covered":        {covered(), nil, ""},
		"tcb only":                       {booted().file("/bin/sh", "sh"), nil, warn(CodeCoverage)},
		"tcb only, coverage demanded":    {booted().file("/bin/sh", "sh"), func(r *Rules) { r.Coverage.Missing = SeverityFail }, fail(CodeCoverage)},
		"a policy with a gap":            {booted().buf("ima_policy", "dont_measure fsmagic=0x01021994\n"+fullPolicy), nil, warn(CodeCoverage)},
		"a policy for root only":         {booted().buf("ima_policy", strings.Replace(fullPolicy, "func=MODULE_CHECK", "func=MODULE_CHECK uid=0", 1)), nil, warn(CodeCoverage)},
		"a listed policy file":           {booted().file("/etc/ima/ima-policy", fullPolicy), func(r *Rules) { r.Coverage.Policies = []string{rats.SHA256([]byte(fullPolicy)).String()} }, ""},
		"changed":                        {covered().file("/bin/sh", "evil"), nil, fail(CodeChanged)},
		"unknown":                        {covered().file("/bin/evil", "evil"), nil, fail(CodeUnknown)},
		"unknown, a warning":             {covered().file("/bin/evil", "evil"), func(r *Rules) { r.Unknown = SeverityWarning }, warn(CodeUnknown)},
		"code run from an excluded path": {covered().file("/var/lib/evil", "evil"), nil, fail(CodeUnknown)},
		"code run from a data path":      {covered().file("/var/log/evil", "evil"), nil, fail(CodeUnknown)},
		"read from an excluded path":     {reads().file("/var/lib/db", "db"), nil, warn(CodeExcluded)},
		"read from a data path":          {reads().file("/var/log/x", "x"), nil, warn(CodeExcluded)},
		"read from a data path only":     {reads().file("/var/log/x", "x"), func(r *Rules) { r.Exclude = nil }, warn(CodeData)},
		"changed on a data path":         {reads().file("/var/log/known", "x"), nil, warn(CodeData)},
		"an excluded program":            {reads().file("/usr/bin/evil", "evil"), nil, fail(CodeUnknown)},
		"an excluded library":            {reads().file("/srv/x.so.1", "evil"), nil, fail(CodeUnknown)},
		"an excluded module":             {reads().file("/srv/x.ko", "evil"), nil, fail(CodeUnknown)},
		"not a path":                     {reads().file("memfd:x", "evil"), nil, fail(CodeUnknown)},
		"violation on data":              {covered().violation("/var/log/x"), nil, warn(CodeViolationData)},
		"violation on a program":         {covered().violation("/usr/bin/x"), nil, fail(CodeViolation)},
		"violation on an unknown path":   {covered().violation("/home/x"), nil, fail(CodeViolation)},
		"a known buffer":                 {covered().buf("kexec-cmdline", "quiet"), nil, ""},
		"an unknown buffer":              {covered().buf("kexec-cmdline", "evil"), nil, fail(CodeBuffer)},
		"a named buffer":                 {covered().buf("kexec-cmdline", "evil"), func(r *Rules) { r.Buffers = []string{"kexec-cmdline"} }, ""},
		"kexec":                          {covered().add("ima-ng", data(aggregateField(10), []byte("boot_aggregate\x00"))), nil, fail(CodeKexec) + " " + fail(CodeUnknown)},
		"kexec allowed":                  {covered().add("ima-ng", data(aggregateField(10), []byte("boot_aggregate\x00"))), func(r *Rules) { r.AllowKexec = true }, ""},
		"no boot aggregate":              {new(list).buf("ima_policy", fullPolicy), nil, fail(CodeAggregate)},
		"a missing set":                  {covered(), func(r *Rules) { r.Allow = []string{"gone"} }, "refvalue.set.missing/none " + fail(CodeUnknown)},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := mustVerify(t, evidence(tc.l.b), tc.l.inputs("a"))
			r := base
			if tc.change != nil {
				tc.change(&r)
			}
			if reasons := r.Lint(); len(reasons) > 0 {
				t.Fatal(reasons)
			}
			if got := codesOf(r.Check(c, set, noon)); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestBootAggregateOfOtherFirmwareIsRefused(t *testing.T) {
	l := booted().file("/bin/sh", "sh")
	in := l.inputs("a")
	in.Facts.Registers[0].Values[4] = make([]byte, 32)
	c, _ := mustVerify(t, evidence(l.b), in)
	r := &Rules{Allow: []string{"files"}}
	r.Lint()
	if got := codesOf(r.Check(c, lookup{"/bin/sh": {"sh"}}, noon)); !strings.Contains(got, string(CodeAggregate.Code)) {
		t.Error(got)
	}
}

func TestWeakProofsAreRefusedUntilADay(t *testing.T) {
	l := &list{padded: true}
	l.add("ima-ng", data(aggregateField(10), []byte("boot_aggregate\x00")))
	c, _ := mustVerify(t, evidence(l.b), l.inputs("a"))
	for day, refused := range map[string]bool{"": true, "2026-05-31": true, "2026-06-01": false, "2027-01-31": false} {
		r := &Rules{Allow: []string{"files"}, SHA1Until: day}
		if reasons := r.Lint(); len(reasons) > 0 {
			t.Fatal(reasons)
		}
		if got := codesOf(r.Check(c, lookup{}, noon)); strings.Contains(got, string(CodeWeak.Code)) != refused {
			t.Errorf("until %q: %s", day, got)
		}
	}
}

func TestClaimsThatAreNoneAreRefused(t *testing.T) {
	r := &Rules{Allow: []string{"files"}}
	var none *Claims
	for _, c := range []rats.Claims{nil, none, new(Claims)} {
		if got := codesOf(r.Check(c, lookup{}, noon)); got != string(CodeClaims.Code)+"/contraindicated" {
			t.Errorf("without lint: %s", got)
		}
	}
	r.Lint()
	if got := codesOf(r.Check(&Claims{Count: 2, Bank: "sha256", Extend: ExtendRehash}, lookup{}, noon)); !strings.Contains(got, string(CodeClaims.Code)) {
		t.Errorf("claims without their entries: %s", got)
	}
}

func TestReasonsOfAForeignListAreBounded(t *testing.T) {
	l := booted()
	for i := range 500 {
		l.file("/bin/x"+strings.Repeat("y", i), "evil")
	}
	c, _ := mustVerify(t, evidence(l.b), l.inputs("a"))
	r := &Rules{Allow: []string{"files"}}
	r.Lint()
	reasons := r.Check(c, lookup{}, noon)
	if len(reasons) != maxReasons+1 || reasons[maxReasons].Code != CodeCoverage.Code {
		t.Errorf("%d reasons", len(reasons))
	}
}

func TestMistakesInRulesAreNamed(t *testing.T) {
	for name, tc := range map[string]struct {
		r    Rules
		want rats.CodeInfo
	}{
		"nothing trusted":     {Rules{}, CodeRuleEmpty},
		"a set without name":  {Rules{Allow: []string{""}}, CodeRuleValue},
		"no key":              {Rules{Keys: []string{"x"}}, CodeRuleValue},
		"a private key":       {Rules{Keys: []string{"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}}, CodeRuleValue},
		"not a pattern":       {Rules{Allow: []string{"a"}, Data: []string{"/("}}, CodeRuleValue},
		"not anchored":        {Rules{Allow: []string{"a"}, Exclude: []string{"tmp"}}, CodeRuleAnchor},
		"any path":            {Rules{Allow: []string{"a"}, Exclude: []string{".*"}}, CodeRuleAnchor},
		"an unknown severity": {Rules{Allow: []string{"a"}, Unknown: "ignore"}, CodeRuleValue},
		"not a digest":        {Rules{Allow: []string{"a"}, Coverage: CoverageRules{Policies: []string{"x"}}}, CodeRuleValue},
		"no day":              {Rules{Allow: []string{"a"}, SHA1Until: "soon"}, CodeRuleUntil},
	} {
		reasons := tc.r.Lint()
		if len(reasons) != 1 || reasons[0].Code != tc.want.Code {
			t.Errorf("%s: %v", name, reasons)
		}
		if got := tc.r.Check(&Claims{}, lookup{}, noon); len(got) != 1 || got[0].Code != CodeClaims.Code {
			t.Errorf("%s: rules with mistakes judge: %v", name, got)
		}
	}
}

// R162: the tampered file and the unknown program of a real boot are found, and nothing else.
func TestTamperedBootIsFoundByTheCleanBootsFiles(t *testing.T) {
	dir := shared(t, filepath.Join("vm", "fixtures"))
	claims := func(name string) *Claims {
		in := rats.Inputs{Facts: rats.Facts{Registers: []rats.Registers{pcrFile(t, dir, name, "pcrs.json")}}}
		c, _ := mustVerify(t, evidence(readFile(t, dir, name, "ima_binary_runtime_measurements")), in)
		return c
	}
	set := recordedSet{}
	for e := range claims("clean").All() {
		set[e.Text()] = append(set[e.Text()], e.Sum())
	}
	r := &Rules{Allow: []string{"files"}}
	r.Lint()
	if got := codesOf(r.Check(claims("clean"), set, noon)); got != string(CodeCoverage.Code)+"/warning" {
		t.Error("clean:", got)
	}
	changed := 0
	for _, reason := range r.Check(claims("tampered-runtime"), set, noon) {
		t.Log(reason)
		if reason.Code == CodeChanged.Code && strings.Contains(reason.Path, "/bin/goodtool") {
			changed++
		}
	}
	if changed != 1 {
		t.Errorf("the overwritten file is named %d times", changed)
	}
}

type recordedSet map[string][]rats.Digest

func (s recordedSet) Find(_, name string, d rats.Digest) (rats.RefHit, error) {
	hit := rats.RefHit{Expected: s[name]}
	for _, want := range s[name] {
		hit.Known = hit.Known || bytes.Equal(want.Sum, d.Sum)
	}
	return hit, nil
}

func (s recordedSet) Names(set, prefix string) (iter.Seq[string], error) {
	return lookup{}.Names(set, prefix)
}
func (s recordedSet) Ref(set string) (rats.Ref, error) { return lookup{}.Ref(set) }
