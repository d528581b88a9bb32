package snp_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/assay-attest/assay/evidence/snp"
	"github.com/assay-attest/assay/rats"
)

func wantCode(t testing.TB, err error, want rats.CodeInfo) {
	t.Helper()
	r, ok := rats.ReasonOf(err)
	if !ok || r.Code != want.Code {
		t.Errorf("got %v, want %s", err, want.Code)
		return
	}
	if r.Hint == "" || r.Expected == "" || r.Path == "" {
		t.Errorf("%s says too little: %+v", want.Code, r)
	}
}

// R116: every product, version and kind of key.
func TestReportsOfEveryProductVersionAndKeyVerify(t *testing.T) {
	for _, p := range []snp.Product{snp.Milan, snp.Genoa, snp.Turin} {
		for _, version := range []uint32{2, 3, 4, 5} {
			for _, signer := range []int{snp.SignerVCEK, snp.SignerVLEK} {
				t.Run(fmt.Sprintf("%s/%d/%d", p, version, signer), func(t *testing.T) {
					g := newGuest(t, p, version)
					g.chip.signer = signer
					g.report.KeyInfo = uint32(signer) << 2
					v, err := g.verify()
					if err != nil {
						t.Fatal(err)
					}
					checkVerified(t, g, v)
				})
			}
		}
	}
}

func checkVerified(t *testing.T, g *guest, v rats.Verified) {
	t.Helper()
	c := v.Claims.(*snp.Claims)
	want := g.chip.tcb
	if c.Product != g.vendor.product || c.TCB.Reported != want || c.TCB.Launch != want || c.Measurement[:2] != "aa" || c.VMPL != 0 || c.Debug {
		t.Errorf("claims: %+v", c)
	}
	if c.CRL.Status != snp.CRLCurrent || c.Binding != snp.BoundReportData || c.Firmware != "1.55.40" || c.GuestPolicy.ABI != "1.51" {
		t.Errorf("claims: %+v", c)
	}
	if (c.CSP == "cloud") != (c.SigningKey == "VLEK") || (c.CPUID != "") != (c.ReportVersion >= 3) || (c.CurrentMit != "") != (c.ReportVersion >= 4) {
		t.Errorf("claims: %+v", c)
	}
	if status, advisories, _ := c.TCBStatus(); status != snp.StatusUnknown || len(advisories) != 0 || c.DebugEnabled() {
		t.Errorf("status without collateral: %s", status)
	}
	if k, ok := v.Facts.Key(rats.KeyTLS); !ok || string(k.Public) != "spki" || len(v.Facts.UserData) != 1 || len(v.Marks) != 0 || v.Until.IsZero() {
		t.Errorf("verified: %+v", v)
	}
}

