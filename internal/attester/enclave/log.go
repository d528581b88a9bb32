package enclave

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/assay-attest/assay/enclave/abi"
)

// Where the logs of others are that extend abi.KeyPCR, from the root of the file system.
const (
	pathFirmware = "sys/kernel/security/tpm0/binary_bios_measurements"
	pathSystemd  = "run/log/systemd/tpm2-measure.log"
)

const (
	maxFirmware = 8 << 20
	maxSystemd  = 1 << 20
	maxOthers   = 256 // events of systemd's
)

// phases are what systemd measures at boot (systemd-pcrphase.service(8)), for versions that keep no log (before 255).
var phases = []string{"enter-initrd", "leave-initrd", "sysinit", "ready"}

// errLog: the own logs of this node don't explain its own register.
var errLog = fmt.Errorf("the logs of firmware, systemd and root keeper don't yield the value of PCR %d: something else extended it", abi.KeyPCR)

// explain returns the events that yield the register's value. Boot loader and stub extended it first, by the firmware's log;
// then came systemd's phases, and among them, at a place that no log tells, what the keeper measured. What systemd extended
// after the quote is left out.
func explain(value [32]byte, keeper []string, root fs.FS, firmware Firmware) ([]abi.Event, error) {
	if root == nil {
		root = none{}
	}
	first, err := firmwareEvents(root, firmware)
	if err != nil {
		return nil, err
	}
	own := make([]abi.Event, len(keeper))
	for i, text := range keeper {
		own[i] = abi.NewEvent(text)
	}
	others, err := systemdEvents(root)
	if err != nil {
		return nil, err
	}
	known := make([]abi.Event, len(phases))
	for i, p := range phases {
		known[i] = abi.Event{Digest: sha256.Sum256([]byte(p))}
	}
	begun := replay([32]byte{}, first)
	for _, list := range [][]abi.Event{others, known} {
		for at, before := 0, begun; at <= len(list); at++ {
			now := replay(before, own)
			for end := at; end <= len(list); end++ {
				if now == value {
					return slices.Concat(first, list[:at], own, list[at:end]), nil
				}
				if end < len(list) {
					now = list[end].Extend(now)
				}
			}
			if at < len(list) {
				before = list[at].Extend(before)
			}
		}
	}
	return nil, errLog
}

func replay(value [32]byte, events []abi.Event) [32]byte {
	for _, e := range events {
		value = e.Extend(value)
	}
	return value
}

// none is a file tree without files.
type none struct{}

func (none) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func readLog(root fs.FS, path string, most int64) ([]byte, error) {
	f, err := root.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening /%s: %w", path, err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("reading /%s: %w", path, err)
	}
	if int64(len(b)) > most {
		return nil, fmt.Errorf("reading /%s: more than %d bytes", path, most)
	}
	return b, nil
}

// firmwareEvents are the register's events in the log of firmware and boot loader. A machine without such a log is one that
// has extended nothing: if not, the replay shows it.
func firmwareEvents(root fs.FS, firmware Firmware) ([]abi.Event, error) {
	b, err := readLog(root, pathFirmware, maxFirmware)
	if err != nil || len(b) == 0 || firmware == nil {
		return nil, err
	}
	sums, err := firmware(b, abi.KeyPCR)
	if err != nil {
		return nil, fmt.Errorf("reading /%s: %w", pathFirmware, err)
	}
	out := make([]abi.Event, len(sums))
	for i, sum := range sums {
		out[i].Digest = sum
	}
	return out, nil
}

// record is what counts here of a record of systemd's log, which has TCG's CEL-JSON form without numbers.
type record struct {
	PCR     *int `json:"pcr"`
	Digests []struct {
		Alg    string `json:"hashAlg"`
		Digest string `json:"digest"`
	} `json:"digests"`
}

// systemdEvents are the register's events in the log of systemd: JSON texts, each after a byte 0x1e (RFC 7464).
func systemdEvents(root fs.FS) ([]abi.Event, error) {
	b, err := readLog(root, pathSystemd, maxSystemd)
	if err != nil {
		return nil, err
	}
	var out []abi.Event
	for text := range bytes.SplitSeq(b, []byte{0x1e}) {
		var r record
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("reading /%s: %w", pathSystemd, err)
		}
		if r.PCR == nil || *r.PCR != abi.KeyPCR {
			continue
		}
		for _, d := range r.Digests {
			if sum, err := hex.DecodeString(d.Digest); err == nil && d.Alg == "sha256" && len(sum) == sha256.Size {
				out = append(out, abi.Event{Digest: [32]byte(sum)})
			}
		}
		if len(out) > maxOthers {
			return nil, fmt.Errorf("reading /%s: more than %d events of PCR %d", pathSystemd, maxOthers, abi.KeyPCR)
		}
	}
	return out, nil
}
