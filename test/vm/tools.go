package vm

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// KernelDir is the environment variable that names a directory with an unpacked kernel package (boot/, lib/modules/).
const KernelDir = "ASSAY_VM_KERNEL"

// Tools is what machines are made of: programs and files of the host.
type Tools struct {
	QEMU    string
	SWTPM   string
	Busybox string // static
	Kernel  Kernel

	// OVMF, empty where the firmware is not installed.
	Code, Vars             string
	SecureCode, SecureVars string // with Debian's published ("snakeoil") keys enrolled
	SecureKey, SecureCert  string // that sign for them
	Stub                   string // systemd's EFI stub, the frame of a unified kernel image
	Sbsign, OpenSSL        string

	// What a distribution boots by: Microsoft's keys in the firmware, shim signed with one, GRUB and the kernel signed with
	// the distribution's, which shim holds. Guest is the directory that shim, GRUB and systemd's packages are unpacked in.
	MicrosoftVars string
	Guest         string
	Shim, Grub    string
	Sbattach      string
}

// Kernel is a kernel image and the modules a guest loads, in the order they must be loaded in.
type Kernel struct {
	Version string
	Image   string
	Modules []string
}

// modules carry network and disk, in the order of their dependencies: there is no depmod without an installation.
var modules = []string{
	"virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "failover", "net_failover", "virtio_net", "virtio_blk",
}

// builtIn is what the kernel's configuration must say: the guest has no way to load these early enough.
var builtIn = []string{
	"CONFIG_TCG_TPM=y", "CONFIG_TCG_CRB=y", "CONFIG_IMA=y", "CONFIG_SECURITYFS=y", "CONFIG_EXT4_FS=y", "CONFIG_SERIAL_8250_CONSOLE=y", "CONFIG_EFI_STUB=y",
}

// Tier is a kind of firmware with what a test wants to boot on it.
type Tier int

// The tiers. Each needs what the one before needs, and more.
const (
	SeaBIOS    Tier = iota // quick; firmware is measured, kernel and command line are not
	OVMF                   // UEFI: kernel, command line and initramfs are measured
	UKI                    // UEFI that loads a unified kernel image from a disk
	SecureBoot             // the same, with signatures enforced
	Shim                   // signatures enforced with Microsoft's keys; shim and GRUB of Debian load Debian's kernel
)

func (t Tier) String() string {
	return [...]string{"SeaBIOS", "OVMF", "OVMF with a unified kernel image", "OVMF with Secure Boot", "OVMF with Secure Boot, shim and GRUB"}[t]
}