// R116, R104: the refusal matrix: valid evidence with one thing changed.
func TestReportWithOneThingChangedIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(g *guest)
		want   rats.CodeInfo
	}{
		"other format": {func(g *guest) { g.change = func(e *rats.Evidence) { e.Format = "tpm" } }, snp.CodeMediaType},
		"other media":  {func(g *guest) { g.change = func(e *rats.Evidence) { e.MediaType = "text/plain" } }, snp.CodeMediaType},
		"unknown part": {func(g *guest) { g.change = func(e *rats.Evidence) { e.Parts = []rats.Part{{Name: "x"}} } }, snp.CodeParts},
		"part twice": {func(g *guest) {
			g.change = func(e *rats.Evidence) { e.Parts = []rats.Part{{Name: snp.PartCerts}, {Name: snp.PartCerts}} }
		}, snp.CodeParts},
		"part continued": {func(g *guest) {
			g.change = func(e *rats.Evidence) { e.Parts = []rats.Part{{Name: snp.PartCerts, Offset: 1}} }
		}, snp.CodeParts},
		"bad table": {func(g *guest) {
			g.change = func(e *rats.Evidence) { e.Parts = []rats.Part{{Name: snp.PartCerts, Data: []byte{1}}} }
		}, snp.CodeCertTable},
		"empty":        {func(g *guest) { g.tamper = func([]byte) []byte { return nil } }, snp.CodeMalformed},
		"a byte short": {func(g *guest) { g.tamper = func(b []byte) []byte { return b[:1183] } }, snp.CodeMalformed},
		"a byte more":  {func(g *guest) { g.tamper = func(b []byte) []byte { return append(b, 1) } }, snp.CodeMalformed},
		"too many zeros": {func(g *guest) {
			g.tamper = func(b []byte) []byte { return append(b, append(make([]byte, 9000), 1)...) }
		}, snp.CodeMalformed},
		"2 MiB":          {func(g *guest) { g.tamper = func(b []byte) []byte { return append(b, make([]byte, 2<<20)...) } }, snp.CodeMalformed},
		"version 1":      {func(g *guest) { g.report.Version = 1 }, snp.CodeVersion},
		"version 6":      {func(g *guest) { g.report.Version = 6 }, snp.CodeVersion},
		"algorithm":      {func(g *guest) { g.report.SigAlgo = 2 }, snp.CodeAlgorithm},
		"policy bit 17":  {func(g *guest) { g.report.Policy = 0x10000 }, snp.CodeReserved},
		"key info":       {func(g *guest) { g.report.KeyInfo = 1 << 5 }, snp.CodeReserved},
		"reserved":       {func(g *guest) { g.patch = func(b []byte) { b[0x4c] = 1 } }, snp.CodeReserved},
		"CPUID in v2":    {func(g *guest) { g.report.Version, g.patch = 2, func(b []byte) { b[0x188] = 1 } }, snp.CodeReserved},
		"vector in v3":   {func(g *guest) { g.patch = func(b []byte) { b[0x1f8] = 1 } }, snp.CodeReserved},
		"behind sig":     {func(g *guest) { g.patch = func(b []byte) { b[1183] = 1 } }, snp.CodeReserved},
		"TCB reserved":   {func(g *guest) { g.report.CurrentTCB[3] = 1 }, snp.CodeReserved},
		"unsigned":       {func(g *guest) { g.report.KeyInfo = snp.SignerNone << 2 }, snp.CodeUnsigned},
		"signer 2":       {func(g *guest) { g.report.KeyInfo = 2 << 2 }, snp.CodeUnsigned},
		"no VCEK":        {func(g *guest) { g.endorse = func(d [][]byte) [][]byte { return d[1:] } }, snp.CodeNoVEK},
		"VCEK too large": {func(g *guest) { g.endorse = func(d [][]byte) [][]byte { d[0] = make([]byte, 2<<20); return d } }, snp.CodeNoVEK},
		"VCEK for VLEK":  {func(g *guest) { g.report.KeyInfo = snp.SignerVLEK << 2 }, snp.CodeSigner},
		"VLEK for VCEK":  {func(g *guest) { g.chip.signer = snp.SignerVLEK }, snp.CodeSigner},
		"P-256":          {func(g *guest) { g.chip.public = &ecKey(g.t, elliptic.P256()).PublicKey }, snp.CodeVEK},
		"RSA":            {func(g *guest) { g.chip.public = &g.vendor.key.PublicKey }, snp.CodeVEK},
		"no product":     {func(g *guest) { g.chip.drop = "2" }, snp.CodeVEK},
		"new product":    {func(g *guest) { g.chip.product = "Venice-A0" }, snp.CodeVEK},
		"no SPL":         {func(g *guest) { g.chip.drop = "3.3" }, snp.CodeVEK},
		"SPL 256":        {func(g *guest) { g.chip.replace = map[string][]byte{"3.3": {2, 2, 1, 0}} }, snp.CodeVEK},
		"SPL -1":         {func(g *guest) { g.chip.replace = map[string][]byte{"3.3": {2, 1, 0xff}} }, snp.CodeVEK},
		"SPL and more":   {func(g *guest) { g.chip.replace = map[string][]byte{"3.3": {2, 1, 24, 0}} }, snp.CodeVEK},
		"no chip id":     {func(g *guest) { g.chip.drop = "4" }, snp.CodeVEK},
		"8 byte chip id": {func(g *guest) { g.chip.hwid = g.chip.hwid[:8] }, snp.CodeVEK},
		"VLEK of nobody": {func(g *guest) { g.chip.signer, g.chip.drop, g.report.KeyInfo = snp.SignerVLEK, "5", snp.SignerVLEK<<2 }, snp.CodeVEK},
		"other root":     {func(g *guest) { g.inputs = func(in *rats.Inputs) { in.Anchors = newVendor(g.t, snp.Turin).pool() } }, snp.CodeChain},
		"pinned roots":   {func(g *guest) { g.inputs = func(in *rats.Inputs) { in.Anchors = nil } }, snp.CodeChain},
		"pinned signers": {func(g *guest) {
			g.endorse = func(d [][]byte) [][]byte { return d[:1] }
			g.inputs = func(in *rats.Inputs) { in.Anchors = nil }
		}, snp.CodeChain},
		"no chain": {func(g *guest) { g.endorse = func(d [][]byte) [][]byte { return d[:1] } }, snp.CodeChain},
		"other product": {func(g *guest) {
			g.endorse = func(d [][]byte) [][]byte { d[1] = chainPEM(newVendor(g.t, snp.Milan)); return d }
		}, snp.CodeChain},
		"by ASVK":         {func(g *guest) { g.endorse = func(d [][]byte) [][]byte { d[1] = g.vendor.asvk.Raw; return d } }, snp.CodeChain},
		"other processor": {func(g *guest) { g.report.CPUModel = 1 }, snp.CodeProduct},
		"new processor":   {func(g *guest) { g.report.CPUFamily = 0x1b }, snp.CodeProduct},
		"other key": {func(g *guest) {
			g.endorse = func(d [][]byte) [][]byte {
				g.chip.key = ecKey(g.t, elliptic.P384())
				d[0] = g.vendor.leaf(g.t, g.chip).Raw
				return d
			}
		}, snp.CodeSignature},
		"s is zero":      {func(g *guest) { g.tamper = func(b []byte) []byte { clear(b[0x2e8:0x330]); return b } }, snp.CodeSignature},
		"r is huge":      {func(g *guest) { g.tamper = func(b []byte) []byte { b[0x2e7] = 1; return b } }, snp.CodeSignature},
		"other chip":     {func(g *guest) { g.report.ChipID[63] ^= 1 }, snp.CodeChipID},
		"masked chip":    {func(g *guest) { g.report.ChipID = [64]byte{} }, snp.CodeChipID},
		"other TCB":      {func(g *guest) { g.report.ReportedTCB[7]-- }, snp.CodeTCBOther},
		"expired":        {func(g *guest) { g.chip.from = now.AddDate(-8, 0, 0) }, snp.CodeExpired},
		"expired issuer": {func(g *guest) { g.inputs = func(in *rats.Inputs) { in.Now = now.AddDate(30, 0, 0) } }, snp.CodeExpired},
		"not yet valid":  {func(g *guest) { g.chip.from = now.AddDate(0, 0, 1) }, snp.CodeNotYetValid},
		"issuer not yet": {func(g *guest) { g.inputs = func(in *rats.Inputs) { in.Now = now.AddDate(-9, 0, 0) } }, snp.CodeNotYetValid},
		"revoked":        {func(g *guest) { g.crl = func(g *guest) []byte { return g.vendor.crl(g.t, g.vendor.arkKey, 9, 2) } }, snp.CodeRevoked},
		"forged CRL":     {func(g *guest) { g.crl = forgedCRL }, snp.CodeCRL},
		"other exchange": {func(g *guest) { g.prepare = func(r *snp.Report) { r.ReportData[0] ^= 1 } }, snp.CodeUserData},
		"more than hash": {func(g *guest) { g.prepare = func(r *snp.Report) { r.ReportData[63] = 1 } }, snp.CodeUserData},
		"no user data": {func(g *guest) {
			g.inputs = func(in *rats.Inputs) { in.Binding = rats.Binding{Profile: rats.ProfileRaw} }
		}, snp.CodeBinding},
		"no binding": {func(g *guest) { g.inputs = func(in *rats.Inputs) { in.Binding = rats.Binding{} } }, snp.CodeBinding},
		"long user data": {func(g *guest) {
			g.inputs = func(in *rats.Inputs) { in.Binding = rats.Binding{Profile: rats.ProfileRaw, UserData: make([]byte, 65)} }
		}, snp.CodeBinding},
		"other manifest": {func(g *guest) {
			g.inputs = func(in *rats.Inputs) { in.Binding.Manifest = append(in.Binding.Manifest, 0) }
		}, snp.CodeBinding},
		"no manifest": {func(g *guest) {
			g.bind = func(testing.TB) rats.Binding {
				return rats.Binding{Profile: rats.ProfileAssay, UserData: rats.SHA256().Sum}
			}
		}, snp.CodeBinding},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, snp.Genoa, 3)
			c.change(g)
			_, err := g.verify()
			wantCode(t, err, c.want)
			if missing := c.want.Code == snp.CodeNoVEK.Code; err != nil {
				if r, _ := rats.ReasonOf(err); (r.Tier == rats.None) != missing {
					t.Errorf("tier %s", r.Tier)
				}
			}
		})
	}
}

