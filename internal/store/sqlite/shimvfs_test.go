package sqlite

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// disk records what SQLite asks of the operating system, below everything else: it is a VFS that hands each call on to
// the real one and keeps writes, truncations, syncs, creations and deletions in the order they were done. From the record
// it builds what a disk may hold if power fails at any point of it.
//
// The shared-memory index (-shm) isn't recorded: it is memory, and SQLite builds it anew after a crash.
type disk struct {
	name string
	dir  string // only files in it are recorded

	mu     sync.Mutex
	record []diskOp
	files  map[uintptr]string // open files by their sqlite3_file
	known  map[string]bool    // files that were ever opened
}

type opKind int

const (
	opWrite opKind = iota
	opTruncate
	opSync
	opSyncDir
	opCreate
	opDelete
	opDeleteSynced
	opAck // not of SQLite: an update was acknowledged
)

type diskOp struct {
	kind   opKind
	file   string
	offset int64 // opTruncate: the size; opCreate: 1 if its name is durable; opSync, opSyncDir: how much of the record it covers; opAck: the number
	data   []byte
}

func (d *disk) note(op diskOp) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.record = append(d.record, op)
}

func (d *disk) ack(n int64) { d.note(diskOp{kind: opAck, offset: n}) }

func (d *disk) length() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.record)
}

// image is what may stand on the disk if power fails after the first n operations: all that was synced, and of the rest
// what keep says, sector by sector. It also returns which updates were acknowledged by then.
func (d *disk) image(n int, keep func() bool) (files map[string][]byte, acked []int64) {
	d.mu.Lock()
	ops := slices.Clone(d.record[:n])
	d.mu.Unlock()

	covered := map[string]int{} // per file: up to which operation it is synced
	names := 0                  // up to which operation creations and deletions are
	for _, op := range ops {
		switch op.kind {
		case opSync:
			covered[op.file] = max(covered[op.file], int(op.offset))
		case opSyncDir:
			names = max(names, int(op.offset))
		}
	}
	files = map[string][]byte{}
	for i, op := range ops {
		durable := i < covered[op.file]
		switch op.kind {
		case opAck:
			acked = append(acked, op.offset)
		case opCreate:
			// A file whose folder wasn't synced since may be missing after the crash, synced content or not.
			if _, ok := files[op.file]; !ok && (op.offset == 1 || i < names || keep()) {
				files[op.file] = nil
			}
		case opDeleteSynced:
			delete(files, op.file)
		case opDelete:
			if i < names || keep() {
				delete(files, op.file)
			}
		case opTruncate:
			if b, ok := files[op.file]; ok && (durable || keep()) {
				files[op.file] = resize(b, op.offset)
			}
		case opWrite:
			b, ok := files[op.file]
			if !ok {
				continue
			}
			const sector = 512
			for from := 0; from < len(op.data); from += sector {
				if part := op.data[from:min(from+sector, len(op.data))]; durable || keep() {
					at := op.offset + int64(from)
					b = resize(b, max(int64(len(b)), at+int64(len(part))))
					copy(b[at:], part)
				}
			}
			files[op.file] = b
		}
	}
	return files, acked
}

func resize(b []byte, n int64) []byte {
	if int64(len(b)) >= n {
		return b[:n:n]
	}
	return append(b, make([]byte, n-int64(len(b)))...)
}

// restore writes an image into a folder of its own and returns the path of the database there.
func restore(t *testing.T, files map[string][]byte, db string) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, filepath.Base(db))
}

// drop keeps nothing that wasn't synced; each(p) keeps every part by chance.
func drop() bool { return false }

func each(r *rand.Rand, p float64) func() bool { return func() bool { return r.Float64() < p } }

// What follows speaks SQLite's C interface: https://www.sqlite.org/c3ref/vfs.html. The structures lie in memory that isn't
// Go's, functions are passed as pointers to Go function values, which are static because all are top-level functions.

var (
	disks    sync.Map // name of a disk's VFS → *disk
	diskVFSs sync.Map // address of its sqlite3_vfs → *disk
	diskFile sync.Map // address of an open sqlite3_file → *disk
	vfsCount atomic.Int64

	realVFS     uintptr
	realMethods sync.Map // address of our io_methods → address of those they were copied from
	ourMethods  sync.Map // the reverse
	methodsLock sync.Mutex

	realOpenDirectory uintptr
	dirsOpened        sync.Map // *libc.TLS: a folder was opened, hence synced, in this call
)

