package ima

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

const (
	xattrIMA  = "security.ima"
	maxXattrs = 32
)

// imaXattr returns the value of security.ima among the extended attributes of an entry, nil if there is none.
func (m *EVM) imaXattr() ([]byte, error) {
	if len(m.Names) == 0 || m.Names[len(m.Names)-1] != 0 {
		return nil, fmt.Errorf("no names of extended attributes")
	}
	names := bytes.Split(m.Names[:len(m.Names)-1], []byte("|"))
	if len(names) > maxXattrs || len(m.Lengths) != 4*len(names) {
		return nil, fmt.Errorf("%d extended attributes with lengths in %d bytes", len(names), len(m.Lengths))
	}
	var found []byte
	rest := m.Values
	for i, name := range names {
		n := binary.LittleEndian.Uint32(m.Lengths[4*i:])
		if uint64(n) > uint64(len(rest)) {
			return nil, fmt.Errorf("an extended attribute of %d bytes where %d follow", n, len(rest))
		}
		if string(name) == xattrIMA {
			if found != nil || n == 0 {
				return nil, fmt.Errorf("%s is empty, or stands twice", xattrIMA)
			}
			found = rest[:n]
		}
		rest = rest[n:]
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("%d bytes after the extended attributes", len(rest))
	}
	return found, nil
}

// checkEVM verifies the portable signature of an entry of template evm-sig (security/integrity/evm/evm_crypto.c): type 5
// over the values of the protected extended attributes in the kernel's order, and owner, group and mode with inode and
// generation zero, as a 64-bit little-endian kernel lays them out. Version 2 signs the digest of that, version 3 the digest
// of a struct ima_file_id with it.
//
// The signature covers the file only by its security.ima, so that must be the digest which was measured, or a signature of
// it by one of imaKeys. It returns the key that signed, or what is wrong.
func (e *Entry) checkEVM(keys, imaKeys []key) (*key, error) {
	m := &e.EVM
	if len(m.Sig) == 0 {
		return nil, fmt.Errorf("no EVM signature")
	}
	h, err := parseHeader(m.Sig)
	if err != nil {
		return nil, err
	}
	if h.kind != xattrEVMPortable || h.version != 2 && h.version != 3 {
		return nil, fmt.Errorf("an EVM signature of type %d, version %d", h.kind, h.version)
	}
	if m.Has != hasUID|hasGID|hasMode {
		return nil, fmt.Errorf("an EVM signature without owner, group and mode")
	}
	value, err := m.imaXattr()
	if err != nil {
		return nil, err
	}
	if err := e.covered(value, imaKeys); err != nil {
		return nil, err
	}
	misc := make([]byte, 24) // inode 8, generation 4, owner 4, group 4, mode 2, padding 2
	binary.LittleEndian.PutUint32(misc[12:], m.UID)
	binary.LittleEndian.PutUint32(misc[16:], m.GID)
	binary.LittleEndian.PutUint16(misc[20:], m.Mode)
	w := h.hash.New()
	w.Write(m.Values)
	w.Write(misc)
	digest := w.Sum(nil)
	if h.version == 3 {
		digest = h.fileID(digest)
	}
	return h.verify(keys, digest)
}

// covered says why a value of security.ima does not cover the measured digest.
func (e *Entry) covered(value []byte, keys []key) error {
	switch {
	case e.Flags&FlagVerity != 0:
		return fmt.Errorf("an EVM signature over a digest of fs-verity")
	case len(value) > 2 && value[0] == xattrDigestNG:
		if algo, ok := hashAlgos[value[1]]; !ok || algo.name != e.Alg || !bytes.Equal(value[2:], e.Digest) {
			return fmt.Errorf("an EVM signature over another digest than was measured")
		}
		return nil
	case len(value) > 0 && value[0] == xattrDigsig:
		inner := Entry{Alg: e.Alg, Digest: e.Digest, Sig: value}
		if _, err := inner.checkSignature(keys); err != nil {
			return fmt.Errorf("in security.ima %w", err)
		}
		return nil
	}
	return fmt.Errorf("an EVM signature without a SHA-2 digest of the file")
}
