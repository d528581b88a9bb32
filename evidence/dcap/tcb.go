package dcap

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/rats"
)

// The statuses of a TCB (PCS API v4). The last three are ours: no level matches, Intel uses a word we don't know,
// there is no usable collateral.
const (
	UpToDate                             = "UpToDate"
	SWHardeningNeeded                    = "SWHardeningNeeded"
	ConfigurationNeeded                  = "ConfigurationNeeded"
	ConfigurationAndSWHardeningNeeded    = "ConfigurationAndSWHardeningNeeded"
	OutOfDate                            = "OutOfDate"
	OutOfDateConfigurationNeeded         = "OutOfDateConfigurationNeeded"
	TDRelaunchAdvised                    = "TDRelaunchAdvised"
	TDRelaunchAdvisedConfigurationNeeded = "TDRelaunchAdvisedConfigurationNeeded"
	Revoked                              = "Revoked"
	NotSupported                         = "NotSupported"
	Unrecognised                         = "Unrecognised"
	Unknown                              = "unknown"
)

// platformStatuses are those that TCB infos may give to a level, svnStatuses those of identities.
var (
	platformStatuses = []string{UpToDate, SWHardeningNeeded, ConfigurationNeeded, ConfigurationAndSWHardeningNeeded, OutOfDate, OutOfDateConfigurationNeeded, Revoked}
	svnStatuses      = []string{UpToDate, OutOfDate, Revoked}
)

// TCB is the status of a platform: each part by itself, and merged.
type TCB struct {
	Status           string    `json:"status"`
	Date             time.Time `json:"date"` // of the oldest level that counts
	Advisories       []string  `json:"advisories"`
	EvaluationNumber uint32    `json:"evaluation_data_number"` // the lower of the two below
	InfoNumber       uint32    `json:"info_evaluation_data_number"`
	IdentityNumber   uint32    `json:"identity_evaluation_data_number"`
	Platform         string    `json:"platform"` // status of the processor's level
	QE               string    `json:"quoting_enclave"`
	Module           string    `json:"module,omitempty"` // of the TDX module
}

// ModuleOf is what a TD's report says of the TDX module.
type ModuleOf struct {
	SVN        [16]byte  // TEE_TCB_SVN
	SVN2       *[16]byte // TEE_TCB_SVN2, of a TD with module 1.5
	MRSIGNER   [48]byte  // MRSIGNERSEAM
	Attributes [8]byte   // SEAMATTRIBUTES
}

// atLeast says whether every component from index first on is at least the level's.
func atLeast(have, level [16]byte, first int) bool {
	for i := first; i < len(have); i++ {
		if have[i] < level[i] {
			return false
		}
	}
	return true
}

// matchLevels finds the first level that the PCK certificate meets, and of a TDX platform the first that its module
// meets besides (PCS API v4, Determining TCB status). From module major version 1 on the module's own SVN, components
// 0 and 1, is judged by its identity.
func matchLevels(levels []TCBLevel, pck PCK, module *ModuleOf) (sgx, tdx *TCBLevel) {
	for i := range levels {
		l := &levels[i]
		if !atLeast(pck.Components, l.SGX, 0) || pck.PCESVN < l.PCESVN {
			continue
		}
		if sgx == nil {
			sgx = l
		}
		if module == nil {
			return sgx, nil
		}
		first := 0
		if module.SVN[1] > 0 {
			first = 2
		}
		if atLeast(module.SVN, l.TDX, first) {
			return sgx, l
		}
	}
	return sgx, nil
}

// known returns the status, or Unrecognised for a word that isn't in the list.
func known(status string, list []string) string {
	if slices.Contains(list, status) {
		return status
	}
	return Unrecognised
}

// svnLevel finds the first level that an SVN meets.
func svnLevel(levels []SVNLevel, svn uint16) *SVNLevel {
	for i := range levels {
		if svn >= levels[i].ISVSVN {
			return &levels[i]
		}
	}
	return nil
}

