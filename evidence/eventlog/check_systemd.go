package eventlog

import (
	"fmt"
	"slices"
	"strings"
)

// PCRs that belong to the system after the boot loader (UAPI.7, Linux TPM PCR Registry).
const (
	pcrKernel   = 11 // sections of a unified kernel image, then systemd's phases
	pcrConfig   = 12 // command lines and credentials
	pcrSysexts  = 13
	pcrIdentity = 15 // machine id, volume keys, file systems
)

// system judges what the system measured after the boot loader's log ended: PCR 11, and with a list of what systemd may
// measure all that it measures into. Whether each register can be explained comes first: in one that can't, nothing is proven.
func (k *checker) system() {
	r := k.r
	if r.Phase == "" && r.Systemd == nil && r.SystemdDigests == nil && r.Sections == nil {
		return
	}
	if k.c.Kind != KindPCR {
		k.add(CodePhase.Refuse("kind", "a TPM's log: systemd's measurements are judged in PCRs", k.c.Kind))
		return
	}
	regs := []int{pcrKernel}
	if r.Sections != nil {
		regs = append(regs, pcrSysexts)
	}
	if r.Systemd != nil || r.SystemdDigests != nil {
		regs = []int{pcrKernel, pcrConfig, pcrSysexts, pcrIdentity}
	}
	if !k.proven("what the system measured", regs...) {
		return
	}
	k.sections(regs)
	k.later(regs)
	if r.Phase != "" && !slices.Contains(k.c.Phases, r.Phase) {
		k.add(CodePhase.Refuse("phases", r.Phase, fmt.Sprint(k.c.Phases)))
	}
}

// sections judges the boot loader's part of PCRs 11, 13 and 15. systemd-stub measures sections in pairs, the name and then
// what it holds. Anything else in PCR 11 could be a phase, or what followed one, that a changed log shows as the stub's.
func (k *checker) sections(regs []int) {
	var seen []string
	name := ""
	for _, m := range k.c.Measurements {
		if m.Systemd || !slices.Contains(regs, m.Register) {
			continue
		}
		switch m.Register {
		case pcrKernel:
			if name == "" {
				if m.Proof != ProofDigest || !sectionName(m.Text) || slices.Contains(seen, m.Text) {
					k.section(m, "the name of a section, each once")
					continue
				}
				name, seen = m.Text, append(seen, m.Text)
				continue
			}
			name = ""
			if k.r.Sections != nil && !k.known(m.Digest, "section", k.r.Sections, k.r.Kernels, k.r.Initrds) {
				k.section(m, "a digest that sections lists")
			}
		case pcrSysexts:
			if !k.known(m.Digest, "section", k.r.Sections, k.r.Initrds) {
				k.section(m, "a digest that sections or initrds list")
			}
		case pcrIdentity:
			k.section(m, "nothing from a boot loader")
		}
	}
	if k.r.Phase != "" && !slices.Contains(seen, ".linux") {
		k.add(CodePhase.Refuse("sections", "section .linux, measured by systemd-stub", fmt.Sprint(seen)))
	}
	if name != "" {
		k.add(CodeSection.Refuse("sections", "the content of section "+name, "none"))
	}
}

func (k *checker) section(m Measurement, expected string) {
	k.add(CodeSection.Refuse(eventPath(m.Event), expected, m.Digest.String()+" "+clip(m.Text, 200)))
}

// sectionName says whether text could be the name of a section of a PE image.
func sectionName(text string) bool {
	return len(text) >= 2 && len(text) <= 8 && strings.HasPrefix(text, ".")
}

// later judges what systemd measured, in whichever register. Phases are allowed in their order, each once.
func (k *checker) later(regs []int) {
	last := -1
	for _, m := range k.c.Measurements {
		if !m.Systemd {
			continue
		}
		if p := slices.Index(systemdPhases, m.Text); m.Register == pcrKernel && m.Proof == ProofDigest && p > last {
			last = p
			continue
		}
		if !slices.Contains(regs, m.Register) || k.systemdAllows(m) {
			continue // other registers are judged by other rules
		}
		k.add(CodeSystemdEvent.Refuse(eventPath(m.Event), "a phase in its place, or what systemd or systemd_digests allow",
			fmt.Sprintf("PCR %d %s %s", m.Register, m.Digest, clip(m.Text, 200))))
	}
}

// systemdAllows says whether a pattern allows the text of a measurement, where it is proven, or a list its digest.
func (k *checker) systemdAllows(m Measurement) bool {
	return m.Proof == ProofDigest && matches(k.r.systemd, m.Text) ||
		m.Proof != ProofNone && k.known(m.Digest, "systemd", k.r.SystemdDigests)
}
