package fakevendor

import (
	"crypto/ecdsa"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/assay-attest/assay/rats"
)

// ModuleSVN is the SVNs of the TDX module that the machines run: module 1.5 (major version 1), SVN 5.
var ModuleSVN = [16]byte{5, 1, 6}

// TCBInfo is Intel's statement about a kind of platform, before it is signed (PCS API v4, appendix A).
type TCBInfo struct {
	ID               string     `json:"id,omitempty"` // SGX, TDX
	Version          int        `json:"version"`
	IssueDate        string     `json:"issueDate"`
	NextUpdate       string     `json:"nextUpdate"`
	FMSPC            string     `json:"fmspc"`
	PCEID            string     `json:"pceId"`
	Type             int        `json:"tcbType"`
	EvaluationNumber int        `json:"tcbEvaluationDataNumber"`
	Module           *Module    `json:"tdxModule,omitempty"`
	Modules          []Module   `json:"tdxModuleIdentities,omitempty"`
	Levels           []TCBLevel `json:"tcbLevels"`
}

// TCBLevel is one level of a platform. TCB holds sgxtcbcomponents, tdxtcbcomponents and pcesvn.
type TCBLevel struct {
	TCB        map[string]any `json:"tcb"`
	Date       string         `json:"tcbDate"`
	Status     string         `json:"tcbStatus"`
	Advisories []string       `json:"advisoryIDs,omitempty"`
}

// Module is the identity of a TDX module.
type Module struct {
	ID             string     `json:"id,omitempty"`
	MRSIGNER       string     `json:"mrsigner"`
	Attributes     string     `json:"attributes"`
	AttributesMask string     `json:"attributesMask"`
	Levels         []SVNLevel `json:"tcbLevels,omitempty"`
}

// SVNLevel is one level of a module or quoting enclave.
type SVNLevel struct {
	TCB        map[string]int `json:"tcb"` // isvsvn
	Date       string         `json:"tcbDate"`
	Status     string         `json:"tcbStatus"`
	Advisories []string       `json:"advisoryIDs,omitempty"`
}

// Identity is Intel's statement about a quoting enclave, before it is signed (PCS API v4, appendix B).
type Identity struct {
	ID               string     `json:"id"` // QE, TD_QE, QVE
	Version          int        `json:"version"`
	IssueDate        string     `json:"issueDate"`
	NextUpdate       string     `json:"nextUpdate"`
	EvaluationNumber int        `json:"tcbEvaluationDataNumber"`
	MiscSelect       string     `json:"miscselect"`
	MiscSelectMask   string     `json:"miscselectMask"`
	Attributes       string     `json:"attributes"`
	AttributesMask   string     `json:"attributesMask"`
	MRSIGNER         string     `json:"mrsigner"`
	ISVProdID        int        `json:"isvprodid"`
	Levels           []SVNLevel `json:"tcbLevels"`
}

// EvaluationNumber is the number that documents carry unless changed.
const EvaluationNumber = 17

// Stamp is a time as documents write it.
func Stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// dates returns when a document made now was issued and when the next one comes.
func (i *Intel) dates() (issued, next string) {
	return Stamp(i.now()), Stamp(i.now().AddDate(0, 0, listDays))
}

// Sign signs a document under its name in JSON: tcbInfo, enclaveIdentity, tcbEvaluationDataNumbers.
func (i *Intel) Sign(name string, v any) []byte {
	raw := must(json.Marshal(v))
	sig := signRS(i.rand, i.TCBSigner.Key.(*ecdsa.PrivateKey), raw)
	return fmt.Appendf(nil, `{"%s":%s,"signature":"%x"}`, name, raw, sig)
}

type component struct {
	SVN int `json:"svn"`
}

func components(svns [16]byte) []component {
	out := make([]component, len(svns))
	for i, svn := range svns {
		out[i].SVN = int(svn)
	}
	return out
}

// older returns SVNs of which the first is one less.
func older(svns [16]byte) [16]byte {
	if svns[0] > 0 {
		svns[0]--
	}
	return svns
}

