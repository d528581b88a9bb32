package enclave

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/rats"
)

// What can be wrong with an enclave's quote.
var (
	CodeMediaType  = code("enclave.evidence.media-type", rats.InstanceIdentity, "the evidence is of another kind", "send evidence of format enclave as "+MediaType)
	CodeParts      = code("enclave.evidence.parts", rats.InstanceIdentity, "a part of the evidence is missing, doubled, too large or unknown", "send exactly the parts that docs/formats/enclave.md lists for the root class")
	CodeUnbound    = code("enclave.quote.unbound", rats.InstanceIdentity, "it is not known what the quote must be bound to", "give the manifest or report data of this exchange, at least 16 bytes")
	CodeBinding    = code("enclave.quote.binding", rats.InstanceIdentity, "the binding does not hang together", "user data must be the SHA-256 of the manifest")
	CodeReportData = code("enclave.quote.report-data", rats.InstanceIdentity, "the report is bound to something else", "a quote answers one challenge only; collect a new one")
	CodeSignature  = code("enclave.quote.signature", rats.InstanceIdentity, "the monitor's signature of the report is not valid", "the report was altered, or signed by another monitor")
	CodeSigstruct  = code("enclave.quote.sigstruct", rats.Executables, "the SIGSTRUCT is not the one of the reported enclave", "send the SIGSTRUCT that the monitor checked when it started the enclave")
	CodePlanSigner = code("enclave.quote.plan-signer", rats.RuntimeOpaque, "the enclave was not started with the plan signer that its manifest names", "the launch configuration (CONFIGID) must be the SHA-256 of the plan signer; restart the enclave")
	CodeReplay     = code("enclave.log.replay", rats.Hardware, "the log does not yield the key register's value", "the log was altered, or the register was extended by something that isn't in it")
	CodeKeyAbsent  = code("enclave.log.key-absent", rats.Hardware, "the monitor's key was not measured", "the key is forged, or the monitor could not measure it; reboot the machine")
	CodeKeyDoubled = code("enclave.log.key-doubled", rats.Hardware, "keys of two monitors were measured in one boot", "one monitor per TPM and boot; reboot the machine")
	CodeOrder      = code("enclave.log.order", rats.Hardware, "the key was not measured before the cap, as a launch in the initrd does", "the key comes from user space, whose administrator could have measured any")
)

func code(c rats.Code, slot rats.Slot, title, hint string) rats.CodeInfo {
	return rats.CodeInfo{Code: c, Slot: slot, Title: title, Hint: hint}
}

var verifyCodes = []rats.CodeInfo{
	CodeMediaType, CodeParts, CodeUnbound, CodeBinding, CodeReportData, CodeSignature, CodeSigstruct, CodePlanSigner, CodeReplay,
	CodeKeyAbsent, CodeKeyDoubled, CodeOrder,
}

var descriptor = &rats.Descriptor{
	ID:            Format,
	Title:         "software enclave",
	Doc:           "formats/enclave.md",
	MediaTypes:    []string{MediaType},
	Needs:         []rats.Format{tpmFormat},
	NewClaims:     func() rats.Claims { return new(Claims) },
	ClaimsVersion: 1,
	NewRules:      func() rats.Rules { return new(Rules) },
	Codes:         Codes,
}

type verifier struct{}

// New returns the verifier.
func New() rats.Verifier { return verifier{} }

// Describe returns the descriptor, for both sides.
func Describe() *rats.Descriptor { return descriptor }

// Descriptor implements rats.Verifier.
func (verifier) Descriptor() *rats.Descriptor { return descriptor }

