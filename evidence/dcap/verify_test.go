package dcap_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/internal/testkit/dcaptest"
	"github.com/assay-attest/assay/rats"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// scene is a valid quote with all that belongs to it; tests change one thing.
type scene struct {
	intel   *dcaptest.Intel
	machine *dcaptest.Machine
	v       *dcap.Verifier
	in      rats.Inputs
}

func newScene() *scene {
	i := dcaptest.NewIntel(rand.Reader, now)
	return &scene{intel: i, machine: i.Machine(4, 5), v: dcap.NewVerifier(), in: rats.Inputs{
		Now: now, Anchors: i.Pool(), Endorsements: i.Collateral("SGX"), Binding: rats.Binding{Profile: rats.ProfileNone},
	}}
}

func (s *scene) quote() []byte { return s.machine.Quote(3, abi.TEESGX, dcaptest.SGXBody(nil).Bytes()) }

func (s *scene) verify(t testing.TB, b []byte) (dcap.Verdict, error) {
	t.Helper()
	q, err := dcap.ParseQuote(b)
	if err != nil {
		return dcap.Verdict{}, err
	}
	return s.v.Verify(q, nil, s.in)
}

func problems(v dcap.Verdict) (out []rats.Code) {
	for _, p := range v.Collateral.Problems {
		out = append(out, p.Code)
	}
	return out
}

func TestFakeQuotesOfEveryVersionVerify(t *testing.T) {
	s := newScene()
	for _, version := range []uint16{3, 4, 5} {
		b := s.machine.Quote(version, abi.TEESGX, dcaptest.SGXBody(nil).Bytes())
		v, err := s.verify(t, append(b, make([]byte, 100)...))
		if err != nil || v.TCB.Status != dcap.UpToDate || !v.Platform.QE.Confirmed || !v.Collateral.RootCRL || !v.Collateral.PCKCRL || len(v.Collateral.Problems) > 0 {
			t.Errorf("version %d: %v %+v", version, err, v)
		}
		q, err := dcap.ParseQuote(b)
		if err != nil || !bytes.Equal(q.Encode(), b) || !dcap.Detect(b, abi.TEESGX) {
			t.Errorf("version %d is not written as it was read", version)
		}
	}
}

