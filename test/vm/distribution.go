package vm

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf16"
)

// Names on the disk of tier Shim. GRUB's signed image looks for its script in one place only.
const (
	grubScript = "EFI/debian/grub.cfg"
	espKernel  = "vmlinuz"
	espInitrd  = "initrd.gz"
)

// Distribution makes the disk of tier Shim: shim, GRUB, a script for it, a kernel (nil: the distribution's, as it is signed)
// and an initramfs.
func Distribution(t Tools, cmdline string, kernel, initrd []byte) (map[string][]byte, error) {
	files := map[string][]byte{espKernel: kernel, espInitrd: initrd, grubScript: []byte(GrubScript(cmdline))}
	from := map[string]string{bootPath: t.Shim, "EFI/BOOT/grubx64.efi": t.Grub}
	if kernel == nil {
		from[espKernel] = t.Kernel.Image
	}
	for name, file := range from {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("making a disk to boot from: %w", err)
		}
		files[name] = b
	}
	return files, nil
}

// GrubScript is the script that GRUB runs. There is no menu: nothing waits for a key.
func GrubScript(cmdline string) string {
	return "linux /" + espKernel + " " + cmdline + "\ninitrd /" + espInitrd + "\nboot\n"
}

// Resign replaces the signatures of an image by one with the published test key.
func Resign(ctx context.Context, t Tools, dir string, image []byte) ([]byte, error) {
	file := filepath.Join(dir, "resign.efi")
	if err := os.WriteFile(file, image, 0o600); err != nil {
		return nil, err
	}
	defer os.Remove(file)
	if text, err := exec.CommandContext(ctx, t.Sbattach, "--remove", file).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("removing a signature with sbattach: %w: %s", err, text)
	}
	bare, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return Sign(ctx, t, dir, bare)
}

// systemdPrograms are what a guest needs of systemd, and what that loads while it runs.
var systemdPrograms = []string{
	"lib/systemd/systemd", "lib/systemd/systemd-pcrphase",
	"usr/lib/x86_64-linux-gnu/libtss2-esys.so.0", "usr/lib/x86_64-linux-gnu/libtss2-rc.so.0", "usr/lib/x86_64-linux-gnu/libtss2-mu.so.0",
	"usr/lib/x86_64-linux-gnu/libtss2-tcti-device.so.0", "lib64/ld-linux-x86-64.so.2",
}

// systemdUnits are systemd's own units that a guest runs.
var systemdUnits = []string{
	"sysinit.target", "basic.target", "shutdown.target", "umount.target", "local-fs.target", "final.target",
	"systemd-pcrphase-sysinit.service", "systemd-pcrphase.service",
}

// SystemdFiles are the files a guest needs to run systemd as its process 1, of the packages unpacked by make vm-tools: for
// Payload. systemd starts the shell when its phases are measured, which it does where systemd-stub booted the kernel.
func SystemdFiles(t Tools) (map[string][]byte, error) {
	files := map[string][]byte{
		"/etc/machine-id":          []byte("0123456789abcdef0123456789abcdef\n"),
		"/etc/os-release":          []byte("ID=assay-guest\nNAME=\"guest of a test\"\n"),
		"/etc/fstab":               nil,
		"/etc/systemd/system.conf": []byte("[Manager]\nDefaultStandardOutput=null\nDefaultStandardError=null\nLogTarget=kmsg\nShowStatus=no\n"),
		"/etc/systemd/system/default.target": []byte("[Unit]\nDescription=The guest\nRequires=basic.target\nAfter=basic.target\n" +
			"Wants=systemd-pcrphase-sysinit.service systemd-pcrphase.service shell.service\n"),
		"/etc/systemd/system/shell.service": []byte("[Unit]\nDescription=The shell of the test\nAfter=systemd-pcrphase.service systemd-pcrphase-sysinit.service\n" +
			"[Service]\nExecStart=/shell\nStandardInput=null\nKillMode=process\n"),
	}
	module, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(t.Kernel.Image)), "lib", "modules", t.Kernel.Version, "kernel/fs/efivarfs/efivarfs.ko"))
	if err != nil {
		return nil, fmt.Errorf("packing systemd: %w", err)
	}
	files[modulesDir+"efivarfs.ko"] = module // by it systemd sees that systemd-stub measured
	for _, unit := range systemdUnits {
		if err := addFile(files, t.Guest, "lib/systemd/system/"+unit); err != nil {
			return nil, fmt.Errorf("packing systemd: %w", err)
		}
	}
	for _, p := range systemdPrograms {
		if err := addProgram(files, t.Guest, p); err != nil {
			return nil, fmt.Errorf("packing systemd: %w", err)
		}
	}
	return files, nil
}

