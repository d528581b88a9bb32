package endorse

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/assay-attest/assay/rats"
)

// suffix ends the names of a cache's files, of which there is one per document.
const suffix = ".collateral.json"

// maxFile bounds a file: base64 and names around a document.
const maxFile = (maxBody+maxChain)*4/3 + 4096

func fileName(k Key) string { return hex.EncodeToString(rats.SHA256([]byte(k)).Sum[:16]) + suffix }

// load reads the directory. Files that are broken, or that don't hold what their name says, are passed over.
func (c *Cache) load() error {
	if c.cfg.Dir == "" {
		return nil
	}
	if err := os.MkdirAll(c.cfg.Dir, 0o700); err != nil {
		return CodeConfig.Bad(c.cfg.Dir, "a directory that can be written", fileCause(err))
	}
	entries, err := os.ReadDir(c.cfg.Dir)
	if err != nil {
		return CodeConfig.Bad(c.cfg.Dir, "a directory that can be read", fileCause(err))
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) || !e.Type().IsRegular() {
			continue
		}
		if len(c.docs) >= c.cfg.MaxCount || c.bytes > c.cfg.MaxBytes {
			break
		}
		d, err := c.loadFile(e)
		if err != nil {
			c.skipped = append(c.skipped, fmt.Errorf("%s: %w", e.Name(), err))
			continue
		}
		c.put(d)
	}
	return nil
}

func (c *Cache) loadFile(e fs.DirEntry) (Document, error) {
	info, err := e.Info()
	if err != nil {
		return Document{}, err
	}
	if info.Size() > maxFile {
		return Document{}, fmt.Errorf("it has %d bytes, at most %d", info.Size(), maxFile)
	}
	b, err := os.ReadFile(filepath.Join(c.cfg.Dir, e.Name()))
	if err != nil {
		return Document{}, err
	}
	d, err := readFile(b, c.cfg.Roots)
	if err != nil {
		return Document{}, err
	}
	if fileName(d.Key) != e.Name() {
		return Document{}, errors.New("it holds another document than its name says")
	}
	return d, nil
}

// readFile reads a file of a cache. Dates are read from the document itself.
func readFile(b []byte, roots Roots) (Document, error) {
	var d Document
	if err := json.Unmarshal(b, &d); err != nil {
		return Document{}, CodeMalformed.Bad("file", "a document of the cache", clip(err.Error()))
	}
	return newDocument(d.Key, d.Body, d.Chain, d.Fetched, roots)
}

// save writes a document so that a crash leaves the old file or the new one.
func (c *Cache) save(d Document) error {
	if c.cfg.Dir == "" {
		return nil
	}
	b, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", d.Key, err)
	}
	f, err := os.CreateTemp(c.cfg.Dir, ".new-*")
	if err != nil {
		return CodeConfig.Bad(c.cfg.Dir, "a directory that can be written", fileCause(err))
	}
	defer os.Remove(f.Name()) // there is none after the rename
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(c.cfg.Dir, fileName(d.Key)))
	}
	if err != nil {
		return CodeConfig.Bad(c.cfg.Dir, "room for a document", fileCause(err))
	}
	return nil
}

// discard removes a document's file.
func (c *Cache) discard(k Key) {
	if c.cfg.Dir != "" {
		_ = os.Remove(filepath.Join(c.cfg.Dir, fileName(k))) // a file that stays is read again and makes room again
	}
}

func fileCause(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}
