package keyring

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/assay-attest/assay/sealed"
)

// The files of a key directory, each with its own PEM type so that swapped files are noticed.
const (
	fileCA       = "ca.key"
	fileVerifier = "verifier.key"
	filePlan     = "plan-signer.key"
	fileResults  = "results.key"
	fileTokens   = "tokens.key"
	fileKEK      = "kek.key"

	typeCA       = "ASSAY CA KEY"          // PKCS #8
	typeVerifier = "ASSAY VERIFIER KEY"    // PKCS #8
	typePlan     = "ASSAY PLAN SIGNER KEY" // PKCS #8
	typeResults  = "ASSAY RESULTS KEY"     // 32 bytes, X25519
	typeTokens   = "ASSAY TOKEN KEY"       // 32 bytes; one block, or two: current, previous
	typeKEK      = "ASSAY KEK"             // 32 bytes

	maxFile   = 8 << 10
	maxBlocks = 2
)

// Init makes all keys in dir, which must not exist or be empty. The directory is complete and durable when Init returns
// nil, and not there otherwise. rand must be a cryptographic source.
func Init(dir string, rand io.Reader) (*Keyring, error) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, CodeExists.Bad(dir, "no directory, or an empty one", seenAt(entries, err))
	}
	files, err := generate(rand)
	defer func() {
		for _, b := range files {
			clear(b)
		}
	}()
	if err != nil {
		return nil, fmt.Errorf("making keys: %w", err)
	}
	parent := filepath.Dir(filepath.Clean(dir))
	tmp, err := os.MkdirTemp(parent, "."+filepath.Base(dir)+".new-") // 0700
	if err != nil {
		return nil, fmt.Errorf("making the key directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	for name, b := range files {
		if err := writeFile(filepath.Join(tmp, name), b); err != nil {
			return nil, fmt.Errorf("writing keys: %w", err)
		}
	}
	if err := syncDir(tmp); err != nil {
		return nil, fmt.Errorf("writing keys: %w", err)
	}
	// An empty directory makes room, one that somebody filled meanwhile does not.
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making room for the key directory: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, CodeExists.Bad(dir, "no directory, or an empty one", "keys made meanwhile")
		}
		return nil, fmt.Errorf("putting the key directory in place: %w", err)
	}
	if err := syncDir(parent); err != nil {
		return nil, fmt.Errorf("writing keys: %w", err)
	}
	return Open(dir)
}

func seenAt(entries []fs.DirEntry, err error) string {
	if err != nil {
		return "something else of that name"
	}
	return fmt.Sprintf("a directory with %d entries", len(entries))
}

// generate returns the content of every file. The caller wipes it.
func generate(rand io.Reader) (map[string][]byte, error) {
	files := make(map[string][]byte)
	for _, f := range []struct{ name, kind string }{{fileCA, typeCA}, {fileVerifier, typeVerifier}, {filePlan, typePlan}} {
		key, err := ecdsa.GenerateKey(curve, rand)
		if err != nil {
			return files, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return files, err
		}
		files[f.name] = encodeBlock(f.kind, der)
	}
	results, err := sealed.GenerateKey(rand)
	if err != nil {
		return files, err
	}
	files[fileResults] = encodeBlock(typeResults, results.Bytes())
	for _, f := range []struct{ name, kind string }{{fileTokens, typeTokens}, {fileKEK, typeKEK}} {
		k, err := randomKey(rand)
		if err != nil {
			return files, err
		}
		files[f.name] = encodeSymmetric(f.kind, []symmetric{k})
		wipe([]symmetric{k})
	}
	return files, nil
}

// encodeBlock returns the PEM form and wipes der.
func encodeBlock(kind string, der []byte) []byte {
	defer clear(der)
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func encodeSymmetric(kind string, keys []symmetric) []byte {
	var out []byte
	for _, k := range keys {
		out = append(out, encodeBlock(kind, append([]byte(nil), k.key[:]...))...)
	}
	return out
}

// Open reads the keys of a directory. It refuses a directory or file that group or others may touch (0700, 0600), a
// missing or malformed file, and keys that serve two uses.
func Open(dir string) (*Keyring, error) {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil, CodeDir.Missing(dir, "a directory with keys", "none")
	}
	if err != nil {
		return nil, fmt.Errorf("opening the key directory: %w", err)
	}
	if err := private(dir, info); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the key directory: %w", err)
	}
	defer func() { _ = root.Close() }()
	k := &Keyring{dir: dir}
	for _, f := range []struct {
		name, kind string
		into       **signer
		use        string
	}{
		{fileCA, typeCA, &k.ca, "CA"},
		{fileVerifier, typeVerifier, &k.verifier, "verifier"},
		{filePlan, typePlan, &k.planSigner, "plan-signer"},
	} {
		if *f.into, err = readSigner(root, f.name, f.kind, f.use); err != nil {
			return nil, err
		}
	}
	if k.results, err = readResults(root); err != nil {
		return nil, err
	}
	if k.tokens, err = readSymmetric(root, fileTokens, typeTokens); err != nil {
		return nil, err
	}
	if k.kek, err = readSymmetric(root, fileKEK, typeKEK); err != nil {
		return nil, err
	}
	return k, k.distinct()
}

