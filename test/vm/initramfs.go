package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Generator is a program that makes initramfs images on a distribution's machines.
type Generator string

// The generators, both of Debian.
const (
	InitramfsTools Generator = "initramfs-tools"
	Dracut         Generator = "dracut"
)

// File is a file with its permissions.
type File struct {
	Mode fs.FileMode
	Data []byte
}

// commands make /image in a Debian root, for the kernel $1. Only what such a guest needs is in it: firmware under emulation takes
// seconds to hash more.
var commands = map[Generator]string{
	InitramfsTools: `sed -i s/^MODULES=.*/MODULES=list/ /etc/initramfs-tools/initramfs.conf
printf 'virtio_pci\nvirtio_blk\n' >/etc/initramfs-tools/modules
mkinitramfs -o /image "$1"`,
	Dracut: `dracut --quiet --force --no-hostonly --kver "$1" --modules 'base kernel-modules rootfs-block fs-lib assay-keeper' --drivers 'virtio_pci virtio_blk' /image`,
}

// chrootScript puts $2, the files of a test and the kernel's modules over the Debian root $1 (which stays as it is), in a mount
// namespace of its own, and runs the command $4 there. $3 is where the kernel was unpacked, $5 its version.
const chrootScript = `set -e
mount -t tmpfs -o mode=755 tmpfs "$2/space"
cd "$2/space"
mkdir -p upper/usr/lib/modules upper/boot work root
cp -R ../files/. upper
cp -R "$3/lib/modules/$5" upper/usr/lib/modules
cp "$3/boot/config-$5" upper/boot
mount -t overlay overlay -o "lowerdir=$1,upperdir=upper,workdir=work" root
mount --rbind /dev root/dev
mount --rbind /proc root/proc
chroot root sh -e -c "depmod \"\$1\"
$4" sh "$5"
cat root/image >../image
`

// Initramfs has a Debian root with files added make an initramfs, by the distribution's own program and with the hooks among the files.
// dir is for files on the way.
func Initramfs(ctx context.Context, t Tools, by Generator, dir string, files map[string]File) ([]byte, error) {
	dir, err := os.MkdirTemp(dir, "initramfs-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := cmp.Or(writeTree(filepath.Join(dir, "files"), files), os.Mkdir(filepath.Join(dir, "space"), 0o755)); err != nil {
		return nil, fmt.Errorf("making an initramfs: %w", err)
	}
	kernel := filepath.Dir(filepath.Dir(t.Kernel.Image))
	cmd := exec.CommandContext(ctx, "unshare", "--map-root-user", "--mount", "sh", "-c", chrootScript, "sh", debianDir(), dir, kernel, commands[by], t.Kernel.Version)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("making an initramfs with %s: %w: %s", by, err, text)
	}
	return os.ReadFile(filepath.Join(dir, "image"))
}

// writeTree writes files below dir.
func writeTree(dir string, files map[string]File) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		to := filepath.Join(dir, filepath.FromSlash(name))
		err := os.MkdirAll(filepath.Dir(to), 0o755)
		if f.Mode.IsDir() {
			err = errors.Join(err, os.MkdirAll(to, 0o755), os.Chmod(to, f.Mode.Perm()))
		} else {
			err = errors.Join(err, os.WriteFile(to, f.Data, 0o600), os.Chmod(to, f.Mode.Perm())) // whatever the umask is
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// RootDisk makes a disk that holds a root file system of files (ext4, everything root's).
func RootDisk(ctx context.Context, disk string, mb int, files map[string]File) error {
	dir, err := os.MkdirTemp(filepath.Dir(disk), "root-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := writeTree(dir, files); err != nil {
		return fmt.Errorf("making a root file system: %w", err)
	}
	cmd := exec.CommandContext(ctx, "unshare", "--map-root-user", "mke2fs", "-q", "-t", "ext4", "-d", dir, disk, fmt.Sprintf("%dM", mb))
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making a root file system: %w: %s", err, text)
	}
	return nil
}

// debianDir is where a minimal Debian system with both generators is unpacked.
func debianDir() string { return filepath.Join(filepath.Dir(guestDir()), "debian") }

// NeedDebian skips the test where initramfs images can't be made as a distribution makes them.
func NeedDebian(tb testing.TB) {
	tb.Helper()
	if _, err := os.Stat(filepath.Join(debianDir(), "complete")); err != nil {
		tb.Skipf("no initramfs without a Debian system with initramfs-tools and dracut (%v); make vm-tools unpacks one", err)
	}
	if text, err := exec.Command("unshare", "--map-root-user", "--mount", "true").CombinedOutput(); err != nil {
		tb.Skipf("no initramfs without a mount namespace: %v: %s", err, text)
	}
	if _, err := exec.LookPath("mke2fs"); err != nil {
		tb.Skip("no root file system without mke2fs (package e2fsprogs)")
	}
}
