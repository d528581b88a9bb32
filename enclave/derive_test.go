package enclave_test

import (
	"bytes"
	"crypto/rand"
	"testing"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/rats"
)

var platform = abi.Platform{Mode: abi.ModeProcess, Launch: abi.LaunchInitrd, Root: abi.RootInitrdSealed, SVN: 5}

func rootOf(t testing.TB, fill byte) *enclave.Root {
	t.Helper()
	r, err := enclave.ParseRoot(bytes.Repeat([]byte{fill}, enclave.RootSize))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func monitor(t testing.TB, svn uint16) *enclave.MonitorKey {
	t.Helper()
	m, err := rootOf(t, 1).Monitor(svn)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// at is the platform with another version.
func at(p abi.Platform, svn uint16) abi.Platform {
	p.SVN = svn
	return p
}

func identity() enclave.Identity {
	return enclave.Identity{
		MRENCLAVE: [32]byte{1}, MRSIGNER: [32]byte{2}, Attributes: abi.Attributes{Flags: abi.FlagInit | abi.FlagMode64 | abi.FlagKSS, XFRM: 3},
		ISVProdID: 7, ISVSVN: 3, ConfigID: [64]byte{9}, ConfigSVN: 2, FamilyID: [16]byte{4}, ExtProdID: [16]byte{5},
	}
}

func request() abi.KeyRequest {
	return abi.KeyRequest{
		KeyName: abi.KeySeal, KeyPolicy: abi.PolicyMRSIGNER, ISVSVN: 3, CPUSVN: platform.CPUSVN(),
		AttributeMask: abi.Attributes{Flags: abi.FlagInit}, KeyID: [32]byte{8},
	}
}

func derive(t testing.TB, m *enclave.MonitorKey, id enclave.Identity, p abi.Platform, r abi.KeyRequest) [16]byte {
	t.Helper()
	key, err := m.Key(id, p, r)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// R086: what a sealing key depends on, by policy; R112: no other identity, no other platform.
func TestSealingKeyDependsOnWhatItsPolicySays(t *testing.T) {
	base := derive(t, monitor(t, 5), identity(), platform, request())
	if base == [16]byte{} || derive(t, monitor(t, 5), identity(), platform, request()) != base {
		t.Fatal("the same request gives another key, or none")
	}
	for _, tt := range []struct {
		name   string
		same   bool
		policy uint16 // added to MRSIGNER
		change func(*enclave.Identity)
	}{
		{"another build, same signer", true, 0, func(id *enclave.Identity) { id.MRENCLAVE[0] ^= 1 }},
		{"another build, by MRENCLAVE too", false, abi.PolicyMRENCLAVE, func(id *enclave.Identity) { id.MRENCLAVE[0] ^= 1 }},
		{"another signer", false, 0, func(id *enclave.Identity) { id.MRSIGNER[0] ^= 1 }},
		{"another product", false, 0, func(id *enclave.Identity) { id.ISVProdID++ }},
		{"another product, told not to look", true, abi.PolicyNoISVProdID, func(id *enclave.Identity) { id.ISVProdID++ }},
		{"a newer version", true, 0, func(id *enclave.Identity) { id.ISVSVN++ }},
		{"debug", false, 0, func(id *enclave.Identity) { id.Attributes.Flags |= abi.FlagDebug }},
		{"an attribute outside the mask", true, 0, func(id *enclave.Identity) { id.Attributes.Flags |= abi.FlagAEXNotify }},
		{"another configuration", true, 0, func(id *enclave.Identity) { id.ConfigID[0] ^= 1 }},
		{"another configuration, by policy", false, abi.PolicyConfigID, func(id *enclave.Identity) { id.ConfigID[0] ^= 1 }},
		{"another family, by policy", false, abi.PolicyISVFamilyID, func(id *enclave.Identity) { id.FamilyID[0] ^= 1 }},
		{"another extended product, by policy", false, abi.PolicyISVExtProdID, func(id *enclave.Identity) { id.ExtProdID[0] ^= 1 }},
	} {
		r, id := request(), identity()
		r.KeyPolicy |= tt.policy
		before := derive(t, monitor(t, 5), id, platform, r)
		tt.change(&id)
		if after := derive(t, monitor(t, 5), id, platform, r); (after == before) != tt.same {
			t.Errorf("%s: same key is %t", tt.name, after == before)
		}
	}
	for name, change := range map[string]func(*abi.KeyRequest){
		"key id":     func(r *abi.KeyRequest) { r.KeyID[31] = 1 },
		"version":    func(r *abi.KeyRequest) { r.ISVSVN = 2 },
		"policy":     func(r *abi.KeyRequest) { r.KeyPolicy = abi.PolicyMRENCLAVE | abi.PolicyMRSIGNER },
		"mask":       func(r *abi.KeyRequest) { r.AttributeMask.Flags |= abi.FlagMode64 },
		"misc mask":  func(r *abi.KeyRequest) { r.MiscMask = 1 },
		"xfrm mask":  func(r *abi.KeyRequest) { r.AttributeMask.XFRM = 3 },
		"CET mask":   func(r *abi.KeyRequest) { r.CETAttributes = 1 },
		"of monitor": func(r *abi.KeyRequest) { r.CPUSVN = at(platform, 4).CPUSVN() },
	} {
		r := request()
		change(&r)
		if derive(t, monitor(t, 5), identity(), platform, r) == base {
			t.Errorf("another %s gives the same key", name)
		}
	}
	other, err := rootOf(t, 2).Monitor(5)
	if err != nil {
		t.Fatal(err)
	}
	if derive(t, other, identity(), platform, request()) == base {
		t.Error("another platform has the same key")
	}
}

// S15: whatever the mask says, a key is of one mode, launch and root class.
func TestKeysNeverCrossModeLaunchOrRoot(t *testing.T) {
	keys := map[[16]byte]string{}
	for _, p := range []abi.Platform{
		platform,
		{Mode: abi.ModeInline, Launch: abi.LaunchInitrd, Root: abi.RootInitrdSealed, SVN: 5},
		{Mode: abi.ModeProcess, Launch: abi.LaunchInitrd, Root: abi.RootOSProtected, SVN: 5},
		{Mode: abi.ModeProcess, Launch: abi.LaunchUserspace, Root: abi.RootOSProtected, SVN: 5},
		{Mode: abi.ModeProcess, Launch: abi.LaunchUserspace, Root: abi.RootSimulated, SVN: 5},
	} {
		name := p.Mode.String() + " " + p.Launch.String() + " " + p.Root.String()
		r := request()
		r.CPUSVN = p.CPUSVN()
		r.AttributeMask = abi.Attributes{}
		for _, kind := range []uint16{abi.KeySeal, abi.KeyReport} {
			r.KeyName = kind
			key := derive(t, monitor(t, 5), identity(), p, r)
			if other, twice := keys[key]; twice {
				t.Errorf("%s has the key of %s", name, other)
			}
			keys[key] = name
		}
		if p != platform {
			r.KeyName, r.CPUSVN = abi.KeySeal, platform.CPUSVN()
			_, err := monitor(t, 5).Key(identity(), p, r)
			wantCode(t, name+" asking for another's", err, enclave.CodeKeyPlatform)
		}
	}
}

// R087, R166, and w3 of HyperEnclave: a key of a newer version is refused, of an older one served; the same for the
// monitor itself.
func TestNewerKeysAreRefusedAndOlderOnesServed(t *testing.T) {
	old := identity()
	old.ISVSVN = 2
	r := request()
	r.ISVSVN = 2
	was := derive(t, monitor(t, 5), old, platform, r)
	if derive(t, monitor(t, 5), identity(), platform, r) != was {
		t.Error("a newer version can't open what the older sealed")
	}
	_, err := monitor(t, 5).Key(old, platform, request())
	wantCode(t, "old enclave, new key", err, enclave.CodeKeySVN)

	r.CPUSVN = at(platform, 4).CPUSVN()
	before := derive(t, monitor(t, 4), old, at(platform, 4), r)
	if derive(t, monitor(t, 5), old, platform, r) != before {
		t.Error("a newer monitor can't open what was sealed under the older")
	}
	r.CPUSVN = platform.CPUSVN()
	_, err = monitor(t, 4).Key(old, at(platform, 4), r)
	wantCode(t, "old monitor, new key", err, enclave.CodeKeySVN)
	_, err = monitor(t, 4).At(5)
	wantCode(t, "old monitor, newer secret", err, enclave.CodeKeySVN)

	r = request()
	r.ConfigSVN = 3
	_, err = monitor(t, 5).Key(identity(), platform, r)
	wantCode(t, "newer configuration", err, enclave.CodeKeySVN)
	if _, err := monitor(t, 4).Key(identity(), platform, request()); err == nil {
		t.Error("a platform of another version than the key's is accepted")
	}
}

func TestRequestsTheProcessorWouldRefuseAreRefused(t *testing.T) {
	plain := func(id *enclave.Identity) { id.Attributes.Flags &^= abi.FlagKSS }
	for _, tt := range []struct {
		name   string
		id     func(*enclave.Identity)
		change func(*abi.KeyRequest)
		want   rats.CodeInfo
	}{
		{"reserved", nil, func(r *abi.KeyRequest) { r.Reserved2[433] = 1 }, enclave.CodeKeyReserved},
		{"unknown name", nil, func(r *abi.KeyRequest) { r.KeyName = 5 }, enclave.CodeKeyName},
		{"provisioning key", nil, func(r *abi.KeyRequest) { r.KeyName = abi.KeyProvision }, enclave.CodeKeyName},
		{"provisioning seal key", nil, func(r *abi.KeyRequest) { r.KeyName = abi.KeyProvisionSeal }, enclave.CodeKeyName},
		{"launch key", nil, func(r *abi.KeyRequest) { r.KeyName = abi.KeyEInitToken }, enclave.CodeKeyName},
		{"bound to nobody", nil, func(r *abi.KeyRequest) { r.KeyPolicy = 0 }, enclave.CodeKeyPolicy},
		{"unknown policy", nil, func(r *abi.KeyRequest) { r.KeyPolicy |= 0x8000 }, enclave.CodeKeyPolicy},
		{"KSS policy without KSS", plain, func(r *abi.KeyRequest) { r.KeyPolicy |= abi.PolicyConfigID }, enclave.CodeKeyPolicy},
		{"no platform", nil, func(r *abi.KeyRequest) { r.CPUSVN = [16]byte{} }, abi.CodePlatform},
	} {
		id, r := identity(), request()
		if tt.id != nil {
			tt.id(&id)
		}
		tt.change(&r)
		_, err := monitor(t, 5).Key(id, platform, r)
		wantCode(t, tt.name, err, tt.want)
	}
	privileged := identity()
	privileged.Attributes.Flags |= abi.FlagProvisionKey | abi.FlagEInitToken
	seen := map[[16]byte]bool{}
	for _, name := range []uint16{abi.KeyProvision, abi.KeyProvisionSeal, abi.KeyEInitToken, abi.KeySeal, abi.KeyReport} {
		r := request()
		r.KeyName = name
		seen[derive(t, monitor(t, 5), privileged, platform, r)] = true
	}
	if len(seen) != 5 {
		t.Errorf("five names give %d keys", len(seen))
	}
}

// R111: A reports to B, B verifies and reports to A; nobody else's report verifies.
func TestTwoEnclavesOfOnePlatformAttestOneAnother(t *testing.T) {
	m := monitor(t, 5)
	a, b := identity(), identity()
	b.MRENCLAVE, b.MRSIGNER = [32]byte{11}, [32]byte{12}
	pa, pb := platform, platform
	pa.Mode = abi.ModeInline
	keyID := [32]byte{77}
	reportKey := func(m *enclave.MonitorKey, id enclave.Identity, p abi.Platform, r abi.Report) [16]byte {
		return derive(t, m, id, p, abi.KeyRequest{KeyName: abi.KeyReport, KeyID: r.KeyID})
	}
	exchange := func(m *enclave.MonitorKey, from, to enclave.Identity, pFrom, pTo abi.Platform) abi.Report {
		target, err := enclave.Target(to.Body(pTo, [64]byte{}))
		if err != nil {
			t.Fatal(err)
		}
		r, err := m.Report(from, pFrom, target, [64]byte{1, 2, 3}, keyID)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	ab := exchange(m, a, b, pa, pb)
	if err := enclave.VerifyReport(reportKey(m, b, pb, ab), ab); err != nil {
		t.Error(err)
	}
	if ba := exchange(m, b, a, pb, pa); enclave.VerifyReport(reportKey(m, a, pa, ba), ba) != nil {
		t.Error("the way back fails")
	}
	foreign, err := rootOf(t, 2).Monitor(5)
	if err != nil {
		t.Fatal(err)
	}
	changed := ab
	changed.Body.ReportData[63] ^= 1
	mac := ab
	mac.MAC[0] ^= 1
	pbInline := pb
	pbInline.Mode = abi.ModeInline
	other := exchange(foreign, a, b, pa, pb)
	for name, err := range map[string]error{
		"of another platform":        enclave.VerifyReport(reportKey(m, b, pb, other), other),
		"for another enclave":        enclave.VerifyReport(reportKey(m, a, pa, ab), ab),
		"for another mode":           enclave.VerifyReport(reportKey(m, b, pbInline, ab), ab),
		"changed":                    enclave.VerifyReport(reportKey(m, b, pb, changed), changed),
		"with another MAC":           enclave.VerifyReport(reportKey(m, b, pb, mac), mac),
		"by a monitor of before":     enclave.VerifyReport(reportKey(monitor(t, 4), b, at(pb, 4), ab), ab),
		"with a key of another name": enclave.VerifyReport(derive(t, m, b, pb, request()), ab),
	} {
		wantCode(t, name, err, enclave.CodeReportMAC)
	}
	_, err = m.Report(a, pa, abi.TargetOf(b.Body(pb, [64]byte{})), [64]byte{}, keyID)
	wantCode(t, "target without mode", err, enclave.CodeReportTarget)
	_, err = enclave.Target(abi.ReportBody{})
	wantCode(t, "target of no report", err, abi.CodePlatform)
}

func TestAttestationKeyIsOfOneRootVersionLaunchAndVerifier(t *testing.T) {
	seen := map[[64]byte]bool{}
	n := 0
	add := func(m *enclave.MonitorKey, p abi.Platform, context string) {
		t.Helper()
		key, err := m.AttestationKey(p, context)
		if err != nil {
			t.Fatal(err)
		}
		pub, err := enclave.AttestationPublic(&key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		seen[pub] = true
		n++
	}
	user := abi.Platform{Mode: abi.ModeProcess, Launch: abi.LaunchUserspace, Root: abi.RootOSProtected}
	add(monitor(t, 5), platform, "")
	add(monitor(t, 5), platform, "verifier")
	add(monitor(t, 4), platform, "")
	add(monitor(t, 5), user, "")
	if len(seen) != n {
		t.Errorf("%d keys of %d", len(seen), n)
	}
	again, err := monitor(t, 5).AttestationKey(platform, "")
	if err != nil {
		t.Fatal(err)
	}
	if pub, _ := enclave.AttestationPublic(&again.PublicKey); !seen[pub] {
		t.Error("the key is another one after a restart")
	}
	// w4 of HyperEnclave and its key in the CPUSVN slot: a quote holds public values only, and verifies.
	body := identity().Body(platform, [64]byte{1})
	q, err := enclave.Quote(rand.Reader, body, again)
	if err != nil || !q.Verify() {
		t.Fatalf("the quote does not verify: %v", err)
	}
	if bytes.Contains(q.Bytes(), monitor(t, 5).Bytes()[:8]) {
		t.Error("the quote holds the monitor's key")
	}
	q.Body.ISVSVN++
	if q.Verify() {
		t.Error("a changed quote verifies")
	}
}

func TestRootKeysAreRandomBoundedAndWiped(t *testing.T) {
	r, err := enclave.NewRoot(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := enclave.ParseRoot(r.Bytes()); err != nil || !bytes.Equal(again.Bytes(), r.Bytes()) {
		t.Error("a root key does not survive its bytes")
	}
	if _, err := enclave.NewRoot(bytes.NewReader([]byte("short"))); err == nil {
		t.Error("a root key of five random bytes")
	}
	for _, n := range []int{0, 31, 33} {
		if _, err := enclave.ParseRoot(make([]byte, n)); err == nil {
			t.Errorf("a root key of %d bytes", n)
		}
		if _, err := enclave.ParseMonitorKey(1, make([]byte, n)); err == nil {
			t.Errorf("a monitor's key of %d bytes", n)
		}
	}
	_, err = r.Monitor(enclave.MaxMonitorSVN + 1)
	wantCode(t, "version above all", err, enclave.CodeKeySVN)
	m, err := r.Monitor(enclave.MaxMonitorSVN)
	if err != nil {
		t.Fatal(err)
	}
	older, err := enclave.ParseMonitorKey(m.SVN(), m.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if older, err = older.At(9); err != nil || older.SVN() != 9 {
		t.Errorf("version %d, %v", older.SVN(), err)
	}
	direct, err := r.Monitor(9)
	if err != nil || !bytes.Equal(direct.Bytes(), older.Bytes()) {
		t.Error("two ways to one version give two keys")
	}
	kept, err := enclave.KeptMonitorKey(12, func(svn uint16) ([]byte, error) { return bytes.Repeat([]byte{byte(svn)}, 32), nil })
	if err != nil {
		t.Fatal(err)
	}
	if older, err := kept.At(11); err != nil || older.Bytes()[0] != 11 || kept.Bytes()[0] != 12 {
		t.Errorf("the keeper was not asked for the older key: %v", err)
	}
	if _, err := enclave.KeptMonitorKey(12, func(uint16) ([]byte, error) { return nil, nil }); err == nil {
		t.Error("a keeper that gives nothing")
	}
	r.Wipe()
	m.Wipe()
	if !bytes.Equal(r.Bytes(), make([]byte, 32)) || !bytes.Equal(m.Bytes(), make([]byte, 32)) {
		t.Error("a wiped key is still there")
	}
}