// follow resolves the symbolic links of a file below root, whose absolute targets are meant from root.
func follow(root, name string) (string, error) {
	for range 8 {
		info, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			return "", err
		}
		if info.Mode()&os.ModeSymlink == 0 {
			return filepath.Join(root, name), nil
		}
		to, err := os.Readlink(filepath.Join(root, name))
		if err != nil {
			return "", err
		}
		if !path.IsAbs(to) {
			to = path.Join(path.Dir(name), to)
		}
		name = strings.TrimPrefix(to, "/")
	}
	return "", fmt.Errorf("%s: too many links", name)
}

func addFile(files map[string][]byte, root, name string) error {
	file, err := follow(root, name)
	if err != nil {
		return err
	}
	files["/"+name], err = os.ReadFile(file)
	return err
}

// libraryDirs are where a Debian program finds its libraries without a cache.
var libraryDirs = []string{
	"lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu/systemd", "usr/lib/x86_64-linux-gnu/systemd", "lib/systemd", "usr/lib/systemd",
}

// addProgram adds a program or library with all libraries it names.
func addProgram(files map[string][]byte, root, name string) error {
	if _, ok := files["/"+name]; ok {
		return nil
	}
	if err := addFile(files, root, name); err != nil {
		return err
	}
	file, err := follow(root, name)
	if err != nil {
		return err
	}
	f, err := elf.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	libs, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, lib := range libs {
		found := false
		for _, dir := range libraryDirs {
			if _, err := follow(root, dir+"/"+lib); err == nil {
				if err := addProgram(files, root, dir+"/"+lib); err != nil {
					return err
				}
				found = true
				break
			}
		}
		if !found && !strings.HasPrefix(lib, "ld-linux") {
			return fmt.Errorf("%s needs %s, which is in none of the unpacked packages", name, lib)
		}
	}
	return nil
}

// shimGUID is of shim's variables, 605dab50-e046-4300-abb6-3dd810dd8b23 in its byte order.
var shimGUID = []byte{0x50, 0xab, 0x5d, 0x60, 0x46, 0xe0, 0x00, 0x43, 0xab, 0xb6, 0x3d, 0xd8, 0x10, 0xdd, 0x8b, 0x23}

// EnrolMOK returns a store of firmware variables with a Machine Owner Key, as shim's MokManager leaves it behind when a person
// at the console has enrolled a certificate: an EFI_SIGNATURE_LIST (UEFI 2.10, section 32.4.1) as MokList.
func EnrolMOK(store, der []byte) ([]byte, error) {
	le := binary.LittleEndian
	list := []byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72} // EFI_CERT_X509_GUID
	list = le.AppendUint32(le.AppendUint32(le.AppendUint32(list, uint32(28+16+len(der))), 0), uint32(16+len(der)))
	return ShimVariable(store, "MokList", append(append(list, shimGUID...), der...))
}

// ShimVariable returns a store of firmware variables to which one of shim's was added, for boot services only: what a running
// system can't write. The store is OVMF's (EFI_FIRMWARE_VOLUME_HEADER, Platform Initialization Specification, volume 3, section
// 3.2, and its VARIABLE_STORE_HEADER, of authenticated variables) and must not hold the variable yet.
func ShimVariable(store []byte, name string, data []byte) ([]byte, error) {
	const header, variable, startID, added = 28, 60, 0x55aa, 0x3f
	le := binary.LittleEndian
	if len(store) < 0x48 {
		return nil, errors.New("adding a variable: the store is too short")
	}
	base := int(le.Uint16(store[0x30:])) // EFI_FIRMWARE_VOLUME_HEADER.HeaderLength
	if base+header > len(store) {
		return nil, errors.New("adding a variable: the store has no room for a header")
	}
	end := base + int(le.Uint32(store[base+16:])) // VARIABLE_STORE_HEADER.Size
	at := base + header
	for at+variable <= end && end <= len(store) && le.Uint16(store[at:]) == startID {
		at = (at + variable + int(le.Uint32(store[at+36:])) + int(le.Uint32(store[at+40:])) + 3) &^ 3
	}
	var wide []byte
	for _, c := range append(utf16.Encode([]rune(name)), 0) {
		wide = le.AppendUint16(wide, c)
	}
	v := append(le.AppendUint16(nil, startID), added, 0)
	v = le.AppendUint32(v, 1|2)            // non-volatile, boot services
	v = append(v, make([]byte, 8+16+4)...) // not authenticated: no counter, time and key
	v = le.AppendUint32(le.AppendUint32(v, uint32(len(wide))), uint32(len(data)))
	v = append(append(append(v, shimGUID...), wide...), data...)
	if at+len(v) > end || end > len(store) {
		return nil, errors.New("adding a variable: the store is full, or no store of variables")
	}
	out := append([]byte{}, store...)
	copy(out[at:], v)
	return out, nil
}