// Verify implements rats.Verifier. Its inputs are the binding, the parameters of the request, the node's enrolment
// records and the facts of the tpm evidence beside it, if there is any.
func (verifier) Verify(_ context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	if e.Format != Format || e.MediaType != MediaType {
		return rats.Verified{}, CodeMediaType.Bad("media_type", MediaType, clip(e.MediaType))
	}
	q, err := abi.ParseMonitorQuote(e.Body)
	if err != nil {
		return rats.Verified{}, err
	}
	p, err := abi.ParsePlatform(q.Body.CPUSVN)
	if err != nil {
		return rats.Verified{}, err
	}
	parts, err := partsOf(e, p.Root)
	if err != nil {
		return rats.Verified{}, err
	}
	keys, err := checkBinding(in.Binding, q.Body)
	if err != nil {
		return rats.Verified{}, err
	}
	if !q.Verify() {
		return rats.Verified{}, CodeSignature.Bad("body at byte 384", "the key's signature over the report", "another value")
	}
	if err := checkSigstruct(parts[PartSigstruct], q.Body); err != nil {
		return rats.Verified{}, err
	}
	c := claimsOf(q, p)
	v := rats.Verified{
		Claims: c,
		Facts:  rats.Facts{Keys: keys, UserData: [][]byte{bytes.Clone(q.Body.ReportData[:])}},
		Links:  []rats.Link{{From: Format, To: tpmFormat, Kind: rats.LinkNone}},
	}
	if len(keys) > 0 {
		v.Facts.Enclaves = []rats.Enclave{{By: Format, Keys: keys}}
	}
	if p.Root != abi.RootSimulated {
		if err := checkRooted(c, q, p, parts, in); err != nil {
			return rats.Verified{}, err
		}
		v.Links[0].Kind = c.Link
	}
	v.Marks = marksOf(c, p)
	return v, nil
}

func marksOf(c *Claims, p abi.Platform) (marks []string) {
	if p.Root == abi.RootSimulated {
		marks = append(marks, rats.MarkSimulated)
	}
	if c.TPM.Software {
		marks = append(marks, rats.MarkSoftwareTPM)
	}
	if c.Debug {
		marks = append(marks, rats.MarkDebug)
	}
	if c.TestKey {
		marks = append(marks, MarkTestKey)
	}
	return marks
}

// maxEventsPart bounds the log; the largest has 512 events.
const maxEventsPart = 64 << 10

// partsOf returns the parts that the root class needs, and refuses any other: what is not looked at must not look as if
// it counted.
func partsOf(e rats.Evidence, root abi.Root) (map[string][]byte, error) {
	names := []string{PartSigstruct, PartAttest, PartSignature, PartPCRs, PartAK, PartEvents}
	if root == abi.RootSimulated {
		names = names[:1]
	}
	parts := make(map[string][]byte, len(names))
	for _, name := range names {
		p, ok := e.Part(name)
		most := maxTPMPart
		if name == PartEvents {
			most = maxEventsPart
		}
		if !ok || p.Offset != 0 || len(p.Data) > most {
			return nil, CodeParts.Bad("parts."+name, fmt.Sprintf("exactly one, at offset 0, of at most %d bytes", most), "another number, offset or length")
		}
		parts[name] = p.Data
	}
	if len(e.Parts) != len(names) {
		return nil, CodeParts.Bad("parts", strings.Join(names, ", "), fmt.Sprintf("%d parts", len(e.Parts)))
	}
	return parts, nil
}

// minUserData is the shortest binding that can hold a challenge (R107).
const minUserData = 16

// checkBinding compares the report data with what the exchange is about, and returns the keys bound: the report data is
// the user data followed by zeroes (R088).
func checkBinding(b rats.Binding, body abi.ReportBody) ([]rats.BoundKey, error) {
	if b.Profile == rats.ProfileNone {
		return nil, nil
	}
	if len(b.UserData) < minUserData || len(b.UserData) > abi.ReportDataSize {
		return nil, CodeUnbound.Missing("binding.user_data", fmt.Sprintf("%d to %d bytes", minUserData, abi.ReportDataSize), fmt.Sprintf("%d bytes", len(b.UserData)))
	}
	var want [abi.ReportDataSize]byte
	copy(want[:], b.UserData)
	var keys []rats.BoundKey
	if b.Profile == rats.ProfileAssay {
		if sum := rats.SHA256(b.Manifest).Sum; subtle.ConstantTimeCompare(sum, b.UserData) != 1 {
			return nil, CodeBinding.Bad("binding.user_data", hex.EncodeToString(sum), clipHex(b.UserData))
		}
		m, err := rats.DecodeManifest(b.Manifest)
		if err != nil {
			return nil, CodeBinding.Bad("binding.manifest", "an assay/1 manifest", err.Error())
		}
		keys = m.Keys
		if signer, ok := m.Key(rats.KeyPlanSigner); ok {
			if err := checkPlanSigner(signer.Public, body); err != nil {
				return nil, err
			}
		}
	}
	if subtle.ConstantTimeCompare(body.ReportData[:], want[:]) != 1 {
		return nil, CodeReportData.Bad("body at byte 320", hex.EncodeToString(want[:]), hex.EncodeToString(body.ReportData[:]))
	}
	return keys, nil
}