// forgedCRL is a list in the root's name, signed by its subordinate.
func forgedCRL(g *guest) []byte {
	v := *g.vendor
	v.ark = ca("ARK-"+string(v.product), 1)
	v.ark.SubjectKeyId = []byte{1}
	return v.crl(g.t, v.key)
}

func TestEvidenceIsVerifiedWithCertificatesHoweverTheyCome(t *testing.T) {
	g := newGuest(t, snp.Milan, 3)
	leaf, v := g.vendor.leaf(t, g.chip).Raw, g.vendor
	crl := v.crl(t, v.arkKey)
	certs := table(t, snp.CertEntry{GUID: snp.GUIDVCEK, Data: leaf}, snp.CertEntry{GUID: snp.GUIDASK, Data: v.ask.Raw}, snp.CertEntry{GUID: snp.GUIDARK, Data: v.ark.Raw},
		snp.CertEntry{GUID: snp.GUIDCRL, Data: crl}, snp.CertEntry{GUID: "00112233-4455-6677-8899-aabbccddeeff", Data: []byte("of the host")})
	thim, err := json.Marshal(map[string]string{"vcekCert": string(pemOf(leaf)), "certificateChain": string(chainPEM(v))})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		endorse [][]byte
		part    []byte
		tail    []byte
	}{
		"DER one by one":      {endorse: [][]byte{leaf, v.ask.Raw, v.ark.Raw, crl}},
		"PEM after some text": {endorse: [][]byte{append([]byte("\n"), pemOf(leaf)...), chainPEM(v), crl}},
		"Azure's JSON":        {endorse: [][]byte{thim, crl}},
		"a folder of others":  {endorse: [][]byte{g.vendor.leaf(t, newGuest(t, snp.Milan, 3).chip).Raw, leaf, chainPEM(v), chainPEM(newVendor(t, snp.Turin)), crl}},
		"table endorsed":      {endorse: [][]byte{certs}},
		"table as a part":     {part: certs},
		"table in pages":      {part: append(bytes.Clone(certs), make([]byte, 4096)...)},
		"table in the body":   {tail: certs},
		"PEM as a part":       {part: append(append(pemOf(leaf), chainPEM(v)...), crlPEM(crl)...)},
		"DER as a part":       {part: leaf, endorse: [][]byte{chainPEM(v), crl}},
	} {
		t.Run(name, func(t *testing.T) {
			g := g
			g.t = t
			g.endorse = func([][]byte) [][]byte { return c.endorse }
			g.change = func(e *rats.Evidence) {
				e.Body = append(e.Body, c.tail...)
				if c.part != nil {
					e.Parts = []rats.Part{{Name: snp.PartCerts, Data: c.part}}
				}
			}
			got, err := g.verify()
			if err != nil {
				t.Fatal(err)
			}
			if c := got.Claims.(*snp.Claims); c.CRL.Status != snp.CRLCurrent {
				t.Errorf("revocations: %+v", c.CRL)
			}
		})
	}
}