// Find looks for what machines of a tier need. What is missing is told as text a person can act upon: each element names
// the thing and the Debian package it comes from.
func Find(tier Tier) (Tools, []string) {
	var t Tools
	var missing []string
	program := func(to *string, name, pkg string) {
		path, err := exec.LookPath(name)
		if err != nil {
			missing = append(missing, fmt.Sprintf("%s (package %s)", name, pkg))
			return
		}
		*to = path
	}
	file := func(to *string, pkg, path string) {
		if _, err := os.Stat(path); err != nil {
			missing = append(missing, fmt.Sprintf("%s (package %s)", path, pkg))
			return
		}
		*to = path
	}
	program(&t.QEMU, "qemu-system-x86_64", "qemu-system-x86")
	program(&t.SWTPM, "swtpm", "swtpm")
	var setup string
	program(&setup, "swtpm_setup", "swtpm-tools")
	program(&t.Busybox, "busybox", "busybox-static")
	kernel, err := findKernel()
	if err != nil {
		missing = append(missing, err.Error())
	}
	t.Kernel = kernel
	if tier >= OVMF {
		file(&t.Code, "ovmf", "/usr/share/OVMF/OVMF_CODE_4M.fd")
		file(&t.Vars, "ovmf", "/usr/share/OVMF/OVMF_VARS_4M.fd")
	}
	if tier >= UKI {
		file(&t.Stub, "systemd-boot-efi", "/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
	}
	if tier >= SecureBoot {
		file(&t.SecureCode, "ovmf", "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
		file(&t.SecureVars, "ovmf", "/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd")
		file(&t.SecureKey, "ovmf", "/usr/share/ovmf/PkKek-1-snakeoil.key")
		file(&t.SecureCert, "ovmf", "/usr/share/ovmf/PkKek-1-snakeoil.pem")
		program(&t.Sbsign, "sbsign", "sbsigntool")
		program(&t.OpenSSL, "openssl", "openssl")
	}
	if tier >= Shim {
		t.Guest = guestDir()
		file(&t.MicrosoftVars, "ovmf", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
		file(&t.Shim, "shim-signed, unpacked by make vm-tools", filepath.Join(t.Guest, "usr/lib/shim/shimx64.efi.signed"))
		file(&t.Grub, "grub-efi-amd64-signed, unpacked by make vm-tools", filepath.Join(t.Guest, "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"))
		var systemd string
		file(&systemd, "systemd, unpacked by make vm-tools", filepath.Join(t.Guest, "lib/systemd/systemd"))
		program(&t.Sbattach, "sbattach", "sbsigntool")
	}
	return t, missing
}

// Need returns the tools of a tier, and skips the test with the reason where they are not there.
func Need(tb testing.TB, tier Tier) Tools {
	tb.Helper()
	if testing.Short() {
		tb.Skip("boots a virtual machine: seconds to half a minute; runs without -short")
	}
	t, missing := Find(tier)
	if len(missing) > 0 {
		tb.Skipf("no virtual machine with %s without %s; make vm-tools installs what is missing", tier, strings.Join(missing, ", "))
	}
	return t
}

// guestDir is where packages of guests are unpacked: below the kernel's directory.
func guestDir() string {
	if dir := os.Getenv(KernelDir); dir != "" {
		return filepath.Join(dir, "guest")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "assay", "vm", "guest")
}

// findKernel takes the directory named by the environment, what `make vm-tools` unpacked, or the host's own kernel if
// this user may read it.
func findKernel() (Kernel, error) {
	var roots []string
	if dir := os.Getenv(KernelDir); dir != "" {
		roots = append(roots, dir)
	} else {
		if cache, err := os.UserCacheDir(); err == nil {
			roots = append(roots, filepath.Join(cache, "assay", "vm"))
		}
		roots = append(roots, "/")
	}
	why := "none in " + strings.Join(roots, " or ")
	for _, root := range roots {
		images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
		if err != nil {
			return Kernel{}, err
		}
		slices.Sort(images)
		for _, image := range slices.Backward(images) {
			k, err := kernelAt(root, image)
			if err == nil {
				return k, nil
			}
			why = err.Error()
		}
	}
	return Kernel{}, fmt.Errorf("a kernel with TPM and IMA built in (package linux-image-cloud-amd64, unpacked by make vm-tools; %s)", why)
}

func kernelAt(root, image string) (Kernel, error) {
	k := Kernel{Image: image, Version: strings.TrimPrefix(filepath.Base(image), "vmlinuz-")}
	if f, err := os.Open(image); err != nil {
		return k, err
	} else if err := f.Close(); err != nil {
		return k, err
	}
	config, err := os.Open(filepath.Join(root, "boot", "config-"+k.Version))
	if err != nil {
		return k, err
	}
	defer config.Close()
	set := make(map[string]bool)
	for s := bufio.NewScanner(config); s.Scan(); {
		set[s.Text()] = true
	}
	for _, want := range builtIn {
		if !set[want] {
			return k, fmt.Errorf("%s is built without %s", k.Version, want)
		}
	}
	for _, name := range modules {
		path, err := findModule(filepath.Join(root, "lib", "modules", k.Version, "kernel"), name)
		if err != nil {
			return k, err
		}
		if path != "" {
			k.Modules = append(k.Modules, path)
		} else if !set["CONFIG_"+strings.ToUpper(name)+"=y"] && name != "virtio_ring" && !strings.HasPrefix(name, "virtio_pci_") {
			return k, fmt.Errorf("%s has no uncompressed module %s", k.Version, name)
		}
	}
	return k, nil
}

// findModule looks where these modules are in every kernel of the last years.
func findModule(dir, name string) (string, error) {
	for _, below := range []string{"drivers/virtio", "drivers/net", "drivers/block", "net/core"} {
		path := filepath.Join(dir, below, name+".ko")
		_, err := os.Stat(path)
		if err == nil {
			return path, nil
		}
		if !os.IsNotExist(err) {
			return "", err
		}
	}
	return "", nil
}