// checkPlanSigner compares the plan signer that the manifest names with the one the enclave was started with (S05).
func checkPlanSigner(spki []byte, body abi.ReportBody) error {
	var want [64]byte
	copy(want[:], rats.SHA256(spki).Sum)
	if body.ConfigID != want {
		return CodePlanSigner.Bad("body at byte 192", hex.EncodeToString(want[:]), hex.EncodeToString(body.ConfigID[:]))
	}
	return nil
}

// checkSigstruct checks the author's certificate and that report and certificate are of one enclave (R100).
func checkSigstruct(b []byte, body abi.ReportBody) error {
	s, err := abi.ParseSigstruct(b)
	if err != nil {
		return err
	}
	if err := s.Verify(); err != nil {
		return err
	}
	m := s.AttributesMask
	for _, c := range []struct {
		ok                   bool
		path, expected, seen string
	}{
		{s.EnclaveHash == body.MRENCLAVE, "enclavehash at byte 960", hex.EncodeToString(body.MRENCLAVE[:]), hex.EncodeToString(s.EnclaveHash[:])},
		{s.MRSIGNER() == body.MRSIGNER, "modulus at byte 128", "the key with hash " + hex.EncodeToString(body.MRSIGNER[:]), "another key"},
		{s.ISVProdID == body.ISVProdID && s.ISVSVN == body.ISVSVN, "isvprodid at byte 1024", fmt.Sprintf("product %d, version %d", body.ISVProdID, body.ISVSVN), fmt.Sprintf("product %d, version %d", s.ISVProdID, s.ISVSVN)},
		{s.Attributes.Flags&m.Flags == body.Attributes.Flags&m.Flags && s.Attributes.XFRM&m.XFRM == body.Attributes.XFRM&m.XFRM, "attributes at byte 928", hex.EncodeToString(body.Attributes.Bytes()), hex.EncodeToString(s.Attributes.Bytes())},
		{s.MiscSelect&s.MiscMask == body.MiscSelect&s.MiscMask, "miscselect at byte 900", fmt.Sprint(body.MiscSelect), fmt.Sprint(s.MiscSelect)},
	} {
		if !c.ok {
			return CodeSigstruct.Bad(PartSigstruct+": "+c.path, c.expected, c.seen)
		}
	}
	return nil
}

// checkRooted verifies what ties the monitor's key to the node's TPM and fills in the claims about it.
func checkRooted(c *Claims, q abi.MonitorQuote, p abi.Platform, parts map[string][]byte, in rats.Inputs) error {
	t, err := checkTPM(parts, q.Extra(), in)
	if err != nil {
		return err
	}
	events, err := abi.ParseEvents(parts[PartEvents])
	if err != nil {
		return err
	}
	if c.Log, err = checkLog(events, q.Key, p.Launch, [32]byte(t.values[abi.KeyPCR])); err != nil {
		return err
	}
	c.MeasuredBy = string(tpmFormat)
	c.TPM = TPM{AK: rats.SHA256(t.enrolment.AK), EK: t.enrolment.EKDigest, Software: t.enrolment.Software, PCRs: make(map[string]string, len(t.values))}
	for n, v := range t.values {
		c.TPM.PCRs[strconv.Itoa(n)] = hex.EncodeToString(v)
	}
	boot := bootID(t.enrolment.AK, t.attest.reset, t.attest.restart)
	for _, b := range in.Facts.Boots {
		if b.By != tpmFormat {
			continue
		}
		if !b.ID.Equal(boot) {
			return CodeOtherTPM.Bad(PartAttest, "the boot of the tpm evidence, "+b.ID.String(), boot.String())
		}
		c.TPM.Same = true
	}
	// From user space anyone who may use the TPM measures any key (S10): that the register holds it proves nothing.
	if c.TPM.Same && p.Launch == abi.LaunchInitrd {
		c.Link = rats.LinkPCRHoldsKey
	}
	return nil
}

