package dcap

import (
	"fmt"
	"time"
)

// The ids of TCB infos and enclave identities.
const (
	IDSGX  = "SGX"
	IDTDX  = "TDX"
	IDQE   = "QE"
	IDQVE  = "QVE"
	IDTDQE = "TD_QE"
)

// TCBInfo is Intel's statement about the TCB levels of one kind of platform (PCS API v4, Get TCB Info). Version 1 is
// read only to say that it is too old.
type TCBInfo struct {
	ID                   string
	Version              int
	IssueDate            time.Time
	NextUpdate           time.Time
	FMSPC                [6]byte
	PCEID                *[2]byte // absent in some old documents
	EvaluationDataNumber uint32
	Module               *ModuleIdentity // of TDX module 1.0
	Modules              []ModuleIdentity
	Levels               []TCBLevel
}

// TCBLevel is one level: the least SVNs it takes, and what a platform at it is worth.
type TCBLevel struct {
	SGX        [16]byte
	TDX        [16]byte
	PCESVN     uint16
	Date       time.Time
	Status     string
	Advisories []string
}

// ModuleIdentity names TDX modules.
type ModuleIdentity struct {
	ID             string // "TDX_03"; empty for module 1.0
	MRSIGNER       [48]byte
	Attributes     [8]byte
	AttributesMask [8]byte
	Levels         []SVNLevel
}

// SVNLevel is a level of an enclave or module by its one SVN.
type SVNLevel struct {
	ISVSVN     uint16
	Date       time.Time
	Status     string
	Advisories []string
}

const (
	maxLevels     = 256
	maxAdvisories = 256
)

func parseTCBInfo(raw []byte) (TCBInfo, error) {
	var err error
	o := readObject(raw, "tcbInfo", &err)
	t := TCBInfo{ID: IDSGX, Version: int(o.integer("version", 1000))}
	if err == nil && (t.Version < 1 || t.Version > 3) {
		o.fail("version", "1, 2 or 3", fmt.Sprint(t.Version))
	}
	t.IssueDate, t.NextUpdate = o.time("issueDate"), o.time("nextUpdate")
	o.hex("fmspc", t.FMSPC[:])
	if o.has("pceId") || t.Version == 3 {
		t.PCEID = new([2]byte)
		o.hex("pceId", t.PCEID[:])
	}
	if t.Version >= 2 {
		if kind := o.integer("tcbType", 1000); kind != 0 {
			o.fail("tcbType", "0", fmt.Sprint(kind))
		}
		t.EvaluationDataNumber = uint32(o.integer("tcbEvaluationDataNumber", 1<<31))
	}
	if t.Version == 3 {
		if t.ID = o.text("id"); t.ID != IDSGX && t.ID != IDTDX {
			o.fail("id", "SGX or TDX", t.ID)
		}
	}
	if t.ID == IDTDX {
		t.readModules(o)
	}
	for i, raw := range o.list("tcbLevels", maxLevels) {
		t.Levels = append(t.Levels, parseLevel(readObject(raw, fmt.Sprintf("tcbInfo.tcbLevels[%d]", i), &err), t))
	}
	if err == nil && len(t.Levels) == 0 {
		o.fail("tcbLevels", "at least one level", "none")
	}
	return t, err
}

func parseLevel(o object, t TCBInfo) TCBLevel {
	var l TCBLevel
	tcb := o.child("tcb")
	l.PCESVN = uint16(tcb.integer("pcesvn", 65535))
	if t.Version == 3 {
		l.SGX = components(tcb, "sgxtcbcomponents")
		if t.ID == IDTDX {
			l.TDX = components(tcb, "tdxtcbcomponents")
		}
	} else {
		for i := range l.SGX {
			l.SGX[i] = byte(tcb.integer(fmt.Sprintf("sgxtcbcomp%02dsvn", i+1), 255))
		}
	}
	if t.Version == 1 {
		l.Status = o.text("status")
		return l
	}
	l.Date, l.Status = o.time("tcbDate"), o.text("tcbStatus")
	l.Advisories = o.texts("advisoryIDs", maxAdvisories)
	return l
}

func components(o object, name string) (out [16]byte) {
	list := o.list(name, len(out))
	if *o.err == nil && len(list) != len(out) {
		o.fail(name, fmt.Sprintf("%d components", len(out)), fmt.Sprint(len(list)))
	}
	for i, raw := range list {
		out[i] = byte(readObject(raw, fmt.Sprintf("%s[%d]", o.at(name), i), o.err).integer("svn", 255))
	}
	return out
}