// TCBInfo makes and signs the statement about a machine's kind: two levels, of which the machine is at the upper one.
// The id is SGX or TDX.
func (i *Intel) TCBInfo(p *Platform, id string, changes ...func(*TCBInfo)) []byte {
	issued, next := i.dates()
	t := TCBInfo{
		ID: id, Version: 3, IssueDate: issued, NextUpdate: next, FMSPC: hex.EncodeToString(p.FMSPC[:]), PCEID: hex.EncodeToString(p.PCEID[:]),
		EvaluationNumber: EvaluationNumber,
	}
	date := Stamp(i.now().AddDate(0, -2, 0))
	level := func(sgx, tdx [16]byte, status string, advisories ...string) TCBLevel {
		l := TCBLevel{TCB: map[string]any{"sgxtcbcomponents": components(sgx), "pcesvn": p.PCESVN}, Date: date, Status: status, Advisories: advisories}
		if id == "TDX" {
			l.TCB["tdxtcbcomponents"] = components(tdx)
		}
		return l
	}
	t.Levels = []TCBLevel{
		level(p.Components, ModuleSVN, "UpToDate"),
		level(older(p.Components), older(ModuleSVN), "OutOfDate", "INTEL-SA-00001"),
	}
	if id == "TDX" {
		m := Module{MRSIGNER: hex.EncodeToString(make([]byte, 48)), Attributes: "0000000000000000", AttributesMask: "FFFFFFFFFFFFFFFF"}
		t.Module = &Module{MRSIGNER: m.MRSIGNER, Attributes: m.Attributes, AttributesMask: m.AttributesMask}
		m.ID = fmt.Sprintf("TDX_%02x", ModuleSVN[1])
		m.Levels = []SVNLevel{
			{TCB: map[string]int{"isvsvn": int(ModuleSVN[0])}, Date: date, Status: "UpToDate"},
			{TCB: map[string]int{"isvsvn": 1}, Date: date, Status: "OutOfDate", Advisories: []string{"INTEL-SA-00002"}},
		}
		t.Modules = []Module{m}
	}
	for _, change := range changes {
		change(&t)
	}
	return i.Sign("tcbInfo", t)
}

// V2 turns a statement about SGX into version 2.
func (t *TCBInfo) V2() {
	t.ID, t.Version = "", 2
	for i, l := range t.Levels {
		tcb := map[string]any{"pcesvn": l.TCB["pcesvn"]}
		for n, c := range l.TCB["sgxtcbcomponents"].([]component) {
			tcb[fmt.Sprintf("sgxtcbcomp%02dsvn", n+1)] = c.SVN
		}
		t.Levels[i].TCB = tcb
	}
}

// Identity makes and signs the statement about the quoting enclave that machines have: QE or TD_QE.
func (i *Intel) Identity(id string, changes ...func(*Identity)) []byte {
	issued, next := i.dates()
	qe := i.quotingEnclave(id)
	date := Stamp(i.now().AddDate(0, -2, 0))
	d := Identity{
		ID: id, Version: 2, IssueDate: issued, NextUpdate: next, EvaluationNumber: EvaluationNumber,
		MiscSelect: "00000000", MiscSelectMask: "FFFFFFFF",
		Attributes: "11000000000000000000000000000000", AttributesMask: "FBFFFFFFFFFFFFFF0000000000000000",
		MRSIGNER: hex.EncodeToString(qe.MRSIGNER[:]), ISVProdID: int(qe.ISVProdID),
		Levels: []SVNLevel{
			{TCB: map[string]int{"isvsvn": int(qe.ISVSVN)}, Date: date, Status: "UpToDate"},
			{TCB: map[string]int{"isvsvn": 1}, Date: date, Status: "OutOfDate", Advisories: []string{"INTEL-SA-00003"}},
		},
	}
	for _, change := range changes {
		change(&d)
	}
	return i.Sign("enclaveIdentity", d)
}

// quotingEnclave returns the enclave of a machine that was not told to have another, or the one that verifies quotes.
func (i *Intel) quotingEnclave(id string) Enclave {
	switch id {
	case "TD_QE":
		return standardTDQE
	case "QVE":
		return standardQVE
	}
	return standardQE
}

// EvaluationNumbers makes and signs the list of evaluation data numbers. The id is SGX or TDX.
func (i *Intel) EvaluationNumbers(id string) []byte {
	issued, next := i.dates()
	return i.Sign("tcbEvaluationDataNumbers", map[string]any{
		"id": id, "version": 1, "issueDate": issued, "nextUpdate": next,
		"tcbEvalNumbers": []map[string]any{{"tcbEvaluationDataNumber": EvaluationNumber, "tcbRecoveryEventDate": issued, "tcbDate": issued}},
	})
}

// Collateral returns everything Intel says about a machine, lists of revocations included.
func (i *Intel) Collateral(p *Platform) []rats.Endorsement {
	now := i.now()
	var out []rats.Endorsement
	for _, b := range [][]byte{
		i.TCBInfo(p, "SGX"), i.TCBInfo(p, "TDX"), i.Identity("QE"), i.Identity("TD_QE"), i.TCBChain(),
		i.PCKChain(p.CA), i.CA(p.CA).CRL(now), i.Root.CRL(now),
	} {
		out = append(out, rats.Endorsement{MediaType: "application/octet-stream", Body: b, Fetched: now})
	}
	return out
}