// The refusal matrix: a valid quote with one thing changed (R103, R169, R170).
func TestQuoteWithOneThingChangedIsRefused(t *testing.T) {
	other := dcaptest.NewIntel(rand.Reader, now)
	le := binary.LittleEndian
	sigLen := abi.QuoteHeaderSize + abi.ReportBodySize
	edit := func(change func([]byte) []byte) func(*scene) []byte {
		return func(s *scene) []byte { return change(s.quote()) }
	}
	set := func(offset int, value byte) func(*scene) []byte {
		return edit(func(b []byte) []byte { b[offset] ^= value; return b })
	}
	for name, c := range map[string]struct {
		make func(*scene) []byte
		code rats.Code
	}{
		"version 2":           {set(0, 1), dcap.CodeQuoteUnsupported.Code},
		"P-384 key":           {set(2, 1), dcap.CodeQuoteUnsupported.Code},
		"TDX in version 3":    {set(4, 0x81), dcap.CodeQuoteUnsupported.Code},
		"other vendor":        {set(12, 1), dcap.CodeQuoteUnsupported.Code},
		"truncated":           {edit(func(b []byte) []byte { return b[:len(b)-1] }), dcap.CodeQuoteMalformed.Code},
		"longer signature":    {edit(func(b []byte) []byte { le.PutUint32(b[sigLen:], 0xffffffff); return b }), dcap.CodeQuoteMalformed.Code},
		"shorter signature":   {edit(func(b []byte) []byte { le.PutUint32(b[sigLen:], le.Uint32(b[sigLen:])-1); return b }), dcap.CodeQuoteMalformed.Code},
		"too long":            {edit(func(b []byte) []byte { return append(b, make([]byte, 300<<10)...) }), dcap.CodeQuoteMalformed.Code},
		"trailing byte":       {edit(func(b []byte) []byte { return append(b, 0, 0, 1) }), dcap.CodeQuoteTrailing.Code},
		"too much padding":    {edit(func(b []byte) []byte { return append(b, make([]byte, 9000)...) }), dcap.CodeQuoteTrailing.Code},
		"nested data":         {func(s *scene) []byte { s.machine.CertType = 6; return s.quote() }, dcap.CodeQuoteMalformed.Code},
		"unknown data":        {func(s *scene) []byte { s.machine.CertType = 8; return s.quote() }, dcap.CodeQuoteMalformed.Code},
		"header":              {set(30, 1), dcap.CodeQuoteSignature.Code},
		"measurement":         {set(112, 1), dcap.CodeQuoteSignature.Code},
		"signature":           {set(sigLen+4, 1), dcap.CodeQuoteSignature.Code},
		"attestation key":     {set(sigLen+4+64, 1), dcap.CodeKeyUnbound.Code},
		"QE report":           {set(sigLen+4+128+64, 1), dcap.CodeQESignature.Code},
		"QE signature":        {set(sigLen+4+128+384, 1), dcap.CodeQESignature.Code},
		"authentication data": {set(sigLen+4+128+448+2, 1), dcap.CodeKeyUnbound.Code},
		"key off the curve":   {offCurve, dcap.CodeQuoteKey.Code},
		"debug QE":            {func(s *scene) []byte { s.machine.QE.Attributes.Flags |= abi.FlagDebug; return s.quote() }, dcap.CodeQEDebug.Code},
		"other QE signer":     {func(s *scene) []byte { s.machine.QE.MRSIGNER[1] ^= 1; return s.quote() }, dcap.CodeQEIdentity.Code},
		"other QE product":    {func(s *scene) []byte { s.machine.QE.ISVProdID++; return s.quote() }, dcap.CodeQEIdentity.Code},
		"other QE attributes": {func(s *scene) []byte { s.machine.QE.Attributes.Flags |= 1 << 40; return s.quote() }, dcap.CodeQEIdentity.Code},
		"other QE misc":       {func(s *scene) []byte { s.machine.QE.MiscSelect = 1; return s.quote() }, dcap.CodeQEIdentity.Code},
		"no chain": {func(s *scene) []byte {
			s.machine.CertType, s.machine.CertData = 1, dcaptest.KeyID(4, 5)
			return s.quote()
		}, dcap.CodeChainMissing.Code},
		"leaf alone": {func(s *scene) []byte {
			s.machine.CertType, s.machine.CertData, s.in.Endorsements = 4, s.machine.PCK.PEM(), nil
			return s.quote()
		}, dcap.CodeChainMissing.Code},
		"chain in type 4": {func(s *scene) []byte { s.machine.CertType = 4; return s.quote() }, dcap.CodeChainMalformed.Code},
		"leaf in type 5":  {func(s *scene) []byte { s.machine.CertData = s.machine.PCK.PEM(); return s.quote() }, dcap.CodeChainMalformed.Code},
		"broken chain":    {func(s *scene) []byte { s.machine.CertData = s.machine.CertData[30:]; return s.quote() }, dcap.CodeChainMalformed.Code},
		"text in the chain": {func(s *scene) []byte {
			s.machine.CertData = append([]byte("x"), s.machine.CertData...)
			return s.quote()
		}, dcap.CodeChainMalformed.Code},
		"other CA's leaf": {func(s *scene) []byte {
			s.machine.CertData = slices.Concat(s.machine.PCK.PEM(), other.Platform.PEM(), other.Root.PEM())
			return s.quote()
		}, dcap.CodeChainSignature.Code},
		"other root":        {func(s *scene) []byte { s.machine = other.Machine(4, 5); return s.quote() }, dcap.CodeChainRoot.Code},
		"only Intel's root": {func(s *scene) []byte { s.in.Anchors = nil; return s.quote() }, dcap.CodeChainRoot.Code},
		"other root at end": {func(s *scene) []byte {
			s.machine.CertData = slices.Concat(s.machine.PCK.PEM(), s.machine.CA.PEM(), other.Root.PEM())
			return s.quote()
		}, dcap.CodeChainRoot.Code},
		"leaf of another name": {func(s *scene) []byte {
			s.machine = s.intel.MachineOf(s.intel.Platform, named("Someone"))
			return s.quote()
		}, dcap.CodeChainProfile.Code},
		"no SGX extension": {func(s *scene) []byte { s.machine = s.intel.MachineOf(s.intel.Platform, nil); return s.quote() }, dcap.CodeChainProfile.Code},
		"CA of another name": {func(s *scene) []byte {
			s.machine = s.intel.MachineOf(s.intel.Issue(s.intel.Root, "Intel SGX TCB Signing", true, nil), named("Intel SGX PCK Certificate"))
			return s.quote()
		}, dcap.CodeChainProfile.Code},
		"unknown critical extension": {func(s *scene) []byte {
			s.machine = s.intel.MachineOf(s.intel.Platform, func(c *x509.Certificate) {
				c.ExtraExtensions = []pkix.Extension{dcaptest.SGXExtension(4, 5), {Id: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
			})
			return s.quote()
		}, dcap.CodeChainProfile.Code},
		"expired":      {func(s *scene) []byte { s.in.Now = now.AddDate(5, 0, 1); return s.quote() }, dcap.CodeChainExpired.Code},
		"too early":    {func(s *scene) []byte { s.in.Now = now.AddDate(-5, 0, -1); return s.quote() }, dcap.CodeChainEarly.Code},
		"revoked leaf": {func(s *scene) []byte { s.revoke(s.intel.Platform, s.machine.PCK.Cert); return s.quote() }, dcap.CodeRevoked.Code},
		"revoked CA":   {func(s *scene) []byte { s.revoke(s.intel.Root, s.intel.Platform.Cert); return s.quote() }, dcap.CodeRevoked.Code},
		"revoked by an old list": {func(s *scene) []byte {
			s.in.Endorsements = dcaptest.Endorsements(s.intel.CRLAt(s.intel.Platform, now.AddDate(-1, 0, 0), s.machine.PCK.Cert))
			return s.quote()
		}, dcap.CodeRevoked.Code},
	} {
		s := newScene()
		if _, err := s.verify(t, c.make(s)); dcaptest.CodeOf(t, err) != c.code {
			t.Errorf("%s: %v, expected %s", name, err, c.code)
		}
	}
}

func named(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.Subject.CommonName = name
		c.ExtraExtensions = []pkix.Extension{dcaptest.SGXExtension(4, 5)}
	}
}

// offCurve makes a quote whose attestation key, vouched for by the quoting enclave, is no point.
func offCurve(s *scene) []byte {
	b := s.quote()
	at := abi.QuoteHeaderSize + abi.ReportBodySize + 4 + 64
	b[at] ^= 1
	sum := rats.SHA256(b[at:at+64], s.machine.Auth).Sum
	copy(s.machine.QE.ReportData[:], sum)
	out := s.quote()
	copy(out[at:], b[at:at+64])
	return out
}

// revoke adds a list of a later time.
func (s *scene) revoke(a *dcaptest.Authority, c *x509.Certificate) {
	s.in.Endorsements = append(s.in.Endorsements, dcaptest.Endorsements(s.intel.CRLAt(a, now.Add(-time.Minute), c))...)
}

// What is wrong with collateral is told apart from what is wrong with a quote: the quote stays genuine.
func TestProblemsOfCollateralLeaveTheQuoteGenuine(t *testing.T) {
	other := dcaptest.NewIntel(rand.Reader, now)
	type change func(*scene) []rats.Endorsement
	docs := func(info, identity func(*scene) dcaptest.Object) change {
		return func(s *scene) []rats.Endorsement { return s.intel.Endorse(info(s), identity(s)) }
	}
	info := func(with dcaptest.Object) func(*scene) dcaptest.Object {
		return func(s *scene) dcaptest.Object {
			return s.intel.TCBInfo("SGX", dcaptest.Level(4, 4, 5, "UpToDate")).With(with)
		}
	}
	identity := func(with dcaptest.Object) func(*scene) dcaptest.Object {
		return func(s *scene) dcaptest.Object {
			return s.intel.Identity("QE", dcaptest.SVNLevel(6, "UpToDate")).With(with)
		}
	}
	replace := func(i int, b func(*scene) []byte) change {
		return func(s *scene) []rats.Endorsement {
			es := s.intel.Collateral("SGX")
			es[i].Body = b(s)
			return es
		}
	}
	for name, c := range map[string]struct {
		make change
		code rats.Code
	}{
		"none":                {func(*scene) []rats.Endorsement { return nil }, dcap.CodeTCBInfoMissing.Code},
		"no identity":         {func(s *scene) []rats.Endorsement { return slices.Delete(s.intel.Collateral("SGX"), 1, 2) }, dcap.CodeIdentityMissing.Code},
		"other FMSPC":         {docs(info(dcaptest.Object{"fmspc": "00FACE000001"}), identity(nil)), dcap.CodeTCBInfoOther.Code},
		"other PCEID":         {docs(info(dcaptest.Object{"pceId": "0001"}), identity(nil)), dcap.CodeTCBInfoOther.Code},
		"other technology":    {func(s *scene) []rats.Endorsement { return s.intel.Collateral("TDX") }, dcap.CodeTCBInfoOther.Code},
		"malformed":           {docs(info(dcaptest.Object{"tcbLevels": nil}), identity(nil)), dcap.CodeCollateralMalformed.Code},
		"no levels":           {docs(info(dcaptest.Object{"tcbLevels": []int{}}), identity(nil)), dcap.CodeCollateralMalformed.Code},
		"signed by another":   {replace(0, func(s *scene) []byte { return other.Document("tcbInfo", info(nil)(s)) }), dcap.CodeCollateralSignature.Code},
		"no signer":           {replace(2, func(*scene) []byte { return other.Root.PEM() }), dcap.CodeCollateralSignature.Code},
		"signer of another":   {replace(2, func(*scene) []byte { return other.Signer.PEM() }), dcap.CodeCollateralSignature.Code},
		"revoked signer":      {replace(3, func(s *scene) []byte { return s.intel.CRL(s.intel.Root, s.intel.Signer.Cert) }), dcap.CodeCollateralSigner.Code},
		"list of another":     {replace(5, func(*scene) []byte { return other.CRL(other.Platform) }), dcap.CodeCRLSignature.Code},
		"list of another PCS": {replace(3, func(*scene) []byte { return other.CRL(other.Root) }), dcap.CodeCRLSignature.Code},
	} {
		s := newScene()
		s.in.Endorsements = c.make(s)
		v, err := s.verify(t, s.quote())
		if err != nil || !slices.Contains(problems(v), c.code) {
			t.Errorf("%s: %v, %v, expected %s", name, err, problems(v), c.code)
		}
		var r dcap.Rules
		if reasons := r.Check(v.Platform, v.TCB, v.Collateral, now); rats.Worst(reasons) == rats.Affirming || !hasCode(reasons, c.code) {
			t.Errorf("%s is accepted: %v", name, reasons)
		}
	}
}

func hasCode(reasons []rats.Reason, code rats.Code) bool {
	return slices.ContainsFunc(reasons, func(r rats.Reason) bool { return r.Code == code })
}

// Of several documents the valid one counts, then the later TCB recovery.
func TestBestOfSeveralDocumentsIsUsed(t *testing.T) {
	s := newScene()
	level := dcaptest.Level(4, 4, 5, "UpToDate")
	stale := s.intel.TCBInfo("SGX", level).With(dcaptest.Object{"nextUpdate": "2026-03-03T06:00:00Z", "tcbEvaluationDataNumber": 30})
	newer := s.intel.TCBInfo("SGX", dcaptest.Level(4, 4, 5, "OutOfDate")).With(dcaptest.Object{"tcbEvaluationDataNumber": 18})
	s.in.Endorsements = append(s.in.Endorsements, dcaptest.Endorsements(s.intel.Document("tcbInfo", stale), s.intel.Document("tcbInfo", newer))...)
	v, err := s.verify(t, s.quote())
	if err != nil || v.TCB.Status != dcap.OutOfDate || v.TCB.EvaluationNumber != 17 {
		t.Errorf("%v %+v", err, v.TCB)
	}
}

// Verification at a stated time is reproducible: the window says from when until when collateral holds (R115).
func TestWindowOfCollateralIsWhatItsPartsShare(t *testing.T) {
	s := newScene()
	v, err := s.verify(t, s.quote())
	if err != nil || !v.Collateral.From.Equal(now.AddDate(0, 0, -1)) || !v.Collateral.Until.Equal(now.AddDate(0, 0, -1).AddDate(0, 1, 0)) || !v.Until.Equal(v.Collateral.Until) {
		t.Fatalf("%v %+v", err, v.Collateral)
	}
	var r dcap.Rules
	for _, c := range []struct {
		at   time.Time
		code rats.Code
	}{{now, ""}, {v.Collateral.From, ""}, {v.Collateral.Until, ""}, {v.Collateral.From.Add(-time.Second), dcap.CodeCollateralEarly.Code}, {v.Collateral.Until.Add(time.Second), dcap.CodeCollateralExpired.Code}} {
		reasons := r.Check(v.Platform, v.TCB, v.Collateral, c.at)
		if c.code == "" && len(reasons) > 0 || c.code != "" && !hasCode(reasons, c.code) {
			t.Errorf("at %s: %v", c.at, reasons)
		}
	}
	s.in.Now = v.Collateral.Until.Add(time.Hour)
	if late, err := s.verify(t, s.quote()); err != nil || late.TCB.Status != dcap.UpToDate || !late.Until.After(s.in.Now) {
		t.Errorf("expired collateral: %v %+v", err, late)
	}
}

// R103: a certificate handed over beside the quote serves where the quote has none (types 1 to 4 and 7).
func TestChainBesideTheQuoteIsUsed(t *testing.T) {
	for _, kind := range []uint16{1, 2, 3, 4, 7} {
		s := newScene()
		stranger := s.intel.Machine(4, 5)
		s.in.Endorsements = append(s.in.Endorsements, dcaptest.Endorsements(stranger.PCK.PEM(), s.machine.PCK.Cert.Raw, s.machine.CA.PEM())...)
		s.machine.CertType, s.machine.CertData = kind, dcaptest.KeyID(4, 5)
		if kind == 4 {
			s.machine.CertData = s.machine.PCK.PEM()
		}
		if v, err := s.verify(t, s.quote()); err != nil || v.TCB.Status != dcap.UpToDate {
			t.Errorf("type %d: %v", kind, err)
		}
		s.in.Endorsements = append(s.intel.Collateral("SGX"), dcaptest.Endorsements(stranger.PCK.PEM(), s.machine.CA.PEM())...)
		if kind == 4 {
			continue
		}
		if _, err := s.verify(t, s.quote()); dcaptest.CodeOf(t, err) != dcap.CodeQESignature.Code {
			t.Errorf("type %d with another machine's certificate: %v", kind, err)
		}
	}
}

// R103: where a quote names its key (types 1 to 3), a certificate of any other key is refused, whoever signed.
func TestCertificateOfAnotherKeyThanNamedIsRefused(t *testing.T) {
	full := dcaptest.KeyID(4, 5)
	edit := func(at int) []byte { b := bytes.Clone(full); b[at]++; return b }
	short := func(kind uint16) []byte {
		return append(make([]byte, map[uint16]int{1: 16, 2: 256}[kind]), full[384:]...)
	}
	for name, c := range map[string]struct {
		kind uint16
		data []byte
		code rats.Code
	}{
		"clear":                    {1, full, ""},
		"clear, not filled":        {1, short(1), ""},
		"clear, without PCE id":    {1, short(1)[:34], ""},
		"RSA-2048":                 {2, full, ""},
		"RSA-2048, not filled":     {2, short(2), ""},
		"RSA-3072":                 {3, full, ""},
		"RSA-3072, any PPID":       {3, edit(0), ""},
		"another PPID":             {1, edit(0), dcap.CodeChainOther.Code},
		"another CPUSVN":           {3, edit(384), dcap.CodeChainOther.Code},
		"a higher CPUSVN":          {2, edit(399), dcap.CodeChainOther.Code},
		"another PCESVN":           {3, edit(400), dcap.CodeChainOther.Code},
		"another PCE id":           {1, edit(402), dcap.CodeChainOther.Code},
		"something in the filling": {1, edit(100), dcap.CodeQuoteMalformed.Code},
		"in RSA-2048's filling":    {2, edit(300), dcap.CodeQuoteMalformed.Code},
		"too short":                {3, full[1:], dcap.CodeQuoteMalformed.Code},
		"too long":                 {3, append(bytes.Clone(full), 0), dcap.CodeQuoteMalformed.Code},
		"nothing":                  {2, nil, dcap.CodeQuoteMalformed.Code},
	} {
		s := newScene()
		s.in.Endorsements = append(s.in.Endorsements, dcaptest.Endorsements(s.machine.PCK.PEM(), s.machine.CA.PEM())...)
		s.machine.CertType, s.machine.CertData = c.kind, c.data
		if _, err := s.verify(t, s.quote()); dcaptest.CodeOf(t, err) != c.code {
			t.Errorf("%s: %v, expected %s", name, err, c.code)
		}
	}
	q, err := dcap.ParseQuote(newScene().quote())
	if err != nil || q.PCKID() != nil || q.PCK() == nil {
		t.Errorf("a quote with its chain: %v", err)
	}
}

func TestChainOfDERIsRead(t *testing.T) {
	s := newScene()
	s.machine.CertData = slices.Concat(s.machine.PCK.Cert.Raw, s.machine.CA.Cert.Raw, s.intel.Root.Cert.Raw)
	if _, err := s.verify(t, s.quote()); err != nil {
		t.Error(err)
	}
}

// A revocation list that doesn't say when its successor comes is no list for ever: the status rests on nothing valid.
func TestRevocationListWithoutNextUpdateHasEnded(t *testing.T) {
	s := newScene()
	s.in.Endorsements[4].Body, s.in.Endorsements[5].Body = s.intel.EndlessCRL(s.intel.Processor), s.intel.EndlessCRL(s.intel.Platform)
	v, err := s.verify(t, s.quote())
	if err != nil {
		t.Fatal(err)
	}
	var r dcap.Rules
	if reasons := r.Check(v.Platform, v.TCB, v.Collateral, now); !v.Collateral.Until.IsZero() || !hasCode(reasons, dcap.CodeCollateralExpired.Code) {
		t.Errorf("until %s: %v", v.Collateral.Until, reasons)
	}
}

// The signer of documents may be under another anchor than the platform: then that one's list must be at hand too.
func TestRevocationListOfTheSignersOwnRootIsDemanded(t *testing.T) {
	s, other := newScene(), dcaptest.NewIntel(rand.Reader, now)
	s.in.Anchors.AddCert(other.Root.Cert)
	info, identity := s.intel.TCBInfo("SGX", dcaptest.Level(4, 4, 5, "UpToDate")), s.intel.Identity("QE", dcaptest.SVNLevel(6, "UpToDate"))
	es := other.Endorse(info, identity)
	es[3].Body = s.intel.CRL(s.intel.Root)
	s.in.Endorsements = append(es, dcaptest.Endorsements(s.intel.CRL(s.intel.Platform))...)
	v, err := s.verify(t, s.quote())
	if err != nil || v.TCB.Status != dcap.UpToDate || v.Collateral.RootCRL {
		t.Errorf("%v %+v", err, v)
	}
	s.in.Endorsements = append(s.in.Endorsements, dcaptest.Endorsements(other.CRL(other.Root, other.Signer.Cert))...)
	if v, err := s.verify(t, s.quote()); err != nil || v.TCB.Status != dcap.Unknown || !slices.Contains(problems(v), dcap.CodeCollateralSigner.Code) {
		t.Errorf("revoked: %v %+v", err, v)
	}
}

// R104: the identity of Intel's own verifier is shown, if Intel signed it, and no status rests on it.
func TestIdentityOfIntelsVerifierIsShown(t *testing.T) {
	s, other := newScene(), dcaptest.NewIntel(rand.Reader, now)
	without, err := s.verify(t, s.quote())
	if err != nil || without.Collateral.QVE != nil {
		t.Fatalf("%v %+v", err, without.Collateral)
	}
	qve := s.intel.Identity("QVE", dcaptest.SVNLevel(9, "UpToDate"), dcaptest.SVNLevel(2, "OutOfDate"))
	ended := qve.With(dcaptest.Object{"issueDate": "2026-01-01T00:00:00Z", "nextUpdate": "2026-02-01T00:00:00Z", "isvprodid": 4})
	s.in.Endorsements = append(s.in.Endorsements, dcaptest.Endorsements(s.intel.Document("enclaveIdentity", ended), s.intel.Document("enclaveIdentity", qve))...)
	with, err := s.verify(t, s.quote())
	if q := with.Collateral.QVE; err != nil || q == nil || q.ISVSVN != 9 || q.ISVProdID != 1 || q.EvaluationNumber != 17 || !q.Until.After(now) || len(q.MRSIGNER) != 64 {
		t.Fatalf("%v %+v", err, q)
	}
	if with.Collateral.Until != without.Collateral.Until || with.TCB.Status != without.TCB.Status || len(with.Collateral.Problems) > 0 {
		t.Errorf("the status rests on it: %+v", with)
	}
	s.in.Endorsements = append(s.intel.Collateral("SGX"), dcaptest.Endorsements(other.Document("enclaveIdentity", qve))...)
	if v, err := s.verify(t, s.quote()); err != nil || v.Collateral.QVE != nil || !slices.Contains(problems(v), dcap.CodeCollateralSignature.Code) {
		t.Errorf("signed by another: %v %+v", err, v.Collateral)
	}
}

// R104: TCB info and identity of different TCB recoveries are judged by the older, and the difference is said.
func TestEvaluationNumbersThatDifferAreSaid(t *testing.T) {
	s := newScene()
	s.in.Endorsements = s.intel.Endorse(
		s.intel.TCBInfo("SGX", dcaptest.Level(4, 4, 5, "UpToDate")).With(dcaptest.Object{"tcbEvaluationDataNumber": 19}),
		s.intel.Identity("QE", dcaptest.SVNLevel(6, "UpToDate")))
	v, err := s.verify(t, s.quote())
	if err != nil || v.TCB.InfoNumber != 19 || v.TCB.IdentityNumber != 17 || v.TCB.EvaluationNumber != 17 {
		t.Fatalf("%v %+v", err, v.TCB)
	}
	for least, want := range map[uint32]rats.Tier{0: rats.Warning, 17: rats.Warning, 18: rats.Contraindicated} {
		r := dcap.Rules{MinEvaluation: least}
		reasons := r.Check(v.Platform, v.TCB, v.Collateral, now)
		if rats.Worst(reasons) != want || !hasCode(reasons, dcap.CodeEvaluationMixed.Code) {
			t.Errorf("at least %d: %v", least, reasons)
		}
	}
}
