package dcap_test

import (
	"crypto/rand"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/internal/testkit/dcaptest"
	"github.com/assay-attest/assay/rats"
)

// R104: the status of a quoting enclave or module merges into the platform's as Intel's rules say.
func TestStatusesMerge(t *testing.T) {
	for _, c := range []struct{ platform, part, want string }{
		{dcap.UpToDate, dcap.UpToDate, dcap.UpToDate},
		{dcap.SWHardeningNeeded, dcap.UpToDate, dcap.SWHardeningNeeded},
		{dcap.UpToDate, dcap.OutOfDate, dcap.OutOfDate},
		{dcap.SWHardeningNeeded, dcap.OutOfDate, dcap.OutOfDate},
		{dcap.ConfigurationNeeded, dcap.OutOfDate, dcap.OutOfDateConfigurationNeeded},
		{dcap.ConfigurationAndSWHardeningNeeded, dcap.OutOfDate, dcap.OutOfDateConfigurationNeeded},
		{dcap.OutOfDate, dcap.OutOfDate, dcap.OutOfDate},
		{dcap.OutOfDateConfigurationNeeded, dcap.OutOfDate, dcap.OutOfDateConfigurationNeeded},
		{dcap.TDRelaunchAdvised, dcap.UpToDate, dcap.TDRelaunchAdvised},
		{dcap.UpToDate, dcap.Revoked, dcap.Revoked},
		{dcap.Revoked, dcap.UpToDate, dcap.Revoked},
		{dcap.UpToDate, dcap.NotSupported, dcap.NotSupported},
		{dcap.NotSupported, dcap.Revoked, dcap.NotSupported},
		{dcap.Unrecognised, dcap.UpToDate, dcap.Unrecognised},
		{dcap.UpToDate, dcap.Unrecognised, dcap.Unrecognised},
		{dcap.UpToDate, dcap.Unknown, dcap.Unknown},
		{dcap.Unknown, dcap.UpToDate, dcap.Unknown},
	} {
		if got := dcap.Converge(c.platform, c.part); got != c.want {
			t.Errorf("%s and %s: %s, expected %s", c.platform, c.part, got, c.want)
		}
	}
}

// R104: levels of the platform and its quoting enclave, with the union of their advisories.
func TestStatusOfAnSGXPlatform(t *testing.T) {
	for name, c := range map[string]struct {
		svn, pcesvn int
		qe          uint16
		status      string
		advisories  []string
	}{
		"latest":               {4, 5, 6, dcap.UpToDate, nil},
		"newer than the info":  {9, 9, 9, dcap.UpToDate, nil},
		"old processor":        {3, 5, 6, dcap.OutOfDate, []string{"INTEL-SA-00001"}},
		"old PCE":              {4, 4, 6, dcap.OutOfDate, []string{"INTEL-SA-00001"}},
		"old QE":               {4, 5, 3, dcap.OutOfDate, []string{"INTEL-SA-00002"}},
		"all old":              {2, 3, 3, dcap.OutOfDate, []string{"INTEL-SA-00001", "INTEL-SA-00002"}},
		"older than any level": {1, 5, 6, dcap.NotSupported, nil},
		"PCE older than any":   {4, 2, 6, dcap.NotSupported, nil},
		"QE older than any":    {4, 5, 2, dcap.NotSupported, nil},
	} {
		s := newScene()
		s.machine = s.intel.Machine(c.svn, c.pcesvn)
		s.machine.QE.ISVSVN = c.qe
		v, err := s.verify(t, s.quote())
		if err != nil || v.TCB.Status != c.status || !slices.Equal(v.TCB.Advisories, c.advisories) {
			t.Errorf("%s: %v %+v", name, err, v.TCB)
		}
	}
	s := newScene()
	s.in.Endorsements = s.intel.Endorse(s.intel.TCBInfo("SGX", dcaptest.Level(1, 1, 1, "Excellent")), s.intel.Identity("QE", dcaptest.SVNLevel(1, "UpToDate")))
	if v, err := s.verify(t, s.quote()); err != nil || v.TCB.Status != dcap.Unrecognised {
		t.Errorf("an unknown status: %v %+v", err, v.TCB)
	}
}