// newDisk registers a recording VFS. It stays registered: SQLite has no safe moment to take one away.
func newDisk(t testing.TB, dir string) *disk {
	t.Helper()
	tls := libc.NewTLS()
	defer tls.Close()
	d := &disk{name: fmt.Sprintf("recorder%d", vfsCount.Add(1)), dir: dir, files: map[uintptr]string{}, known: map[string]bool{}}
	if realVFS == 0 {
		realVFS = sqlite3.Xsqlite3_vfs_find(tls, 0)
		watchDirectories(t, tls)
	}
	name, err := libc.CString(d.name)
	if err != nil {
		t.Fatal(err)
	}
	p := libc.Xmalloc(tls, libc.Tsize_t(unsafe.Sizeof(sqlite3.Tsqlite3_vfs{})))
	vfs := at[sqlite3.Tsqlite3_vfs](p)
	*vfs = *at[sqlite3.Tsqlite3_vfs](realVFS)
	vfs.FzName, vfs.FpNext = name, 0
	vfs.FxOpen, vfs.FxDelete = pointer(diskOpen), pointer(diskDelete)
	disks.Store(d.name, d)
	diskVFSs.Store(p, d)
	if rc := sqlite3.Xsqlite3_vfs_register(tls, p, 0); rc != sqlite3.SQLITE_OK {
		t.Fatalf("registering VFS: %d", rc)
	}
	return d
}

// watchDirectories notices when the real VFS opens a folder, which it does only to sync it.
func watchDirectories(t testing.TB, tls *libc.TLS) {
	name, err := libc.CString("openDirectory")
	if err != nil {
		t.Fatal(err)
	}
	vfs := at[sqlite3.Tsqlite3_vfs](realVFS)
	realOpenDirectory = call[func(*libc.TLS, uintptr, uintptr) uintptr](vfs.FxGetSystemCall)(tls, realVFS, name)
	set := call[func(*libc.TLS, uintptr, uintptr, uintptr) int32](vfs.FxSetSystemCall)
	if rc := set(tls, realVFS, name, pointer(diskOpenDirectory)); rc != sqlite3.SQLITE_OK || realOpenDirectory == 0 {
		t.Fatalf("watching directories: %d", rc)
	}
}

func diskOpenDirectory(tls *libc.TLS, path, fd uintptr) int32 {
	rc := call[func(*libc.TLS, uintptr, uintptr) int32](realOpenDirectory)(tls, path, fd)
	if rc == sqlite3.SQLITE_OK {
		dirsOpened.Store(tls, true)
	}
	return rc
}

// at is the value at an address outside of Go's memory.
func at[T any](p uintptr) *T { return *(**T)(unsafe.Pointer(&p)) }

// pointer is a function value as C code holds it; call is the way back.
func pointer(f any) uintptr { return (*[2]uintptr)(unsafe.Pointer(&f))[1] }

func call[F any](p uintptr) F { return *(*F)(unsafe.Pointer(&p)) }

func fileName(d *disk, path uintptr) string {
	if path == 0 {
		return ""
	}
	name := libc.GoString(path)
	if filepath.Dir(name) != d.dir || strings.HasSuffix(name, "-shm") {
		return ""
	}
	return filepath.Base(name)
}

func diskOpen(tls *libc.TLS, vfs, path, file uintptr, flags int32, out uintptr) int32 {
	v, _ := diskVFSs.Load(vfs)
	d := v.(*disk)
	name := fileName(d, path)
	_, err := os.Stat(filepath.Join(d.dir, name))
	open := call[func(*libc.TLS, uintptr, uintptr, uintptr, int32, uintptr) int32](at[sqlite3.Tsqlite3_vfs](realVFS).FxOpen)
	rc := open(tls, vfs, path, file, flags, out)
	if rc != sqlite3.SQLITE_OK || name == "" {
		return rc
	}
	d.mu.Lock()
	if os.IsNotExist(err) {
		d.record = append(d.record, diskOp{kind: opCreate, file: name})
	} else if !d.known[name] { // made, empty, and made durable by prepareFile
		d.record = append(d.record, diskOp{kind: opCreate, file: name, offset: 1})
	}
	d.known[name], d.files[file] = true, name
	d.mu.Unlock()
	diskFile.Store(file, d)
	f := at[sqlite3.Tsqlite3_file](file)
	f.FpMethods = methodsFor(tls, f.FpMethods)
	return rc
}

