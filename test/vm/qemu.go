package vm

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Files in a machine's directory.
const (
	diskFile    = "disk.img"
	varsFile    = "vars.fd"
	initrdFile  = "initrd.gz"
	payloadFile = "payload.tar"
	espDir      = "esp"
	shellSocket = "shell.sock"
)

// diskSize is enough for the agent's state.
const diskSize = 16 << 20

// prepare writes the files QEMU is started with. Disk and firmware variables that are there stay: they are the machine's.
func (c *Config) prepare() error {
	if err := c.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	disk, err := os.OpenFile(c.path(diskFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := disk.Stat()
	if err == nil && info.Size() == 0 {
		err = disk.Truncate(diskSize)
	}
	if err := cmp.Or(err, disk.Close(), c.variables(), c.payload()); err != nil {
		return err
	}
	if c.Tier <= OVMF {
		return os.WriteFile(c.path(initrdFile), c.Initrd, 0o600)
	}
	files := c.ESP
	if c.Tier != Shim {
		files = map[string][]byte{bootPath: c.Image}
	}
	if err := os.RemoveAll(c.path(espDir)); err != nil {
		return err
	}
	for name, data := range files {
		file := filepath.Join(c.path(espDir), filepath.FromSlash(name))
		if err := cmp.Or(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, data, 0o600)); err != nil {
			return err
		}
	}
	return nil
}

// bootPath is where firmware looks on a disk nobody told it about (UEFI 2.10, section 3.5.1.1).
const bootPath = "EFI/BOOT/BOOTX64.EFI"

func (c *Config) check() error {
	if strings.ContainsAny(c.Dir+c.TPM.dir, ",\n") {
		return fmt.Errorf("QEMU's options can't name the directory %q", c.Dir)
	}
	if c.Server != "" {
		if _, _, err := net.SplitHostPort(c.Server); err != nil {
			return fmt.Errorf("the server's address: %w", err)
		}
	}
	direct, disk := c.Tier <= OVMF, c.Tier == Shim
	if direct != (len(c.Initrd) > 0) || disk != (len(c.ESP) > 0) || (direct || disk) == (len(c.Image) > 0) {
		return fmt.Errorf("tier %s boots a kernel with an initramfs, a unified kernel image or a disk, and was given another of these", c.Tier)
	}
	return nil
}

// variables gives UEFI machines their store of variables.
func (c *Config) variables() error {
	from := c.Tools.Vars
	switch c.Tier {
	case SeaBIOS:
		return nil
	case SecureBoot:
		from = c.Tools.SecureVars
	case Shim:
		from = c.Tools.MicrosoftVars
	}
	if _, err := os.Stat(c.path(varsFile)); err == nil {
		return nil
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(c.path(varsFile), b, 0o600)
}

// payload writes the second disk, of whole sectors.
func (c *Config) payload() error {
	const sector = 512
	return os.WriteFile(c.path(payloadFile), append(bytes.Clone(c.Payload), make([]byte, sector+-len(c.Payload)&(sector-1))...), 0o600)
}

func (c *Config) path(name string) string { return filepath.Join(c.Dir, name) }

// arguments is QEMU's command line. Emulation is chosen explicitly: a KVM that is there may not work, and one boot must
// be like another.
func (c *Config) arguments() []string {
	smm := "off"
	if c.Tier >= SecureBoot {
		smm = "on" // keeps the guest from writing firmware variables past the checks
	}
	args := []string{
		"-accel", "tcg,thread=multi", "-cpu", "max", "-M", "q35,smm=" + smm, "-m", strconv.Itoa(cmp.Or(c.MemoryMB, 320)), "-smp", "2",
		"-nodefaults", "-no-user-config", "-display", "none",
		"-serial", "stdio",
		"-chardev", "socket,id=shell,path=" + c.path(shellSocket) + ",server=on,wait=off", "-serial", "chardev:shell",
		"-chardev", "socket,id=tpm,path=" + c.TPM.control(), "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0",
		"-drive", "if=none,id=disk,format=raw,file=" + c.path(diskFile), "-device", "virtio-blk-pci,drive=disk",
		"-drive", "if=none,id=payload,format=raw,readonly=on,file=" + c.path(payloadFile), "-device", "virtio-blk-pci,drive=payload",
		"-netdev", c.network(), "-device", "virtio-net-pci,romfile=,netdev=net",
	}
	switch c.Tier {
	case OVMF, UKI:
		args = append(args, "-drive", flash(0, c.Tools.Code, true), "-drive", flash(1, c.path(varsFile), false))
	case SecureBoot, Shim:
		args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on",
			"-drive", flash(0, c.Tools.SecureCode, true), "-drive", flash(1, c.path(varsFile), false))
	}
	if c.Tier <= OVMF {
		return append(args, "-kernel", c.Tools.Kernel.Image, "-initrd", c.path(initrdFile), "-append", c.Cmdline)
	}
	return append(args, "-drive", "if=none,id=esp,format=raw,readonly=on,file=fat:"+c.path(espDir), "-device", "virtio-blk-pci,drive=esp,bootindex=0")
}

// flash is one of the two chips that hold OVMF.
func flash(unit int, file string, readonly bool) string {
	ro := ""
	if readonly {
		ro = ",readonly=on"
	}
	return fmt.Sprintf("if=pflash,format=raw,unit=%d%s,file=%s", unit, ro, file)
}

// network lets the guest reach one address, by a new process for each connection: QEMU's own forwarding to a socket knows one
// connection only.
func (c *Config) network() string {
	n := "user,id=net,restrict=on"
	if c.Server != "" {
		host, port, _ := net.SplitHostPort(c.Server) // checked
		n += fmt.Sprintf(",guestfwd=tcp:%s:8443-cmd:%s nc %s %s", GuestServerIP, c.Tools.Busybox, host, port)
	}
	return n
}
