package eventlog

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/assay-attest/assay/rats"
)

// maxReasons bounds the reasons of one code: a foreign log has hundreds of unknown events. Each code keeps its first
// ones, so that no slot's reason is hidden by those of another.
const maxReasons = 32

// checker compares claims with rules.
type checker struct {
	r   *Rules
	c   *Claims
	l   rats.Lookup
	out []rats.Reason

	count map[rats.Code]int
}

func (k *checker) add(r rats.Reason) {
	if k.count[r.Code]++; k.count[r.Code] <= maxReasons {
		k.out = append(k.out, r)
	}
}

// registers returns the registers that hold what a PC's PCRs hold (UEFI specification, section 38.4.1: PCR 1 and 7 are
// RTMR 0, 2 to 6 RTMR 1, 8 to 15 RTMR 2).
func (k *checker) registers(pcrs ...int) []int {
	if k.c.Kind != KindRTMR {
		return pcrs
	}
	var out []int
	for _, p := range pcrs {
		n := 3
		switch {
		case p == 0 || p == 1 || p == 7:
			n = 1
		case p <= 6:
			n = 2
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// proven demands that registers replay. An open or unknown register proves nothing of the log's part of it.
func (k *checker) proven(what string, registers ...int) bool {
	ok := true
	for _, n := range registers {
		if k.c.Replayed(n) {
			continue
		}
		state := StateUnknown
		if r, found := k.c.Register(n); found {
			state = r.State
		}
		code := CodeUnquoted
		if state == StateOpen {
			code = CodeUnexplained
		}
		k.add(code.Refuse(fmt.Sprintf("registers.%d", n), "a vouched value that the log yields, for "+what, state))
		ok = false
	}
	return ok
}

// known asks the lists, then the reference set.
func (k *checker) known(d rats.Digest, role string, lists ...[]string) bool {
	for _, l := range lists {
		if allows(l, d) {
			return true
		}
	}
	if k.r.Reference == "" || d.IsZero() || k.l == nil {
		return false
	}
	hit, err := k.l.Find(k.r.Reference, role, d)
	if err != nil {
		if reason, ok := rats.ReasonOf(err); ok && !slices.ContainsFunc(k.out, func(r rats.Reason) bool { return r.Code == reason.Code }) {
			k.add(reason)
		}
		return false
	}
	return hit.Known
}

func eventPath(n int) string { return fmt.Sprintf("events[%d]", n) }

func (k *checker) measurement(event int) (Measurement, bool) {
	i := slices.IndexFunc(k.c.Measurements, func(m Measurement) bool { return m.Event == event })
	if i < 0 {
		return Measurement{}, false
	}
	return k.c.Measurements[i], true
}

func (k *checker) secureBoot() {
	if k.r.SecureBoot == SecureBootAny {
		return
	}
	s := k.c.SecureBoot
	switch {
	case s.Logged && !s.Enabled:
		k.add(CodeSecureBoot.Refuse("secure_boot", "enabled", "disabled"))
	case !s.Logged:
		k.add(CodeSecureBoot.Refuse("secure_boot", "enabled", "no such variable in the log"))
	case !s.Proven:
		k.add(CodeSecureBootUnproven.Refuse("secure_boot", "one variable, measured before its register's separator", "not proven"))
	default:
		for _, n := range s.Unproven {
			if m, ok := k.measurement(n); !ok || !k.known(m.Digest, "firmware", k.r.Firmware) {
				k.add(CodeSecureBootUnproven.Refuse(eventPath(n), "content that is proven, or a digest that firmware lists", m.Type+" "+m.Digest.String()))
			}
		}
	}
}

func (k *checker) databases() {
	for _, d := range []struct {
		name  string
		db    *Database
		allow []string
	}{{"pk", &k.c.PK, k.r.PK}, {"kek", &k.c.KEK, k.r.KEK}, {"db", &k.c.DB, k.r.DB}} {
		if d.allow == nil || !k.database(d.name, d.db) {
			continue
		}
		for _, cert := range d.db.Certificates {
			if !allows(d.allow, cert.Digest) {
				k.add(CodeKey.Refuse(d.name, "only listed entries", cert.Digest.String()+" "+cert.Subject))
			}
		}
		for _, h := range d.db.Hashes {
			if !allows(d.allow, h) {
				k.add(CodeKey.Refuse(d.name, "only listed entries", h.String()))
			}
		}
		if d.db.Other > 0 && !slices.Contains(d.allow, Any) {
			k.add(CodeKey.Refuse(d.name, "X.509 and SHA-256 entries", fmt.Sprintf("%d of other kinds", d.db.Other)))
		}
	}
	if len(k.r.DBX) == 0 || !k.database("dbx", &k.c.DBX) {
		return
	}
	for _, want := range k.r.DBX {
		has := slices.ContainsFunc(k.c.DBX.Hashes, func(h rats.Digest) bool { return h.String() == want }) ||
			slices.ContainsFunc(k.c.DBX.Certificates, func(c Certificate) bool { return c.Digest.String() == want })
		if !has {
			k.add(CodeForbidden.Refuse("dbx", want, "not among the entries"))
		}
	}
}

// database says whether a database may be judged at all.
func (k *checker) database(name string, d *Database) bool {
	if d.Present && d.Proof == ProofDigest && !d.Malformed {
		return true
	}
	k.add(CodeDatabase.Refuse(name, "a proven, well-formed database", fmt.Sprintf("present %v, proof %q, malformed %v", d.Present, d.Proof, d.Malformed)))
	return false
}

func (k *checker) authorities() {
	if k.r.SbatLevel != "" {
		date := ""
		if f := strings.Split(k.c.SbatLevel, ","); len(f) >= 3 && f[0] == "sbat" {
			date, _, _ = strings.Cut(strings.TrimSpace(f[2]), "\n")
			date, _, _ = strings.Cut(date, "%0A")
		}
		if !sbatDate.MatchString(date) || date < k.r.SbatLevel || !k.c.Replayed(k.registers(7)[0]) {
			k.add(CodeSbat.Refuse("sbat_level", "at least "+k.r.SbatLevel, fmt.Sprintf("%q", clip(date, 32))))
		}
	}
	if k.r.MOK != nil && k.proven("Machine Owner Keys", k.registers(14)...) {
		for _, m := range k.of(k.registers(14)) {
			if !k.known(m.Digest, "mok", k.r.MOK) {
				k.add(CodeMOK.Refuse(eventPath(m.Event), "a digest that mok lists", m.Digest.String()+" "+m.Text))
			}
		}
	}
	if k.r.Authorities == nil || !k.proven("authorities", k.registers(7)...) {
		return
	}
	for _, a := range k.c.Authorities {
		switch {
		case a.Variable == "SbatLevel" && a.Proof == ProofDigest:
		case a.Proof != ProofDigest, a.Certificate.Digest.IsZero(), !allows(k.r.Authorities, a.Certificate.Digest):
			if !slices.Contains(k.r.Authorities, Any) {
				k.add(CodeAuthority.Refuse(eventPath(a.Event), "a listed certificate", a.Certificate.Digest.String()+" "+a.Certificate.Subject))
			}
		}
	}
}

// harmless says that an event's content is proven and could not have been run: data that doesn't start like an image.
func harmless(m Measurement) bool { return m.Proof == ProofDigest && !m.Code }

func (k *checker) images() {
	if len(k.r.Firmware) > 0 {
		regs := k.registers(0)
		if k.proven("firmware", regs...) {
			for _, m := range k.of(regs) {
				if !harmless(m) && !k.known(m.Digest, "firmware", k.r.Firmware) {
					k.add(CodeFirmware.Refuse(eventPath(m.Event), "a digest that firmware lists", m.Digest.String()+" "+m.Type+" "+m.Text))
				}
			}
		}
	}
	if len(k.r.Drivers) > 0 {
		regs := k.registers(2)
		if k.proven("drivers", regs...) {
			for _, m := range k.of(regs) {
				if !harmless(m) && !k.known(m.Digest, "driver", k.r.Drivers) && !k.known(m.Digest, "boot_loader", k.r.BootLoaders, k.r.Kernels) {
					k.add(CodeDriver.Refuse(eventPath(m.Event), "a digest that drivers lists", m.Digest.String()+" "+m.Text))
				}
			}
		}
	}
	regs := k.registers(4)
	if !k.proven("boot loaders and kernels", regs...) {
		return
	}
	for _, m := range k.of(regs) {
		if harmless(m) || k.known(m.Digest, "boot_loader", k.r.BootLoaders) || k.known(m.Digest, "kernel", k.r.Kernels) {
			continue
		}
		if k.c.Kind == KindRTMR && k.known(m.Digest, "driver", k.r.Drivers) {
			continue // RTMR 1 holds PCRs 2 to 6
		}
		k.add(CodeImage.Refuse(eventPath(m.Event), "a digest that boot_loaders or kernels lists", m.Digest.String()+" "+m.Text))
	}
}

// of returns the measurements of registers.
func (k *checker) of(registers []int) []Measurement {
	var out []Measurement
	for _, m := range k.c.Measurements {
		if slices.Contains(registers, m.Register) {
			out = append(out, m)
		}
	}
	return out
}

// boot judges what the boot loader handed over: command lines, initrds, GRUB's commands and files. Labels are text, so
// every event of these registers must be allowed, whatever it says it is.
func (k *checker) boot() {
	r := k.r
	if r.Initrds == nil && r.GrubFiles == nil && r.GrubCommands == nil && r.CommandLines == nil && r.CommandPatterns == nil {
		return
	}
	regs := k.registers(8, 9, 12)
	if !k.proven("command line and initrd", regs...) {
		return
	}
	var lines [][]byte
	for _, line := range r.CommandLines {
		lines = append(lines, commandDigests(line, k.c.Bank)...)
	}
	matched := false
	for _, m := range k.of(regs) {
		line, label := stripPrefix(m.Text)
		proven := m.Proof == ProofDigest
		isLine := slices.ContainsFunc(lines, func(d []byte) bool { return bytes.Equal(d, m.Digest.Sum) }) ||
			proven && !strings.HasPrefix(label, "grub_cmd") && m.Type == "EV_IPL" && matches(r.lines, line)
		switch {
		case m.Systemd:
			if !k.systemdAllows(m) {
				k.add(CodeSystemdEvent.Refuse(eventPath(m.Event), "what systemd or systemd_digests allow", m.Digest.String()+" "+clip(m.Text, 200)))
			}
		case isLine:
			matched = true
		case proven && m.Type == "EV_SEPARATOR":
		case proven && strings.HasPrefix(label, "grub_cmd") && matches(r.commands, line):
		case k.known(m.Digest, "initrd", r.Initrds), k.known(m.Digest, "kernel", r.Kernels), k.known(m.Digest, "grub_file", r.GrubFiles):
		case k.c.Kind == KindRTMR && k.known(m.Digest, "boot_loader", r.BootLoaders):
		default:
			k.add(CodeOSEvent.Refuse(eventPath(m.Event), "an allowed command line, command, initrd, kernel or file", m.Digest.String()+" "+clip(m.Text, 200)))
		}
	}
	if !matched && (r.CommandLines != nil || r.CommandPatterns != nil) {
		k.add(CodeCommandLine.Refuse("command_lines", "one that the rules allow", "none"))
	}
}

// stripPrefix splits off GRUB's label; what follows is what was hashed.
func stripPrefix(text string) (rest, label string) {
	for _, p := range grubPrefixes {
		if rest, ok := strings.CutPrefix(text, p); ok {
			return rest, p
		}
	}
	return text, ""
}

func matches(patterns []*regexp.Regexp, text string) bool {
	raw, err := rats.UnescapePath(text)
	return err == nil && slices.ContainsFunc(patterns, func(p *regexp.Regexp) bool { return p.Match(raw) })
}