func pemOf(der []byte) []byte {
	return []byte("-----BEGIN CERTIFICATE-----\n" + base64.StdEncoding.EncodeToString(der) + "\n-----END CERTIFICATE-----\n")
}

func crlPEM(der []byte) []byte {
	return []byte("-----BEGIN X509 CRL-----\n" + base64.StdEncoding.EncodeToString(der) + "\n-----END X509 CRL-----\n")
}

func TestChipIDMayBeWrappedAndVersionNumbersLong(t *testing.T) {
	g := newGuest(t, snp.Milan, 2)
	g.chip.replace = map[string][]byte{"4": append([]byte{4, 64}, g.chip.hwid...)}
	g.chip.product = "Milan"
	if _, err := g.verify(); err != nil {
		t.Error(err)
	}
	if der := g.vendor.leaf(t, g.chip).Extensions; !slices.ContainsFunc(der, func(e pkix.Extension) bool { return bytes.Equal(e.Value, []byte{2, 2, 0, 219}) }) {
		t.Error("the test doesn't show a number of two bytes")
	}
}

func TestRevocationListsAreReportedByAge(t *testing.T) {
	for name, c := range map[string]struct {
		docs func(g *guest, d [][]byte) [][]byte
		at   time.Time
		want string
	}{
		"none": {func(_ *guest, d [][]byte) [][]byte { return d[:2] }, now, snp.CRLMissing},
		"of another": {func(g *guest, d [][]byte) [][]byte {
			o := newVendor(g.t, snp.Turin)
			d[2] = o.crl(g.t, o.arkKey)
			return d
		}, now, snp.CRLMissing},
		"no root":        {func(g *guest, d [][]byte) [][]byte { d[1] = g.vendor.ask.Raw; return d }, now, snp.CRLMissing},
		"current":        {func(_ *guest, d [][]byte) [][]byte { return d }, now, snp.CRLCurrent},
		"a year later":   {func(_ *guest, d [][]byte) [][]byte { return d }, now.AddDate(1, 1, 0), snp.CRLExpired},
		"two months ago": {func(_ *guest, d [][]byte) [][]byte { return d }, now.AddDate(0, -2, 0), snp.CRLNotYetValid},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, snp.Milan, 2)
			g.endorse = func(d [][]byte) [][]byte { return c.docs(g, d) }
			g.inputs = func(in *rats.Inputs) { in.Now = c.at }
			v, err := g.verify()
			if err != nil {
				t.Fatal(err)
			}
			if got := v.Claims.(*snp.Claims).CRL.Status; got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if v.Until.Before(c.at) {
				t.Error("verified until before it was verified")
			}
		})
	}
}

