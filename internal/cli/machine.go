package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
)

// The checks that the summary is made of.
const (
	checkTPM    = "TPM"
	checkEKCert = "endorsement certificate"
	checkSWTPM  = "software TPM"
)

// machine looks at this machine's interfaces for evidence below a root directory.
type machine struct{ root string }

func (m machine) path(p string) string { return filepath.Join(m.root, p) }

func (m machine) checks() []check {
	out := []check{m.device()}
	if p, err := exec.LookPath("swtpm"); err == nil {
		out = append(out, check{Name: checkSWTPM, State: isOK, Seen: p})
	} else {
		out = append(out, check{Name: checkSWTPM, State: isAbsent, Seen: "swtpm is not installed", Fix: "to try things out without a TPM: apt-get install swtpm swtpm-tools"})
	}
	return append(out,
		m.readable("boot event log", "/sys/kernel/security/tpm0/binary_bios_measurements", "run as root; a kernel without a TPM has none"),
		m.readable("IMA list", "/sys/kernel/security/ima/binary_runtime_measurements", "run as root, with securityfs mounted and a kernel with CONFIG_IMA"),
		m.present("reports by the kernel (configfs-tsm)", "/sys/kernel/config/tsm/report", "only in TDX and SEV-SNP guests, Linux 6.7 or later"),
		m.present("SEV-SNP guest", "/dev/sev-guest", "only inside an SEV-SNP guest"),
		m.present("TDX guest", "/dev/tdx_guest", "only inside a TDX guest"),
		m.present("SGX", "/dev/sgx_enclave", "only with SGX, switched on in the firmware"),
	)
}

// device looks at the TPM's device nodes without opening a session.
func (m machine) device() check {
	c := check{Name: "TPM device"}
	for _, dev := range []string{"/dev/tpmrm0", "/dev/tpm0"} {
		info, err := os.Stat(m.path(dev))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return check{Name: c.Name, State: isProblem, Seen: dev + ": " + cause(err)}
		}
		f, err := os.OpenFile(m.path(dev), os.O_RDWR, 0)
		switch {
		case err == nil:
			f.Close()
			c.State, c.Seen = isOK, dev
		case errors.Is(err, fs.ErrPermission):
			c.State, c.Seen = isProblem, fmt.Sprintf("%s: permission denied (mode %04o)", dev, info.Mode().Perm())
			c.Fix = "run as root or add this user to group tss: usermod -aG tss $USER"
		default:
			c.State, c.Seen = isProblem, dev+": "+cause(err)
			c.Fix = "another program may hold the device"
		}
		if c.State == isOK && dev == "/dev/tpm0" {
			c.State = isProblem
			c.Seen = "/dev/tpm0 only: no resource manager"
			c.Fix = "use a kernel with /dev/tpmrm0 (Linux 4.12 or later)"
		}
		return c
	}
	c.State, c.Seen = isAbsent, "neither /dev/tpmrm0 nor /dev/tpm0"
	c.Fix = "switch the TPM on in the firmware (TPM, PTT or fTPM), or give the VM a vTPM"
	return c
}

func (m machine) present(name, path, absent string) check {
	if _, err := os.Stat(m.path(path)); err != nil {
		return check{Name: name, State: isAbsent, Seen: absent}
	}
	return check{Name: name, State: isOK, Seen: path}
}

func (m machine) readable(name, path, absent string) check {
	f, err := os.Open(m.path(path))
	switch {
	case err == nil:
		f.Close()
		return check{Name: name, State: isOK, Seen: path}
	case errors.Is(err, fs.ErrPermission):
		return check{Name: name, State: isAbsent, Seen: path + ": permission denied", Fix: "run as root, as the agent does"}
	default:
		return check{Name: name, State: isAbsent, Seen: absent}
	}
}

// tpmChecks talks to the TPM: who made it, and whether its maker vouches for it.
func tpmChecks(ctx context.Context, path string) []check {
	dev, err := tpm.Open(ctx, path)
	if err != nil {
		state := isAbsent
		if path != "" {
			state = isProblem
		}
		return []check{{Name: checkTPM, State: state, Seen: err.Error(), Fix: "see the TPM device above; name another with --tpm-device"}}
	}
	defer dev.Close()
	info, err := dev.Info(ctx)
	if err != nil {
		return []check{{Name: checkTPM, State: isProblem, Seen: err.Error(), Fix: "another program may hold the TPM"}}
	}
	seen := fmt.Sprintf("%s %s at %s, firmware %x, PCR banks %s", strings.TrimSpace(info.Manufacturer), strings.TrimSpace(info.Model),
		info.Path, info.Firmware, strings.Join(info.Banks, ", "))
	out := []check{{Name: checkTPM, State: isOK, Seen: seen}}
	ek, err := dev.EK(ctx)
	if err != nil {
		return append(out, check{Name: "endorsement key", State: isProblem, Seen: err.Error(), Fix: "the endorsement hierarchy may be locked or owned: clear its authorisation in the firmware"})
	}
	out = append(out, check{Name: "endorsement key", State: isOK, Seen: ek.Digest.String()})
	cert := check{Name: checkEKCert, State: isOK, Seen: rats.SHA256(ek.CertDER).String()}
	if len(ek.CertDER) == 0 {
		cert.State, cert.Seen = isAbsent, "the TPM holds none"
		cert.Fix = "pin the endorsement key in a policy or a join token (--ek " + ek.Digest.String() + "), or approve the node by hand"
	}
	return append(out, cert)
}