// R104: TDX judges platform, module and quoting enclave, and advises a relaunch where only the module was old.
func TestStatusOfATDXPlatform(t *testing.T) {
	svn := func(change func(*abi.TDBody)) func(*abi.TDBody) { return change }
	for name, c := range map[string]struct {
		change func(*abi.TDBody)
		v15    bool
		qe     uint16
		status string
		module string
		code   rats.Code
	}{
		"latest":                 {nil, false, 6, dcap.UpToDate, dcap.UpToDate, ""},
		"latest 1.5":             {nil, true, 6, dcap.UpToDate, dcap.UpToDate, ""},
		"old module":             {svn(func(b *abi.TDBody) { b.TEETCBSVN[0] = 3 }), false, 6, dcap.OutOfDate, dcap.OutOfDate, ""},
		"revoked module":         {svn(func(b *abi.TDBody) { b.TEETCBSVN[0] = 1 }), false, 6, dcap.Revoked, dcap.Revoked, ""},
		"module of no level":     {svn(func(b *abi.TDBody) { b.TEETCBSVN[0] = 0 }), false, 6, dcap.NotSupported, dcap.NotSupported, ""},
		"module of no identity":  {svn(func(b *abi.TDBody) { b.TEETCBSVN[1] = 9 }), false, 6, dcap.NotSupported, dcap.NotSupported, dcap.CodeModule.Code},
		"module 1.0":             {svn(func(b *abi.TDBody) { b.TEETCBSVN[0], b.TEETCBSVN[1] = 4, 0 }), false, 6, dcap.NotSupported, dcap.UpToDate, ""},
		"foreign module":         {svn(func(b *abi.TDBody) { b.MRSIGNERSEAM[0] = 1 }), false, 6, dcap.NotSupported, dcap.NotSupported, dcap.CodeModule.Code},
		"module with attributes": {svn(func(b *abi.TDBody) { b.SEAMAttributes = 1 }), false, 6, dcap.NotSupported, dcap.NotSupported, dcap.CodeModule.Code},
		"old microcode":          {svn(func(b *abi.TDBody) { b.TEETCBSVN[2] = 3 }), false, 6, dcap.OutOfDate, dcap.UpToDate, ""},
		"older than any":         {svn(func(b *abi.TDBody) { b.TEETCBSVN[2] = 1 }), false, 6, dcap.NotSupported, dcap.UpToDate, ""},
		"old QE":                 {nil, true, 3, dcap.OutOfDate, dcap.UpToDate, ""},
		"relaunch advised":       {svn(func(b *abi.TDBody) { b.TEETCBSVN[0] = 3 }), true, 6, dcap.TDRelaunchAdvised, dcap.OutOfDate, ""},
		"module still old":       {svn(func(b *abi.TDBody) { b.TEETCBSVN[0], b.TEETCBSVN2[0] = 3, 3 }), true, 6, dcap.OutOfDate, dcap.OutOfDate, ""},
		"relaunch, but old QE":   {svn(func(b *abi.TDBody) { b.TEETCBSVN[0] = 3 }), true, 3, dcap.OutOfDate, dcap.OutOfDate, ""},
		"relaunch into unknown":  {svn(func(b *abi.TDBody) { b.TEETCBSVN[0], b.TEETCBSVN2[1] = 3, 9 }), true, 6, dcap.NotSupported, dcap.OutOfDate, dcap.CodeModule.Code},
	} {
		s := newScene()
		s.in.Endorsements = s.intel.Collateral("TDX")
		s.machine.QE.ISVSVN = c.qe
		body := dcaptest.TDBody(nil, c.v15)
		if c.change != nil {
			c.change(&body)
		}
		version := uint16(4)
		if c.v15 {
			version = 5
		}
		q, err := dcap.ParseQuote(s.machine.Quote(version, abi.TEETDX, body.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		m := &dcap.ModuleOf{SVN: body.TEETCBSVN, MRSIGNER: body.MRSIGNERSEAM}
		binary.LittleEndian.PutUint64(m.Attributes[:], body.SEAMAttributes)
		if c.v15 {
			m.SVN2 = &body.TEETCBSVN2
		}
		v, err := s.v.Verify(q, m, s.in)
		if err != nil || v.TCB.Status != c.status || v.TCB.Module != c.module || c.code != "" && !slices.Contains(problems(v), c.code) {
			t.Errorf("%s: %v %+v %v", name, err, v.TCB, problems(v))
		}
	}
}

// R104: relaunching is advised where only the module that launched the TD is old, and the one that runs now is the latest:
// each condition by itself decides (DCAP for TD 1.5, 4.1.2.4.17.4.3).
func TestRelaunchIsAdvisedOnlyWhereItMends(t *testing.T) {
	const advised, advisedToo = dcap.TDRelaunchAdvised, dcap.TDRelaunchAdvisedConfigurationNeeded
	type levels = []dcaptest.Object
	upper := func(status string) levels {
		return levels{dcaptest.Level(4, 4, 5, status), dcaptest.Level(2, 2, 3, "OutOfDate", "INTEL-SA-00001")}
	}
	module := func(first int, status string) []dcaptest.Object {
		return []dcaptest.Object{dcaptest.Module(1, dcaptest.SVNLevel(5, "UpToDate"), dcaptest.SVNLevel(3, "OutOfDate", "INTEL-SA-00003")), dcaptest.Module(2, dcaptest.SVNLevel(first, status))}
	}
	for name, c := range map[string]struct {
		svn     int // of the platform
		levels  levels
		modules []dcaptest.Object
		change  func(*abi.TDBody)
		qe      uint16
		status  string
		code    rats.Code
	}{
		"only the module was old":     {4, upper("UpToDate"), nil, nil, 6, advised, ""},
		"hardening needed besides":    {4, upper("SWHardeningNeeded"), nil, nil, 6, advised, ""},
		"settings needed besides":     {4, upper("ConfigurationNeeded"), nil, nil, 6, advisedToo, ""},
		"both needed besides":         {4, upper("ConfigurationAndSWHardeningNeeded"), nil, nil, 6, advisedToo, ""},
		"the platform is old":         {3, upper("UpToDate"), nil, nil, 6, dcap.OutOfDate, ""},
		"the platform is out of date": {4, upper("OutOfDate"), nil, nil, 6, dcap.OutOfDate, ""},
		"it needs settings and is":    {4, upper("OutOfDateConfigurationNeeded"), nil, nil, 6, dcap.OutOfDateConfigurationNeeded, ""},
		"the platform is revoked":     {4, upper("Revoked"), nil, nil, 6, dcap.Revoked, ""},
		"a word that is not known":    {4, upper("Splendid"), nil, nil, 6, dcap.Unrecognised, ""},
		"microcode old at launch":     {4, upper("UpToDate"), nil, func(b *abi.TDBody) { b.TEETCBSVN[2] = 3 }, 6, advised, ""},
		"microcode old even now":      {4, upper("UpToDate"), nil, func(b *abi.TDBody) { b.TEETCBSVN[2], b.TEETCBSVN2[2] = 3, 3 }, 6, dcap.OutOfDate, ""},
		"the module is old even now":  {4, upper("UpToDate"), nil, func(b *abi.TDBody) { b.TEETCBSVN2[0] = 4 }, 6, dcap.OutOfDate, ""},
		"the next module":             {4, upper("UpToDate"), module(2, "UpToDate"), func(b *abi.TDBody) { b.TEETCBSVN2[0], b.TEETCBSVN2[1] = 2, 2 }, 6, advised, ""},
		"the next module, old":        {4, upper("UpToDate"), module(2, "UpToDate"), func(b *abi.TDBody) { b.TEETCBSVN2[0], b.TEETCBSVN2[1] = 1, 2 }, 6, dcap.OutOfDate, ""},
		"a module of no identity":     {4, upper("UpToDate"), nil, func(b *abi.TDBody) { b.TEETCBSVN2[1] = 9 }, 6, dcap.NotSupported, dcap.CodeModule.Code},
		"a first module now":          {4, upper("UpToDate"), nil, func(b *abi.TDBody) { b.TEETCBSVN2[0], b.TEETCBSVN2[1] = 4, 0 }, 6, advised, ""},
		"a first module now, old":     {4, upper("UpToDate"), nil, func(b *abi.TDBody) { b.TEETCBSVN2[0], b.TEETCBSVN2[1] = 3, 0 }, 6, dcap.OutOfDate, ""},
		"the quoting enclave is old":  {4, upper("UpToDate"), nil, nil, 3, dcap.OutOfDate, ""},
		"it is older than any":        {4, upper("UpToDate"), nil, nil, 1, dcap.NotSupported, ""},
		"the module was up to date":   {4, upper("UpToDate"), nil, func(b *abi.TDBody) { b.TEETCBSVN[0] = 5 }, 6, dcap.UpToDate, ""},
	} {
		s := newScene()
		s.machine = s.intel.Machine(c.svn, 5)
		s.machine.QE.ISVSVN = c.qe
		info := s.intel.TCBInfo("TDX", c.levels...)
		if c.modules != nil {
			info["tdxModuleIdentities"] = c.modules
		}
		s.in.Endorsements = s.intel.Endorse(info, s.intel.Identity("TD_QE", dcaptest.SVNLevel(6, "UpToDate"), dcaptest.SVNLevel(3, "OutOfDate")))
		body := dcaptest.TDBody(nil, true)
		body.TEETCBSVN[0] = 3
		if c.change != nil {
			c.change(&body)
		}
		q, err := dcap.ParseQuote(s.machine.Quote(5, abi.TEETDX, body.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		for _, v15 := range []bool{true, false} {
			m := &dcap.ModuleOf{SVN: body.TEETCBSVN}
			want := c.status
			if v15 {
				m.SVN2 = &body.TEETCBSVN2
			} else if strings.HasPrefix(want, "TDRelaunch") || c.code != "" {
				continue // only module 1.5 says what runs now
			}
			v, err := s.v.Verify(q, m, s.in)
			if err != nil || v.TCB.Status != want || c.code != "" && !slices.Contains(problems(v), c.code) {
				t.Errorf("%s (1.5: %v): %v %+v %v", name, v15, err, v.TCB, problems(v))
			}
		}
	}
}

func good(t *testing.T) (dcap.Platform, dcap.TCB, dcap.Used) {
	t.Helper()
	s := newScene()
	v, err := s.verify(t, s.quote())
	if err != nil {
		t.Fatal(err)
	}
	return v.Platform, v.TCB, v.Collateral
}

// R104: only an up-to-date platform is accepted; every relaxation is explicit, ends, and is a warning.
func TestRulesAcceptOnlyUpToDateUnlessRelaxed(t *testing.T) {
	month := now.AddDate(0, 1, 0)
	hardening := func(until time.Time, advisories ...string) dcap.Rules {
		return dcap.Rules{AcceptStatus: []dcap.AcceptedStatus{{Status: dcap.SWHardeningNeeded, Advisories: advisories, Until: until}}}
	}
	for name, c := range map[string]struct {
		rules  dcap.Rules
		change func(*dcap.Platform, *dcap.TCB, *dcap.Used)
		code   rats.Code
		tier   rats.Tier
	}{
		"up to date":         {dcap.Rules{}, nil, "", rats.Affirming},
		"unknown":            {dcap.Rules{}, func(_ *dcap.Platform, t *dcap.TCB, _ *dcap.Used) { *t = dcap.TCB{} }, dcap.CodeStatusUnknown.Code, rats.None},
		"hardening":          {dcap.Rules{}, status(dcap.SWHardeningNeeded), dcap.CodeStatus.Code, rats.Contraindicated},
		"hardening accepted": {hardening(month, "A"), status(dcap.SWHardeningNeeded, "A"), dcap.CodeRelaxed.Code, rats.Warning},
		"acceptance ended":   {hardening(now, "A"), status(dcap.SWHardeningNeeded, "A"), dcap.CodeStatus.Code, rats.Contraindicated},
		"other advisory":     {hardening(month, "A"), status(dcap.SWHardeningNeeded, "A", "B"), dcap.CodeAdvisory.Code, rats.Contraindicated},
		"no advisory listed": {hardening(month), status(dcap.SWHardeningNeeded, "A"), dcap.CodeAdvisory.Code, rats.Contraindicated},
		"other status":       {hardening(month, "A"), status(dcap.OutOfDate, "A"), dcap.CodeStatus.Code, rats.Contraindicated},
		"revoked":            {dcap.Rules{AcceptStatus: []dcap.AcceptedStatus{{Status: dcap.Revoked, Until: month}}}, status(dcap.Revoked), dcap.CodeStatus.Code, rats.Contraindicated},
		"rejected advisory":  {dcap.Rules{RejectAdvisories: []string{"A"}}, status(dcap.UpToDate, "A"), dcap.CodeAdvisory.Code, rats.Contraindicated},
		"denied FMSPC":       {dcap.Rules{FMSPCDeny: []string{"00FACE000000"}}, nil, dcap.CodeFMSPCDenied.Code, rats.Contraindicated},
		"evaluation number":  {dcap.Rules{MinEvaluation: 18}, nil, dcap.CodeEvaluation.Code, rats.Contraindicated},
		"age":                {dcap.Rules{MaxCollateralAge: time.Hour}, nil, dcap.CodeCollateralAge.Code, rats.None},
		"no CRL":             {dcap.Rules{}, func(_ *dcap.Platform, _ *dcap.TCB, u *dcap.Used) { u.PCKCRL = false }, dcap.CodeCRLMissing.Code, rats.None},
		"no CRL, accepted":   {dcap.Rules{InsecureWithoutCRLs: month}, func(_ *dcap.Platform, _ *dcap.TCB, u *dcap.Used) { u.RootCRL = false }, dcap.CodeRelaxed.Code, rats.Warning},
		"expired":            {dcap.Rules{}, func(_ *dcap.Platform, _ *dcap.TCB, u *dcap.Used) { u.Until = now.Add(-time.Hour) }, dcap.CodeCollateralExpired.Code, rats.None},
		"expired, accepted":  {dcap.Rules{InsecureExpired: dcap.Grace{For: 2 * time.Hour, Until: month}}, func(_ *dcap.Platform, _ *dcap.TCB, u *dcap.Used) { u.Until = now.Add(-time.Hour) }, dcap.CodeRelaxed.Code, rats.Warning},
		"expired too long":   {dcap.Rules{InsecureExpired: dcap.Grace{For: time.Minute, Until: month}}, func(_ *dcap.Platform, _ *dcap.TCB, u *dcap.Used) { u.Until = now.Add(-time.Hour) }, dcap.CodeCollateralExpired.Code, rats.None},
		"strange problem":    {dcap.Rules{}, func(_ *dcap.Platform, _ *dcap.TCB, u *dcap.Used) { u.Problems = []dcap.Problem{{Code: "x"}} }, dcap.CodeCollateralMalformed.Code, rats.Contraindicated},
	} {
		p, tcb, used := good(t)
		if c.change != nil {
			c.change(&p, &tcb, &used)
		}
		reasons := c.rules.Check(p, tcb, used, now)
		if rats.Worst(reasons) != c.tier || c.code != "" && !hasCode(reasons, c.code) {
			t.Errorf("%s: %v", name, reasons)
		}
	}
}

func status(s string, advisories ...string) func(*dcap.Platform, *dcap.TCB, *dcap.Used) {
	return func(_ *dcap.Platform, t *dcap.TCB, _ *dcap.Used) { t.Status, t.Advisories = s, advisories }
}

func TestMistakesInRulesAreNamed(t *testing.T) {
	for code, r := range map[rats.Code]dcap.Rules{
		dcap.CodeRuleStatus.Code: {AcceptStatus: []dcap.AcceptedStatus{{Status: dcap.Revoked, Until: now}}},
		dcap.CodeRuleUntil.Code:  {AcceptStatus: []dcap.AcceptedStatus{{Status: dcap.OutOfDate}}},
		dcap.CodeRuleFMSPC.Code:  {FMSPCDeny: []string{"00"}},
		dcap.CodeRuleAge.Code:    {MaxCollateralAge: -1},
	} {
		if reasons := r.Lint(); len(reasons) != 1 || reasons[0].Code != code {
			t.Errorf("%s: %v", code, reasons)
		}
	}
	r := dcap.Rules{InsecureExpired: dcap.Grace{For: time.Hour}}
	if reasons := r.Lint(); len(reasons) != 1 || reasons[0].Code != dcap.CodeRuleUntil.Code {
		t.Errorf("%v", reasons)
	}
}

func TestCodesAreDistinct(t *testing.T) {
	seen := map[rats.Code]bool{}
	for _, c := range dcap.Codes {
		if seen[c.Code] || c.Title == "" || c.Hint == "" || !strings.HasPrefix(string(c.Code), "dcap.") {
			t.Errorf("%s", c.Code)
		}
		seen[c.Code] = true
	}
}

// What is remembered of the built-in root is bounded, and doesn't outlive validity or revocation.
func TestRememberedChainIsJudgedAnew(t *testing.T) {
	s := newScene()
	s.v, s.in.Anchors = dcap.NewVerifierOf(s.intel.Root.Cert), nil
	for range 3 {
		if v, err := s.verify(t, s.quote()); err != nil || v.TCB.Status != dcap.UpToDate {
			t.Fatalf("%v %+v", err, v)
		}
	}
	if n := s.v.Remembered(); n == 0 || n > 20 {
		t.Errorf("%d results are remembered", n)
	}
	at := s.in.Now
	s.in.Now = now.AddDate(6, 0, 0)
	if _, err := s.verify(t, s.quote()); dcaptest.CodeOf(t, err) != dcap.CodeChainExpired.Code {
		t.Errorf("expired: %v", err)
	}
	s.in.Now = at
	s.revoke(s.intel.Platform, s.machine.PCK.Cert)
	if _, err := s.verify(t, s.quote()); dcaptest.CodeOf(t, err) != dcap.CodeRevoked.Code {
		t.Errorf("revoked: %v", err)
	}
	for range 80 {
		s.in.Endorsements = dcaptest.Endorsements(s.intel.CRL(s.intel.Root))
		if _, err := s.verify(t, s.quote()); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.v.Remembered(); n > 50+10 {
		t.Errorf("%d results are remembered", n)
	}
}

func TestReportDataMustBeBoundExactly(t *testing.T) {
	b := dcaptest.Bound(t, "sgx")
	data := make([]byte, 64)
	copy(data, b.UserData)
	if keys, err := dcap.CheckBinding(b, data); err != nil || len(keys) != 1 {
		t.Fatal(err)
	}
	random := make([]byte, 64)
	if _, err := rand.Read(random); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		b    rats.Binding
		data []byte
		code rats.Code
	}{
		"raw":                {rats.Binding{Profile: rats.ProfileRaw, UserData: random}, random, ""},
		"raw prefix":         {rats.Binding{Profile: rats.ProfileRaw, UserData: data[:32]}, data, ""},
		"none":               {rats.Binding{Profile: rats.ProfileNone}, random, ""},
		"rest is not zero":   {rats.Binding{Profile: rats.ProfileRaw, UserData: random[:32]}, random, dcap.CodeReportData.Code},
		"other report data":  {b, random, dcap.CodeReportData.Code},
		"nothing":            {rats.Binding{}, data, dcap.CodeUnbound.Code},
		"too short":          {rats.Binding{Profile: rats.ProfileRaw, UserData: data[:15]}, data, dcap.CodeUnbound.Code},
		"too long":           {rats.Binding{Profile: rats.ProfileRaw, UserData: make([]byte, 65)}, data, dcap.CodeUnbound.Code},
		"hash of another":    {rats.Binding{Profile: rats.ProfileAssay, Manifest: b.Manifest, UserData: random[:32]}, data, dcap.CodeBinding.Code},
		"no manifest at all": {rats.Binding{Profile: rats.ProfileAssay, UserData: rats.SHA256().Sum}, data, dcap.CodeBinding.Code},
	} {
		if _, err := dcap.CheckBinding(c.b, c.data); dcaptest.CodeOf(t, err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}