// converge merges the status of a quoting enclave or TDX module into a platform's.
func converge(platform, part string) string {
	switch {
	case platform == Unknown || part == Unknown:
		return Unknown
	case platform == NotSupported || part == NotSupported:
		return NotSupported
	case platform == Revoked || part == Revoked:
		return Revoked
	case platform == Unrecognised || part == Unrecognised:
		return Unrecognised
	case part != OutOfDate:
		return platform
	case platform == UpToDate || platform == SWHardeningNeeded:
		return OutOfDate
	case platform == ConfigurationNeeded || platform == ConfigurationAndSWHardeningNeeded:
		return OutOfDateConfigurationNeeded
	}
	return platform
}

// findModule returns the identity of a TDX module by its major version: nil if there is none.
func findModule(t *TCBInfo, major byte) *ModuleIdentity {
	id := fmt.Sprintf("TDX_%02x", major)
	for i := range t.Modules {
		if strings.EqualFold(t.Modules[i].ID, id) {
			return &t.Modules[i]
		}
	}
	return nil
}

// checkModule compares a TD's module with its identity and returns the module's level; nil for module 1.0, which has
// none.
func checkModule(t *TCBInfo, m *ModuleOf) (status string, level *SVNLevel, problem error) {
	id, status := t.Module, UpToDate
	if m.SVN[1] > 0 {
		id = findModule(t, m.SVN[1])
	}
	if id == nil {
		return NotSupported, nil, CodeModule.Bad("TEE_TCB_SVN", "a module that the TCB info names", fmt.Sprintf("TDX_%02x", m.SVN[1]))
	}
	if id.MRSIGNER != m.MRSIGNER {
		return NotSupported, nil, CodeModule.Bad("MRSIGNERSEAM", hex.EncodeToString(id.MRSIGNER[:]), hex.EncodeToString(m.MRSIGNER[:]))
	}
	for i := range m.Attributes {
		if m.Attributes[i]&id.AttributesMask[i] != id.Attributes[i] {
			return NotSupported, nil, CodeModule.Bad("SEAMATTRIBUTES", hex.EncodeToString(id.Attributes[:]), hex.EncodeToString(m.Attributes[:]))
		}
	}
	if m.SVN[1] > 0 {
		if level = svnLevel(id.Levels, uint16(m.SVN[0])); level == nil {
			return NotSupported, nil, nil
		}
		status = known(level.Status, svnStatuses)
	}
	return status, level, nil
}

// configurationNeeded are the statuses that ask for other settings too.
func configurationNeeded(status string) bool {
	return status == ConfigurationNeeded || status == ConfigurationAndSWHardeningNeeded || status == OutOfDateConfigurationNeeded
}

// relaunch says whether a TD that was started under an old module would be up to date if it were launched again: the
// platform is good, only the module was old, and the module that runs now is the latest (DCAP for TD 1.5).
func relaunch(t *TCBInfo, m *ModuleOf, sgx, tdx, module, qe string) (status string, problem error) {
	good := sgx == UpToDate || sgx == SWHardeningNeeded || sgx == ConfigurationNeeded || sgx == ConfigurationAndSWHardeningNeeded
	old := tdx == OutOfDate || tdx == OutOfDateConfigurationNeeded
	if m.SVN2 == nil || !good || !old || module != OutOfDate || qe != UpToDate {
		return tdx, nil
	}
	least := uint16(t.Levels[0].TDX[0])
	if m.SVN2[1] > 0 {
		id := findModule(t, m.SVN2[1])
		if id == nil || len(id.Levels) == 0 {
			return NotSupported, CodeModule.Bad("TEE_TCB_SVN2", "a module that the TCB info names", fmt.Sprintf("TDX_%02x", m.SVN2[1]))
		}
		least = id.Levels[0].ISVSVN
	}
	if uint16(m.SVN2[0]) < least || m.SVN2[2] < t.Levels[0].TDX[2] {
		return tdx, nil
	}
	if configurationNeeded(sgx) || configurationNeeded(tdx) {
		return TDRelaunchAdvisedConfigurationNeeded, nil
	}
	return TDRelaunchAdvised, nil
}