// readModules reads the identities of TDX modules.
func (t *TCBInfo) readModules(o object) {
	m := o.child("tdxModule")
	t.Module = &ModuleIdentity{}
	t.Module.read(m)
	if !o.has("tdxModuleIdentities") {
		return
	}
	for i, raw := range o.list("tdxModuleIdentities", maxLevels) {
		m := readObject(raw, fmt.Sprintf("tcbInfo.tdxModuleIdentities[%d]", i), o.err)
		id := ModuleIdentity{ID: m.text("id")}
		id.read(m)
		id.Levels = svnLevels(m)
		t.Modules = append(t.Modules, id)
	}
}

func (m *ModuleIdentity) read(o object) {
	o.hex("mrsigner", m.MRSIGNER[:])
	o.hex("attributes", m.Attributes[:])
	o.hex("attributesMask", m.AttributesMask[:])
}

// svnLevels reads the levels of an identity.
func svnLevels(o object) (out []SVNLevel) {
	for i, raw := range o.list("tcbLevels", maxLevels) {
		l := readObject(raw, fmt.Sprintf("%s[%d]", o.at("tcbLevels"), i), o.err)
		out = append(out, SVNLevel{
			ISVSVN: uint16(l.child("tcb").integer("isvsvn", 65535)), Date: l.time("tcbDate"), Status: l.text("tcbStatus"),
			Advisories: l.texts("advisoryIDs", maxAdvisories),
		})
	}
	return out
}

// Identity is Intel's statement about one of its enclaves (PCS API v4, Get Quoting Enclave Identity).
type Identity struct {
	ID                   string
	Version              int
	IssueDate            time.Time
	NextUpdate           time.Time
	EvaluationDataNumber uint32
	MiscSelect           [4]byte
	MiscSelectMask       [4]byte
	Attributes           [16]byte
	AttributesMask       [16]byte
	MRSIGNER             [32]byte
	ISVProdID            uint16
	Levels               []SVNLevel
}

func parseIdentity(raw []byte, v1 bool) (Identity, error) {
	var err error
	o := readObject(raw, "enclaveIdentity", &err)
	d := Identity{ID: IDQE, Version: int(o.integer("version", 1000))}
	if want := map[bool]int{true: 1, false: 2}[v1]; err == nil && d.Version != want {
		o.fail("version", fmt.Sprint(want), fmt.Sprint(d.Version))
	}
	d.IssueDate, d.NextUpdate = o.time("issueDate"), o.time("nextUpdate")
	o.hex("miscselect", d.MiscSelect[:])
	o.hex("miscselectMask", d.MiscSelectMask[:])
	o.hex("attributes", d.Attributes[:])
	o.hex("attributesMask", d.AttributesMask[:])
	o.hex("mrsigner", d.MRSIGNER[:])
	d.ISVProdID = uint16(o.integer("isvprodid", 65535))
	if v1 {
		d.Levels = []SVNLevel{{ISVSVN: uint16(o.integer("isvsvn", 65535))}}
		return d, err
	}
	d.ID = o.text("id")
	d.EvaluationDataNumber = uint32(o.integer("tcbEvaluationDataNumber", 1<<31))
	d.Levels = svnLevels(o)
	if err == nil && len(d.Levels) == 0 {
		o.fail("tcbLevels", "at least one level", "none")
	}
	return d, err
}

// EvaluationNumbers lists the TCB evaluation data numbers that Intel serves (PCS API v4, Get TCB Evaluation Data
// Numbers): which TCB recovery each stands for.
type EvaluationNumbers struct {
	ID         string
	Version    int
	IssueDate  time.Time
	NextUpdate time.Time
	Numbers    []EvaluationNumber
}

// EvaluationNumber is one of them.
type EvaluationNumber struct {
	Number       uint32
	RecoveryDate time.Time // of the TCB recovery event
	Date         time.Time // of the TCB level that is UpToDate under it
}

func parseEvaluationNumbers(raw []byte) (EvaluationNumbers, error) {
	var err error
	o := readObject(raw, "tcbEvaluationDataNumbers", &err)
	e := EvaluationNumbers{ID: o.text("id"), Version: int(o.integer("version", 1000))}
	e.IssueDate, e.NextUpdate = o.time("issueDate"), o.time("nextUpdate")
	for i, raw := range o.list("tcbEvalNumbers", maxLevels) {
		n := readObject(raw, fmt.Sprintf("tcbEvaluationDataNumbers.tcbEvalNumbers[%d]", i), &err)
		e.Numbers = append(e.Numbers, EvaluationNumber{
			Number:       uint32(n.integer("tcbEvaluationDataNumber", 1<<31)),
			RecoveryDate: n.time("tcbRecoveryEventDate"), Date: n.time("tcbDate"),
		})
	}
	return e, err
}
