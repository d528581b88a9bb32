package server

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/assay-attest/assay/internal/keyring"
)

// A bundle carries what servers of one database share to a new server: the keys, the CA, the access tokens. It is sealed
// under a key of its own that stands in a second file: neither is worth anything without the other, so that they can go
// different ways, and both are worthless after a day.
const (
	bundleMagic = "assay server bundle 1\n"
	bundleLife  = 24 * time.Hour
	bundleMax   = 1 << 20
	typeBundle  = "ASSAY BUNDLE KEY"
)

// bundle is the content, JSON.
type bundle struct {
	Expires    time.Time         `json:"expires"`
	URL        string            `json:"url"`
	Database   string            `json:"database"`
	Retention  Retention         `json:"retention"`
	Collateral map[string]string `json:"collateral,omitempty"`
	Update     string            `json:"collateral_update,omitempty"`
	Files      map[string][]byte `json:"files"` // by path in the data directory
}

// Export writes a bundle of the server in dir to file, and its key to keyFile, both of mode 0600. Neither may exist.
func Export(dir, file, keyFile string, rand io.Reader, now time.Time) (err error) {
	s, err := ReadSettings(dir)
	if err != nil {
		return err
	}
	if s.Database == "" {
		return errors.New("this server keeps its state in a file of its own, which no other can share: servers that share need --db postgres://… at init")
	}
	keys, err := keyring.Open(filepath.Join(dir, keysDir)) // whole and in order, or not at all
	if err != nil {
		return fmt.Errorf("opening the server's keys: %w", err)
	}
	keys.Close()
	b := bundle{Expires: now.Add(bundleLife).UTC(), URL: s.URL, Database: s.Database, Retention: s.Retention, Collateral: s.Collateral, Update: s.Update, Files: map[string][]byte{}}
	defer b.wipe()
	names := []string{caFile, accessFile}
	entries, err := os.ReadDir(filepath.Join(dir, keysDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type().IsRegular() && strings.HasSuffix(e.Name(), ".key") {
			names = append(names, keysDir+"/"+e.Name())
		}
	}
	for _, n := range names {
		if b.Files[n], err = os.ReadFile(filepath.Join(dir, n)); err != nil {
			return fmt.Errorf("reading what is to be shared: %w", err)
		}
	}
	plain, err := json.Marshal(b)
	if err != nil {
		return err
	}
	defer clear(plain)
	key := make([]byte, 32)
	defer clear(key)
	if _, err := io.ReadFull(rand, key); err != nil {
		return fmt.Errorf("drawing a key: %w", err)
	}
	aead, err := bundleAEAD(key)
	if err != nil {
		return err
	}
	encoded := pem.EncodeToMemory(&pem.Block{Type: typeBundle, Bytes: key})
	defer clear(encoded)
	if err := create(keyFile, encoded); err != nil {
		return fmt.Errorf("writing the bundle's key: %w", err)
	}
	if err := create(file, append([]byte(bundleMagic), aead.Seal(nil, nil, plain, []byte(bundleMagic))...)); err != nil {
		return errors.Join(fmt.Errorf("writing the bundle: %w", err), os.Remove(keyFile))
	}
	return nil
}

func (b bundle) wipe() {
	for _, f := range b.Files {
		clear(f)
	}
}

// bundleAEAD draws a random nonce and puts it in front; the key seals one bundle.
func bundleAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// openBundle reads a bundle. Anything but a whole, fresh one under this key is refused.
func openBundle(file, keyFile string, now time.Time) (bundle, error) {
	var b bundle
	encoded, err := readBounded(keyFile)
	if err != nil {
		return b, fmt.Errorf("reading the bundle's key: %w", err)
	}
	defer clear(encoded)
	p, _ := pem.Decode(encoded)
	if p == nil || p.Type != typeBundle || len(p.Bytes) != 32 {
		return b, fmt.Errorf("reading the bundle's key: %s holds none", keyFile)
	}
	defer clear(p.Bytes)
	raw, err := readBounded(file)
	if err != nil {
		return b, fmt.Errorf("reading the bundle: %w", err)
	}
	sealed, ok := strings.CutPrefix(string(raw), bundleMagic)
	if !ok {
		return b, fmt.Errorf("reading the bundle: %s is not one", file)
	}
	aead, err := bundleAEAD(p.Bytes)
	if err != nil {
		return b, err
	}
	plain, err := aead.Open(nil, nil, []byte(sealed), []byte(bundleMagic))
	if err != nil {
		return b, errors.New("opening the bundle: it was changed, or the key is another bundle's")
	}
	defer clear(plain)
	if err := json.Unmarshal(plain, &b); err != nil {
		return b, fmt.Errorf("opening the bundle: %w", err)
	}
	if !now.Before(b.Expires) {
		b.wipe()
		return b, fmt.Errorf("opening the bundle: it was good until %s; export a new one", b.Expires.Format(time.RFC3339))
	}
	for name := range b.Files {
		if name != caFile && name != accessFile && (!strings.HasPrefix(name, keysDir+"/") || !filepath.IsLocal(name) || strings.Count(name, "/") != 1) {
			b.wipe()
			return b, fmt.Errorf("opening the bundle: it holds a file %q", name)
		}
	}
	return b, nil
}

func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, bundleMax+1))
	if err == nil && len(b) > bundleMax {
		err = fmt.Errorf("%s has more than %d bytes", file, bundleMax)
	}
	return b, err
}

// unpack writes the files of a bundle into a new data directory.
func (b bundle) unpack(dir string) error {
	if err := os.Mkdir(filepath.Join(dir, keysDir), 0o700); err != nil {
		return fmt.Errorf("making the key directory: %w", err)
	}
	for name, content := range b.Files {
		if err := create(filepath.Join(dir, filepath.FromSlash(name)), content); err != nil {
			return fmt.Errorf("unpacking the bundle: %w", err)
		}
	}
	return nil
}

// create writes a file of mode 0600 that must not exist, and waits until it is on disk.
func create(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists; remove it or name another", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}
