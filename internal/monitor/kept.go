package monitor

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/tetratelabs/wazero"
	"golang.org/x/sys/cpu"

	"github.com/assay-attest/assay/enclave"
)

// kept keeps compiled modules on disk. The engine's own cache is code that is run as it is found (S16); so the engine gets
// a folder that nobody else can reach, and what goes there from disk was authenticated in memory before: a MAC under a key
// of the monitor over the module's hash, the engine's version, the processor's features and the code.
type kept struct {
	dir     string
	key     [32]byte
	log     *slog.Logger
	private *privateDir
}

// CacheKey returns the key that a monitor's compiled modules are authenticated with.
func CacheKey(k *enclave.MonitorKey) (key [32]byte, err error) {
	secret := k.Bytes()
	defer clear(secret)
	b, err := hkdf.Key(sha256.New, secret, nil, "assay/compilation-cache/1", len(key))
	if err != nil {
		return key, fmt.Errorf("deriving the key of the compilation cache: %w", err)
	}
	copy(key[:], b)
	clear(b)
	return key, nil
}

func newKept(o CompilerOptions) (*kept, wazero.CompilationCache, error) {
	if o.Key == [32]byte{} {
		return nil, nil, errors.New("a compilation cache on disk needs a key")
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("making the compilation cache: %w", err)
	}
	k := &kept{dir: o.Dir, key: o.Key, log: o.Log}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if k.private, err = newPrivateDir(); err != nil {
		// Without a folder of its own the code would be read back from where others may have been: memory it is.
		k.log.Info("compiled modules stay in memory", "reason", err.Error())
		return nil, wazero.NewCompilationCache(), nil
	}
	c, err := wazero.NewCompilationCacheWithDir(k.private.path)
	if err != nil {
		k.close()
		return nil, nil, fmt.Errorf("making the engine's cache: %w", err)
	}
	return k, c, nil
}

func (k *kept) close() {
	if k != nil && k.private != nil {
		k.private.close()
	}
}

// An entry is the MAC, the length of the name and the name under which the engine looks for it, and its code.
const macSize = sha256.Size

func (k *kept) file(sum [32]byte) string { return filepath.Join(k.dir, fmt.Sprintf("%x", sum)) }

// mac covers everything that decides whether an entry may be run here. The name has the engine's version in it.
func (k *kept) mac(sum [32]byte, named []byte) []byte {
	h := hmac.New(sha256.New, k.key[:])
	features := fmt.Sprintf("%+v %+v", cpu.X86, cpu.ARM64)
	fmt.Fprintf(h, "assay/compiled/1\x00%x %d ", sum, len(features))
	h.Write([]byte(features))
	h.Write(named)
	return h.Sum(nil)
}

// load puts the entry of a module, if there is one and it is authentic, where the engine looks for it: below dir.
func (k *kept) load(sum [32]byte, dir string) bool {
	if k == nil {
		return false
	}
	b, err := os.ReadFile(k.file(sum))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	name, code, ok := "", []byte(nil), false
	if err == nil {
		name, code, ok = k.entry(sum, b)
	}
	if ok {
		at := filepath.Join(dir, name)
		err = os.MkdirAll(filepath.Dir(at), 0o700)
		if err == nil {
			err = os.WriteFile(at, code, 0o600)
		}
		if err == nil {
			return true
		}
	}
	k.log.Warn("a compiled module is not used", "code", CodeCache.Code, "module", fmt.Sprintf("%x", sum), "error", err)
	_ = os.Remove(k.file(sum)) // it is written anew
	return false
}

// entry authenticates an entry and takes it apart.
func (k *kept) entry(sum [32]byte, b []byte) (name string, code []byte, ok bool) {
	if len(b) < macSize+2 || !hmac.Equal(b[:macSize], k.mac(sum, b[macSize:])) {
		return "", nil, false
	}
	n := int(binary.LittleEndian.Uint16(b[macSize:]))
	if n > len(b)-macSize-2 {
		return "", nil, false
	}
	b = b[macSize+2:]
	return string(b[:n]), b[n:], filepath.IsLocal(string(b[:n]))
}

// save writes the entry of what the engine has just compiled into dir.
func (k *kept) save(sum [32]byte, dir string) {
	if k == nil {
		return
	}
	err := eachFile(dir, func(at string) error {
		code, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, at)
		if err != nil {
			return err
		}
		named := append(binary.LittleEndian.AppendUint16(nil, uint16(len(name))), name...)
		named = append(named, code...)
		return replace(k.file(sum), append(k.mac(sum, named), named...))
	})
	if err != nil {
		k.log.Warn("a compiled module was not kept", "module", fmt.Sprintf("%x", sum), "error", err)
	}
}

// eachFile calls f for every file below a folder that has a name in /proc only.
func eachFile(dir string, f func(at string) error) error {
	return filepath.WalkDir(dir+"/", func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return f(at)
	})
}

// replace writes a file whole or not at all.
func replace(file string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return fmt.Errorf("keeping a compiled module: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("keeping a compiled module: %w", err)
	}
	return nil
}