// R104: the status comes from collateral only.
func TestTCBStatusComesFromTheNewestMinimum(t *testing.T) {
	doc := func(date, next string, microcode int) []byte {
		return fmt.Appendf(nil, `{"type":%q,"date":%q,%s"tcb":{"Milan":{"bootloader":4,"snp":24,"microcode":%d}},"advisories":["AMD-SB-3019"]}`, snp.MinimumType, date, next, microcode)
	}
	for name, c := range map[string]struct {
		docs [][]byte
		want string
	}{
		"none":              {nil, snp.StatusUnknown},
		"met":               {[][]byte{doc("2025-06-01T00:00:00Z", "", 219)}, snp.StatusUpToDate},
		"not met":           {[][]byte{doc("2025-06-01T00:00:00Z", "", 220)}, snp.StatusOutOfDate},
		"newest wins":       {[][]byte{doc("2025-06-02T00:00:00Z", "", 220), doc("2025-06-01T00:00:00Z", "", 1)}, snp.StatusOutOfDate},
		"of the future":     {[][]byte{doc("2026-06-01T00:00:00Z", "", 1)}, snp.StatusUnknown},
		"of the past":       {[][]byte{doc("2025-06-01T00:00:00Z", `"next":"2025-07-01T00:00:00Z",`, 1)}, snp.StatusUnknown},
		"unknown field":     {[][]byte{[]byte(`{"type":"` + snp.MinimumType + `","date":"2025-06-01T00:00:00Z","tcb":{"Milan":{}},"x":1}`)}, snp.StatusUnknown},
		"for other product": {[][]byte{[]byte(`{"type":"` + snp.MinimumType + `","date":"2025-06-01T00:00:00Z","tcb":{"Genoa":{}}}`)}, snp.StatusUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, snp.Milan, 2)
			g.endorse = func(d [][]byte) [][]byte { return append(d, c.docs...) }
			v, err := g.verify()
			if err != nil {
				t.Fatal(err)
			}
			status, advisories, date := v.Claims.(*snp.Claims).TCBStatus()
			if status != c.want || (len(advisories) > 0) != (status == snp.StatusOutOfDate) || date.IsZero() != (status == snp.StatusUnknown) {
				t.Errorf("%s %v %s, want %s", status, advisories, date, c.want)
			}
		})
	}
}