// checkLog replays the key register and looks for the monitor's key. With launch initrd the key must stand before the
// first cap, where the measured initrd alone could put it; what user space adds after that is not looked at. Key and cap
// are known by their digests: the sender may leave texts out.
func checkLog(events []abi.Event, key [64]byte, launch abi.Launch, value [32]byte) (LaunchLog, error) {
	l := LaunchLog{Measured: []string{}}
	own, capped := abi.KeyEvent(key), abi.NewEvent(abi.EventCap).Digest
	var now, before [32]byte
	keyAt, capAt, firstAt := -1, -1, -1
	for i, e := range events {
		switch {
		case e.Digest == capped && capAt < 0:
			capAt = i
		case e.Digest == own.Digest && keyAt < 0:
			keyAt = i
		case strings.HasPrefix(e.Text, abi.EventKey) && e.Digest != own.Digest && (launch == abi.LaunchUserspace || capAt < 0):
			return l, CodeKeyDoubled.Bad(fmt.Sprintf("%s[%d]", PartEvents, i), own.Text, clip(e.Text))
		}
		if firstAt < 0 && strings.HasPrefix(e.Text, "assay:") {
			firstAt, before = i, now
		}
		if e.Text != "" && e.Digest != own.Digest && keyAt < 0 && capAt < 0 {
			l.Measured = append(l.Measured, clip(e.Text))
		}
		now = e.Extend(now)
	}
	switch {
	case now != value:
		return l, CodeReplay.Bad(PartEvents, fmt.Sprintf("PCR %d with %x", abi.KeyPCR, value), fmt.Sprintf("%x", now))
	case keyAt < 0:
		return l, CodeKeyAbsent.Bad(PartEvents, own.Text, "nothing of it")
	case launch == abi.LaunchInitrd && capAt < keyAt:
		seen := "after it"
		if capAt < 0 {
			seen = "no cap"
		}
		return l, CodeOrder.Bad(PartEvents, "the key before "+abi.EventCap, seen)
	}
	l.Capped = capAt > keyAt
	if firstAt < 0 || firstAt > keyAt {
		before = replay(events[:keyAt])
	}
	l.BeforeKey = hex.EncodeToString(before[:])
	return l, nil
}

func replay(events []abi.Event) (value [32]byte) {
	for _, e := range events {
		value = e.Extend(value)
	}
	return value
}

func claimsOf(q abi.MonitorQuote, p abi.Platform) *Claims {
	b := q.Body
	digest := func(sum [32]byte) rats.Digest { return rats.Digest{Alg: "sha256", Sum: bytes.Clone(sum[:])} }
	c := &Claims{
		MRENCLAVE: digest(b.MRENCLAVE), MRSIGNER: digest(b.MRSIGNER), ProductID: b.ISVProdID, SVN: b.ISVSVN, ConfigSVN: b.ConfigSVN,
		Attributes: fmt.Sprintf("%016x", b.Attributes.Flags), XFRM: fmt.Sprintf("%016x", b.Attributes.XFRM), MiscSelect: b.MiscSelect,
		Debug: b.Attributes.Debug(), TestKey: b.MRSIGNER == abi.TestMRSIGNER,
		Mode: p.Mode.String(), Launch: p.Launch.String(), Root: p.Root.String(), MonitorSVN: p.SVN, MonitorKey: rats.SHA256(q.Key[:]),
		MeasuredBy: "nothing", IsolatedBy: "os",
		Isolation: Isolation{
			Source: "monitor", ReadableBy: []string{"monitor", "root", "kernel", "physical access"},
			SecretMemory: p.Isolation&abi.IsolationSecretMemory != 0, LockedMemory: p.Isolation&abi.IsolationLockedMemory != 0,
			Seccomp: p.Isolation&abi.IsolationSeccomp != 0, Landlock: p.Isolation&abi.IsolationLandlock != 0,
			NoNewPrivs: p.Isolation&abi.IsolationNoNewPrivs != 0, OwnUser: p.Isolation&abi.IsolationOwnUser != 0,
			DMA: "unknown", Encryption: "unknown",
		},
		TPM: TPM{PCRs: map[string]string{}}, Log: LaunchLog{Measured: []string{}}, Link: rats.LinkNone,
	}
	if b.ConfigID != [64]byte{} {
		c.ConfigID = hex.EncodeToString(b.ConfigID[:])
	}
	return c
}

// clip bounds foreign text in reasons and claims.
func clip(s string) string {
	if len(s) > 255 {
		s = s[:255] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}