// judge computes the TCB of a platform from its TCB info and the level of its quoting enclave. Advisories are the union
// of all levels that count.
func judge(t *TCBInfo, pck PCK, module *ModuleOf, qe *SVNLevel) (TCB, error) {
	out := TCB{Status: NotSupported, Platform: NotSupported, QE: NotSupported, EvaluationNumber: t.EvaluationDataNumber}
	if qe != nil {
		out.QE = known(qe.Status, svnStatuses)
		out.count(qe.Date, qe.Advisories)
	}
	sgx, tdx := matchLevels(t.Levels, pck, module)
	if sgx == nil {
		return out, nil
	}
	out.Platform = known(sgx.Status, platformStatuses)
	if module == nil {
		out.count(sgx.Date, sgx.Advisories)
		out.Status = converge(out.Platform, out.QE)
		return out, nil
	}
	var level *SVNLevel
	var problem error
	out.Module, level, problem = checkModule(t, module)
	if level != nil {
		out.count(level.Date, level.Advisories)
	}
	if tdx == nil || problem != nil {
		return out, problem
	}
	out.count(tdx.Date, tdx.Advisories)
	merged := converge(known(tdx.Status, platformStatuses), out.Module)
	merged, problem = relaunch(t, module, out.Platform, merged, out.Module, out.QE)
	out.Platform = known(tdx.Status, platformStatuses)
	out.Status = converge(merged, out.QE)
	return out, problem
}

// count adds a level: the oldest date and every advisory count.
func (t *TCB) count(date time.Time, advisories []string) {
	if t.Date.IsZero() || !date.IsZero() && date.Before(t.Date) {
		t.Date = date
	}
	for _, a := range advisories {
		if !slices.Contains(t.Advisories, a) {
			t.Advisories = append(t.Advisories, a)
		}
	}
	slices.Sort(t.Advisories)
}

// matches compares a quoting enclave's report with its identity (PCS API v4, Get Quoting Enclave Identity).
func (d *Identity) matches(r abi.ReportBody) error {
	misc, attributes := r.Bytes()[16:20], r.Attributes.Bytes()
	for i := range d.MiscSelect {
		if misc[i]&d.MiscSelectMask[i] != d.MiscSelect[i] {
			return CodeQEIdentity.Bad("MISCSELECT", hex.EncodeToString(d.MiscSelect[:]), hex.EncodeToString(misc))
		}
	}
	for i := range d.Attributes {
		if attributes[i]&d.AttributesMask[i] != d.Attributes[i] {
			return CodeQEIdentity.Bad("ATTRIBUTES", hex.EncodeToString(d.Attributes[:]), hex.EncodeToString(attributes))
		}
	}
	if d.MRSIGNER != r.MRSIGNER {
		return CodeQEIdentity.Bad("MRSIGNER", hex.EncodeToString(d.MRSIGNER[:]), hex.EncodeToString(r.MRSIGNER[:]))
	}
	if d.ISVProdID != r.ISVProdID {
		return CodeQEIdentity.Bad("ISVPRODID", fmt.Sprint(d.ISVProdID), fmt.Sprint(r.ISVProdID))
	}
	return nil
}

// Problem is something about collateral that stands in the way of a status. Rules turn it into a reason.
type Problem struct {
	Code     rats.Code `json:"code"`
	Path     string    `json:"path,omitempty"`
	Expected string    `json:"expected,omitempty"`
	Seen     string    `json:"seen,omitempty"`
}

func problemOf(err error) Problem {
	r, ok := rats.ReasonOf(err)
	if !ok {
		return Problem{Code: CodeCollateralMalformed.Code, Seen: err.Error()}
	}
	return Problem{r.Code, r.Path, r.Expected, r.Seen}
}