func TestDebuggableGuestIsMarked(t *testing.T) {
	g := newGuest(t, snp.Milan, 2)
	g.report.Policy |= 1 << 19
	v, err := g.verify()
	if err != nil || !slices.Equal(v.Marks, []string{rats.MarkDebug}) || !v.Claims.(*snp.Claims).DebugEnabled() {
		t.Errorf("%v, %v", err, v.Marks)
	}
}

func TestShorterUserDataIsAPrefixAndNoneIsNotCompared(t *testing.T) {
	g := newGuest(t, snp.Milan, 2)
	g.bind = func(testing.TB) rats.Binding {
		return rats.Binding{Profile: rats.ProfileRaw, UserData: []byte("challenge")}
	}
	if _, err := g.verify(); err != nil {
		t.Error(err)
	}
	g.inputs = func(in *rats.Inputs) { in.Binding = rats.Binding{Profile: rats.ProfileNone} }
	v, err := g.verify()
	if err != nil || v.Claims.(*snp.Claims).Binding != snp.BoundNone || len(v.Facts.UserData) != 0 {
		t.Errorf("%v", err)
	}
}

func TestReportsSurviveBytesAndFiles(t *testing.T) {
	for _, version := range []uint32{2, 3, 5} {
		g := newGuest(t, snp.Turin, version)
		e, _ := g.make()
		r, err := snp.ParseReport(e.Body)
		if err != nil || !bytes.Equal(r.Bytes(), e.Body) {
			t.Fatalf("version %d: %v", version, err)
		}
		leaf := g.vendor.leaf(t, g.chip).Raw
		certs := table(t, snp.CertEntry{GUID: snp.GUIDVCEK, Data: leaf})
		answer := make([]byte, 32)
		binary.LittleEndian.PutUint32(answer[4:], snp.ReportSize)
		for name, file := range map[string][]byte{
			"raw": e.Body, "zeros": append(bytes.Clone(e.Body), make([]byte, 4000)...), "table": append(bytes.Clone(e.Body), certs...),
			"answer": append(append(answer, e.Body...), make([]byte, 2000)...), "hex": []byte(hex.EncodeToString(e.Body) + "\n"),
			"base64": []byte(base64.StdEncoding.EncodeToString(e.Body)),
		} {
			got, err := snp.Import(file)
			if err != nil || !bytes.Equal(got.Body, e.Body) || (len(got.Parts) > 0) != (name == "table") {
				t.Errorf("version %d, %s: %v", version, name, err)
			}
		}
	}
}

func TestOtherFilesAreNotImported(t *testing.T) {
	for name, c := range map[string]struct {
		file []byte
		want rats.CodeInfo
	}{
		"empty":         {nil, snp.CodeMalformed},
		"text":          {[]byte("hello, world"), snp.CodeMalformed},
		"other JSON":    {[]byte(`{"a":1}`), snp.CodeUnknownForm},
		"no JSON":       {[]byte(`{`), snp.CodeUnknownForm},
		"short field":   {[]byte(`{"attestation_report":{"family_id":[1,2]}}`), snp.CodeUnknownForm},
		"no byte":       {[]byte(`{"attestation_report":{"family_id":[256]}}`), snp.CodeUnknownForm},
		"no bytes":      {[]byte(`{"attestation_report":{"family_id":"%"}}`), snp.CodeUnknownForm},
		"huge":          {make([]byte, 2<<20), snp.CodeUnknownForm},
		"another table": {append(make([]byte, 1184), 1), snp.CodeMalformed},
	} {
		_, err := snp.Import(c.file)
		if !hasCode(err, c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want.Code)
		}
	}
}

