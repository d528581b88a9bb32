package vm

import (
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Archive collects the files of an initramfs. Its zero value is empty and ready to use.
type Archive struct{ files map[string]entry }

type entry struct {
	mode uint32 // type and permissions, as in stat
	data []byte
}

// The types of files in st_mode.
const (
	typeMask = 0o170000
	typeDir  = 0o040000
	typeFile = 0o100000
	typeLink = 0o120000
)

// File adds a regular file, and the directories above it. The path is absolute; a second file of the same path replaces
// the first.
func (a *Archive) File(name string, perm fs.FileMode, data []byte) {
	a.add(name, entry{typeFile | uint32(perm.Perm()), data})
}

// Dir adds an empty directory.
func (a *Archive) Dir(name string) { a.add(name, entry{mode: typeDir | 0o755}) }

// Link adds a symbolic link.
func (a *Archive) Link(name, target string) { a.add(name, entry{typeLink | 0o777, []byte(target)}) }

func (a *Archive) add(name string, e entry) {
	if a.files == nil {
		a.files = make(map[string]entry)
	}
	name = strings.TrimPrefix(path.Clean(name), "/")
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := a.files[dir]; !ok {
			a.files[dir] = entry{mode: typeDir | 0o755}
		}
	}
	a.files[name] = e
}

// Clone returns a copy that can be added to without changing this one.
func (a *Archive) Clone() *Archive {
	c := new(Archive)
	for name, e := range a.files {
		c.add("/"+name, e)
	}
	return c
}

// Content returns the content of a regular file, nil if there is none.
func (a *Archive) Content(name string) []byte {
	e := a.files[strings.TrimPrefix(path.Clean(name), "/")]
	if e.mode&typeMask != typeFile {
		return nil
	}
	return e.data
}

// Files returns the paths of the regular files, ascending.
func (a *Archive) Files() []string {
	var out []string
	for name, e := range a.files {
		if e.mode&typeMask == typeFile {
			out = append(out, "/"+name)
		}
	}
	slices.Sort(out)
	return out
}

// WriteTo writes the archive, compressed, in the form the kernel unpacks (cpio "newc", of
// Documentation/driver-api/early-userspace/buffer-format.rst). Equal archives are equal bytes: owners are root, times are zero.
func (a *Archive) WriteTo(w io.Writer) (int64, error) {
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return 0, err
	}
	c := cpio{w: z}
	names := make([]string, 0, len(a.files))
	for name := range a.files {
		names = append(names, name)
	}
	slices.Sort(names) // a directory sorts before what is in it
	for i, name := range names {
		c.entry(i+1, name, a.files[name])
	}
	c.entry(0, "TRAILER!!!", entry{})
	if c.err != nil {
		return c.n, c.err
	}
	return c.n, z.Close()
}

// cpio writes entries; n counts bytes before compression.
type cpio struct {
	w   io.Writer
	n   int64
	err error
}

func (c *cpio) entry(inode int, name string, e entry) {
	links := 1
	if e.mode&typeMask == typeDir {
		links = 2
	}
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
	c.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		inode, e.mode, 0, 0, links, 0, len(e.data), 0, 0, 0, 0, len(name)+1, 0))
	c.write(append([]byte(name), 0))
	c.pad()
	c.write(e.data)
	c.pad()
}

func (c *cpio) pad() { c.write(make([]byte, -c.n&3)) }

func (c *cpio) write(b []byte) {
	if c.err == nil {
		var n int
		n, c.err = c.w.Write(b)
		c.n += int64(n)
	}
}
