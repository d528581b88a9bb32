package vm

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Where things are in the guest.
const (
	GuestAgent     = "/usr/bin/assay"          // the agent
	GuestState     = "/state"                  // the one directory that survives a reboot: it is on the disk
	GuestServer    = "https://10.0.2.100:8443" // the server, as the guest reaches it
	GuestServerIP  = "10.0.2.100"              // must be among the names in the server's certificate
	GuestIMAPolicy = "/etc/ima/assay-policy"   // loaded at boot if the command line says so
	GuestEventLog  = "/sys/kernel/security/tpm0/binary_bios_measurements"
	GuestIMAList   = "/sys/kernel/security/ima/binary_runtime_measurements"
)

// Command lines. Every guest needs Cmdline: without rootfstype the initramfs is a tmpfs, which IMA's built-in policy
// passes over, and nothing of it would be measured.
const (
	Cmdline    = "console=ttyS0 quiet rootfstype=ramfs tsc=reliable no_timer_check"
	IMATCB     = " ima_policy=tcb"               // the kernel's built-in policy
	IMAOwn     = " ima_policy=tcb assay.ima=own" // the built-in one until init has loaded IMAPolicy
	Systemd    = " assay.init=systemd"           // process 1 becomes systemd, of the payload that SystemdFiles makes
	readyMark  = "@@ready"
	initMark   = "@@init"
	doneMark   = "@@done "
	panicMark  = "Kernel panic"
	modulesDir = "/lib/modules/"
)

// IMAPolicy measures every execution from every file system (S30). It replaces the built-in policy, which leaves out
// tmpfs, and it is measured itself when it is loaded.
const IMAPolicy = `measure func=BPRM_CHECK mask=MAY_EXEC
measure func=MMAP_CHECK mask=MAY_EXEC
measure func=MODULE_CHECK
measure func=FIRMWARE_CHECK
measure func=KEXEC_KERNEL_CHECK
measure func=POLICY_CHECK
`

// initScript is process 1 of a guest. It formats the disk if it is blank, so that the agent's state survives reboots, and
// becomes the shell, or systemd.
const initScript = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t securityfs securityfs /sys/kernel/security
mkdir -p /dev/shm /run /tmp
mount -t tmpfs tmpfs /dev/shm
echo "@@init $(cat /proc/uptime)" > /dev/console
case "$(cat /proc/cmdline)" in *assay.ima=own*) echo /etc/ima/assay-policy > /sys/kernel/security/ima/policy;; esac
for m in $(cat /etc/modules); do insmod $m; done
ifconfig lo 127.0.0.1 up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
if [ -b /dev/vda ]; then
  mount -t ext4 /dev/vda /state 2>/dev/null || { mke2fs /dev/vda >/dev/null && mount -t ext4 /dev/vda /state; } || echo "no disk" > /dev/console
fi
if [ -b /dev/vdb ]; then tar xf /dev/vdb -C /; fi
case "$(cat /proc/cmdline)" in *assay.init=systemd*) insmod /lib/modules/efivarfs.ko; exec /lib/systemd/systemd;; esac
exec /shell
`

// shellScript runs the scripts that come over the second serial line, one a line in base64. A shell of busybox on that line
// would take it for a person's terminal.
const shellScript = `#!/bin/busybox sh
exec 3<>/dev/ttyS1 # and never closed: closing it throws away what has come in
stty raw -echo <&3
echo "@@ready $(cat /proc/uptime)" >&3
while IFS= read -r line <&3; do
  (eval "$(printf %s "$line" | base64 -d)") </dev/null >&3 2>&1
  printf '\n@@done %s\n' $? >&3
done
`

// Guest makes the initramfs of a guest: busybox, the kernel's modules, and the script that starts it all. Tests add files
// of their own.
func Guest(t Tools) (*Archive, error) {
	var a Archive
	busybox, err := os.ReadFile(t.Busybox)
	if err != nil {
		return nil, fmt.Errorf("reading busybox: %w", err)
	}
	a.File("/bin/busybox", 0o755, busybox)
	list := ""
	for _, m := range t.Kernel.Modules {
		b, err := os.ReadFile(m)
		if err != nil {
			return nil, fmt.Errorf("reading a kernel module: %w", err)
		}
		name := modulesDir + filepath.Base(m)
		a.File(name, 0o644, b)
		list += name + "\n"
	}
	a.File("/etc/modules", 0o644, []byte(list))
	a.File("/etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	a.File("/etc/group", 0o644, []byte("root:x:0:\n"))
	a.File(GuestIMAPolicy, 0o644, []byte(IMAPolicy))
	a.File("/init", 0o755, []byte(initScript))
	a.File("/shell", 0o755, []byte(shellScript))
	for _, d := range []string{"/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/usr/bin", GuestState} {
		a.Dir(d)
	}
	return &a, nil
}

// Payload makes the archive that a guest unpacks over its root from a second disk: what is big lies there, as firmware
// under emulation takes seconds to hash it in an initramfs.
func Payload(files map[string][]byte) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := tar.Header{Name: strings.TrimPrefix(name, "/"), Mode: 0o755, Size: int64(len(files[name])), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("packing %s: %w", name, err)
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, fmt.Errorf("packing %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Agent builds the project's binary for a guest: static, as it is released. root is the module's directory.
func Agent(ctx context.Context, root string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "assay-vm-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "assay")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", out, "./cmd/assay")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the agent: %w: %s", err, text)
	}
	return os.ReadFile(out)
}