func TestDetectTellsReportsFromOtherBytes(t *testing.T) {
	g := newGuest(t, snp.Milan, 2)
	e, _ := g.make()
	h := newGuest(t, snp.Milan, 2)
	p := newParavisor(t, h)
	hcl, _ := h.make()
	td := tdWrap(p)(nil)
	for name, c := range map[string]struct {
		b    []byte
		want bool
	}{
		"report": {e.Body, true}, "padded": {append(bytes.Clone(e.Body), 0), true}, "paravisor": {hcl.Body, true}, "TD": {td, false},
		"zeros": {make([]byte, 1184), false}, "short": {e.Body[:1183], false}, "nothing": {nil, false},
	} {
		if snp.Detect(c.b) != c.want {
			t.Errorf("%s: %v", name, !c.want)
		}
	}
}

func TestBadCertificateTablesAreRefused(t *testing.T) {
	good := table(t, snp.CertEntry{GUID: snp.GUIDVCEK, Data: []byte("abc")}, snp.CertEntry{GUID: snp.GUIDASK, Data: []byte("de")})
	if got, err := snp.ParseCertTable(good); err != nil || len(got) != 2 || string(got[1].Data) != "de" || got[0].GUID != snp.GUIDVCEK {
		t.Fatalf("%v %v", got, err)
	}
	for at, n := range map[int]uint32{16: 0, 20: 0xffffffff, 24 + 16: 30, 24 + 20: 10000} {
		bad := bytes.Clone(good)
		binary.LittleEndian.PutUint32(bad[at:], n)
		if _, err := snp.ParseCertTable(bad); !hasCode(err, snp.CodeCertTable) {
			t.Errorf("%d at %d: %v", n, at, err)
		}
	}
	for name, bad := range map[string][]byte{
		"truncated": good[:70], "tail": append(bytes.Clone(good), 1), "endless": bytes.Repeat(good[:24], 40),
	} {
		if _, err := snp.ParseCertTable(bad); !hasCode(err, snp.CodeCertTable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// R116: of a genuine report no signed byte may change, and none be missing.
func TestEveryChangedByteAndEveryTruncationOfGenuineReportsIsRefused(t *testing.T) {
	v := snp.New()
	for file, c := range map[string]struct {
		cert string
		size int            // of what is declared; zeros follow
		skip func(int) bool // bytes nobody vouches for, or shown by the other file
	}{
		"snp/trustee/test-report.bin": {"snp/trustee/test-vcek.der", snp.ReportSize, func(int) bool { return false }},
		"snp/azure-trustee/hcl-report.bin": {"snp/azure-trustee/vcek.pem", 2346, func(i int) bool {
			return unsignedHCL(i) || i >= 32 && i < 32+snp.ReportSize && i%16 != 0
		}},
	} {
		in := rats.Inputs{
			Binding: rats.Binding{Profile: rats.ProfileNone}, Now: time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC),
			Endorsements: []rats.Endorsement{{Body: recording(t, c.cert)}},
		}
		body := recording(t, file)
		e := rats.Evidence{Format: snp.Format, MediaType: snp.MediaType, Body: body}
		if _, err := v.Verify(t.Context(), e, in); err != nil {
			t.Fatal(file, err)
		}
		for i := range body {
			if c.skip(i) || testing.Short() && i%8 != 0 {
				continue
			}
			e.Body = bytes.Clone(body)
			e.Body[i] ^= 0x10
			if _, err := v.Verify(t.Context(), e, in); err == nil {
				t.Errorf("%s: byte %d changed and it verifies", file, i)
			}
		}
		for n := range c.size {
			e.Body = body[:n]
			if _, err := v.Verify(t.Context(), e, in); err == nil {
				t.Errorf("%s: %d bytes verify", file, n)
			}
		}
	}
}

// unsignedHCL says which bytes of a paravisor's report nobody signs and no structure depends on: request type, status and reserved
// fields of its header, the version of the data.
func unsignedHCL(i int) bool { return i >= 12 && i < 32 || i >= 1220 && i < 1224 }