// methodsFor is a copy of a file's methods with those replaced that change the disk.
func methodsFor(tls *libc.TLS, from uintptr) uintptr {
	methodsLock.Lock()
	defer methodsLock.Unlock()
	if p, ok := ourMethods.Load(from); ok {
		return p.(uintptr)
	}
	p := libc.Xmalloc(tls, libc.Tsize_t(unsafe.Sizeof(sqlite3.Tsqlite3_io_methods{})))
	m := at[sqlite3.Tsqlite3_io_methods](p)
	*m = *at[sqlite3.Tsqlite3_io_methods](from)
	m.FiVersion = min(m.FiVersion, 2) // no xFetch: nothing is to pass by as memory-mapped
	m.FxWrite, m.FxTruncate, m.FxSync, m.FxClose = pointer(diskWrite), pointer(diskTruncate), pointer(diskSync), pointer(diskClose)
	realMethods.Store(p, from)
	ourMethods.Store(from, p)
	return p
}

// opened file: its disk, its name, the methods it really has.
func lookup(file uintptr) (d *disk, name string, m *sqlite3.Tsqlite3_io_methods) {
	v, _ := diskFile.Load(file)
	d = v.(*disk)
	d.mu.Lock()
	name = d.files[file]
	d.mu.Unlock()
	from, _ := realMethods.Load(at[sqlite3.Tsqlite3_file](file).FpMethods)
	return d, name, at[sqlite3.Tsqlite3_io_methods](from.(uintptr))
}

func diskWrite(tls *libc.TLS, file, buf uintptr, n int32, offset int64) int32 {
	d, name, m := lookup(file)
	rc := call[func(*libc.TLS, uintptr, uintptr, int32, int64) int32](m.FxWrite)(tls, file, buf, n, offset)
	if rc == sqlite3.SQLITE_OK {
		d.note(diskOp{kind: opWrite, file: name, offset: offset, data: slices.Clone(at[libc.RawMem](buf)[:n])})
	}
	return rc
}

func diskTruncate(tls *libc.TLS, file uintptr, size int64) int32 {
	d, name, m := lookup(file)
	rc := call[func(*libc.TLS, uintptr, int64) int32](m.FxTruncate)(tls, file, size)
	if rc == sqlite3.SQLITE_OK {
		d.note(diskOp{kind: opTruncate, file: name, offset: size})
	}
	return rc
}

func diskSync(tls *libc.TLS, file uintptr, flags int32) int32 {
	d, name, m := lookup(file)
	covers := d.length() // a write that comes while the sync runs isn't covered by it
	dirsOpened.Delete(tls)
	rc := call[func(*libc.TLS, uintptr, int32) int32](m.FxSync)(tls, file, flags)
	if rc == sqlite3.SQLITE_OK {
		d.note(diskOp{kind: opSync, file: name, offset: int64(covers)})
		if _, ok := dirsOpened.Load(tls); ok {
			d.note(diskOp{kind: opSyncDir, offset: int64(covers)})
		}
	}
	return rc
}

func diskClose(tls *libc.TLS, file uintptr) int32 {
	d, _, m := lookup(file)
	d.mu.Lock()
	delete(d.files, file)
	d.mu.Unlock()
	diskFile.Delete(file)
	return call[func(*libc.TLS, uintptr) int32](m.FxClose)(tls, file)
}

func diskDelete(tls *libc.TLS, vfs, path uintptr, syncDir int32) int32 {
	v, _ := diskVFSs.Load(vfs)
	d := v.(*disk)
	rc := call[func(*libc.TLS, uintptr, uintptr, int32) int32](at[sqlite3.Tsqlite3_vfs](realVFS).FxDelete)(tls, vfs, path, syncDir)
	if name := fileName(d, path); rc == sqlite3.SQLITE_OK && name != "" {
		kind := opDelete
		if syncDir != 0 {
			kind = opDeleteSynced
		}
		d.note(diskOp{kind: kind, file: name})
	}
	return rc
}