// distinct refuses one key for two uses: a copied file must not make, for example, the CA sign results.
func (k *Keyring) distinct() error {
	seen := make(map[string]string)
	check := func(file string, id []byte) error {
		if first, ok := seen[string(id)]; ok {
			return CodeShared.Bad(file, "a key of its own", "the key of "+first)
		}
		seen[string(id)] = file
		return nil
	}
	errs := []error{check(fileCA, k.ca.spki), check(fileVerifier, k.verifier.spki), check(filePlan, k.planSigner.spki)}
	for _, s := range k.tokens {
		id := s.id()
		errs = append(errs, check(fileTokens, id[:]))
	}
	for _, s := range k.kek {
		id := s.id()
		errs = append(errs, check(fileKEK, id[:]))
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// private refuses what group or others may reach.
func private(path string, info fs.FileInfo) error {
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return CodePermissions.Bad(path, "no access for group and others", fmt.Sprintf("%04o", perm))
	}
	return nil
}

// readBlocks returns the content of the PEM blocks of one file, which holds nothing else. The caller wipes it.
func readBlocks(root *os.Root, name, kind string) ([][]byte, error) {
	path := filepath.Join(root.Name(), name)
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, CodeFileMissing.Missing(path, "a file", "none")
	}
	if err != nil {
		return nil, fmt.Errorf("reading keys: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, CodeFile.Bad(path, fmt.Sprintf("a regular file of at most %d bytes", maxFile), "another")
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading keys: %w", err)
	}
	defer func() { _ = f.Close() }()
	if info, err = f.Stat(); err != nil {
		return nil, fmt.Errorf("reading keys: %w", err)
	}
	if err := private(path, info); err != nil {
		return nil, err
	}
	raw := make([]byte, maxFile+1)
	defer clear(raw)
	n, err := io.ReadFull(f, raw)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading keys: %w", err)
	}
	var blocks [][]byte
	for rest := raw[:n]; len(bytes.TrimSpace(rest)) > 0; {
		var b *pem.Block
		if bytes.HasPrefix(rest, []byte("-----BEGIN ")) { // else Decode would skip what stands before the block
			b, rest = pem.Decode(rest)
		}
		if b == nil || b.Type != kind || len(b.Headers) > 0 || len(blocks) == maxBlocks {
			return nil, CodeFile.Bad(path, "nothing but "+kind, "something else")
		}
		blocks = append(blocks, b.Bytes)
	}
	if len(blocks) == 0 {
		return nil, CodeFile.Bad(path, kind, "nothing")
	}
	return blocks, nil
}

func readSigner(root *os.Root, name, kind, use string) (*signer, error) {
	blocks, err := readBlocks(root, name, kind)
	if err != nil {
		return nil, err
	}
	defer wipeBlocks(blocks)
	key, err := x509.ParsePKCS8PrivateKey(blocks[0])
	ec, ok := key.(*ecdsa.PrivateKey)
	if err != nil || !ok || ec.Curve != curve || len(blocks) != 1 {
		return nil, CodeFile.Bad(filepath.Join(root.Name(), name), "one P-256 key in PKCS #8", "something else")
	}
	return newSigner(use, ec)
}

func readResults(root *os.Root) (*sealed.Key, error) {
	blocks, err := readBlocks(root, fileResults, typeResults)
	if err != nil {
		return nil, err
	}
	defer wipeBlocks(blocks)
	key, err := sealed.ParseKey(blocks[0])
	if err != nil || len(blocks) != 1 {
		return nil, CodeFile.Bad(filepath.Join(root.Name(), fileResults), "one X25519 key of 32 bytes", "something else")
	}
	return key, nil
}

func readSymmetric(root *os.Root, name, kind string) ([]symmetric, error) {
	blocks, err := readBlocks(root, name, kind)
	if err != nil {
		return nil, err
	}
	defer wipeBlocks(blocks)
	keys := make([]symmetric, 0, len(blocks))
	for _, b := range blocks {
		k, ok := newSymmetric(b)
		if !ok {
			return nil, CodeFile.Bad(filepath.Join(root.Name(), name), "32 random bytes", fmt.Sprintf("%d bytes, or zeros", len(b)))
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func wipeBlocks(blocks [][]byte) {
	for _, b := range blocks {
		clear(b)
	}
}

// writeFile makes a new file of mode 0600 and waits until its content is on disk.
func writeFile(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// replaceFile exchanges one file for another, all or nothing, and wipes b.
func replaceFile(dir, name string, b []byte) error {
	defer clear(b)
	tmp := filepath.Join(dir, "."+name+".new")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeFile(tmp, b); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
