package tpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Quote is a signed statement of PCR values.
type Quote struct {
	Attest    []byte // TPMS_ATTEST, the signed bytes
	Signature []byte // TPMT_SIGNATURE
	Bank      string // "sha256", …
	PCRs      map[int][]byte
}

// Clock is the TPM's own account of its uptime (TPMS_CLOCK_INFO). After a power failure Safe is false until the clock
// has passed what it may have shown before: that alone means nothing bad.
type Clock struct {
	Clock        uint64 // milliseconds; its owner can set it forward
	ResetCount   uint32 // grows with every TPM Reset
	RestartCount uint32 // grows with every TPM Restart and Resume
	Safe         bool
}

// Info says what the TPM is by its own account, which nobody vouches for.
type Info struct {
	Path         string
	Manufacturer string // four characters
	Model        string // vendor string
	Firmware     uint64
	Banks        []string // PCR banks in use
}

var banks = map[string]tpm2.TPMAlgID{
	"sha1": tpm2.TPMAlgSHA1, "sha256": tpm2.TPMAlgSHA256, "sha384": tpm2.TPMAlgSHA384, "sha512": tpm2.TPMAlgSHA512,
}

const (
	lastPCR     = 23
	readAtOnce  = 8 // TPM2_PCR_Read returns no more
	quoteRounds = 8
)

// Quote signs the values of PCRs (0 to 23, none twice) of a bank together with extra, at most 34 bytes on a TPM that
// has nothing longer than SHA-256. The values returned are those that were signed: a PCR that is extended between
// quote and reading makes it try again.
func (d *Device) Quote(ctx context.Context, ak *AK, bank string, pcrs []int, extra []byte) (Quote, error) {
	alg, ok := banks[bank]
	if !ok {
		return Quote{}, fmt.Errorf("quoting: no PCR bank is called %q", bank)
	}
	if len(pcrs) == 0 || len(pcrs) > lastPCR+1 {
		return Quote{}, fmt.Errorf("quoting: %d PCRs, expected 1 to %d", len(pcrs), lastPCR+1)
	}
	pcrs = slices.Sorted(slices.Values(pcrs))
	for i, p := range pcrs {
		if p < 0 || p > lastPCR || i > 0 && pcrs[i-1] == p {
			return Quote{}, fmt.Errorf("quoting: PCR %d is not from 0 to %d, or stands twice", p, lastPCR)
		}
	}
	q := Quote{Bank: bank}
	err := d.do(ctx, "quoting", func(t transport.TPM) error {
		for range quoteRounds {
			digest, err := d.quoteOnce(t, ak, alg, pcrs, extra, &q)
			if err != nil {
				return err
			}
			if q.PCRs, err = readPCRs(t, alg, pcrs); err != nil {
				return err
			}
			h := sha256.New()
			for _, p := range pcrs {
				h.Write(q.PCRs[p])
			}
			if bytes.Equal(h.Sum(nil), digest) {
				return nil
			}
		}
		return fmt.Errorf("the PCRs changed during each of %d quotes", quoteRounds)
	})
	if err != nil {
		return Quote{}, err
	}
	return q, nil
}

// quoteOnce fills attest and signature and returns the PCR digest that was signed.
func (d *Device) quoteOnce(t transport.TPM, ak *AK, alg tpm2.TPMAlgID, pcrs []int, extra []byte, q *Quote) ([]byte, error) {
	key, err := d.load(t, ak.key)
	if err != nil {
		return nil, err
	}
	rsp, err := tpm2.Quote{
		SignHandle:     key.auth(),
		QualifyingData: tpm2.TPM2BData{Buffer: extra},
		PCRSelect:      selection(alg, pcrs),
	}.Execute(t)
	if err != nil {
		return nil, err
	}
	attest, err := rsp.Quoted.Contents()
	if err != nil {
		return nil, fmt.Errorf("reading the quote: %w", err)
	}
	info, err := attest.Attested.Quote()
	if err != nil {
		return nil, fmt.Errorf("reading the quote: %w", err)
	}
	q.Attest, q.Signature = rsp.Quoted.Bytes(), tpm2.Marshal(rsp.Signature)
	return info.PCRDigest.Buffer, nil
}

func selection(alg tpm2.TPMAlgID, pcrs []int) tpm2.TPMLPCRSelection {
	bits := make([]byte, 3)
	for _, p := range pcrs {
		bits[p/8] |= 1 << (p % 8)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: alg, PCRSelect: bits}}}
}

func readPCRs(t transport.TPM, alg tpm2.TPMAlgID, pcrs []int) (map[int][]byte, error) {
	values := make(map[int][]byte, len(pcrs))
	for some := range slices.Chunk(pcrs, readAtOnce) {
		rsp, err := tpm2.PCRRead{PCRSelectionIn: selection(alg, some)}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("reading PCRs: %w", err)
		}
		if len(rsp.PCRValues.Digests) != len(some) {
			return nil, fmt.Errorf("reading PCRs: got %d values of %d: the bank is not in use", len(rsp.PCRValues.Digests), len(some))
		}
		for i, p := range some {
			values[p] = rsp.PCRValues.Digests[i].Buffer
		}
	}
	return values, nil
}

// Certify makes the attestation key state that the signing key lives in the same TPM (TPM2_Certify). info is a
// TPMS_ATTEST that holds nonce, sig a TPMT_SIGNATURE.
func (d *Device) Certify(ctx context.Context, k *Key, ak *AK, nonce []byte) (info, sig []byte, err error) {
	if k.device != d {
		return nil, nil, errors.New("certifying a key: it belongs to another TPM")
	}
	err = d.do(ctx, "certifying a key", func(t transport.TPM) error {
		key, err := d.load(t, k.key)
		if err != nil {
			return err
		}
		signer, err := d.load(t, ak.key) // two slots: loading the one doesn't evict the other
		if err != nil {
			return err
		}
		rsp, err := tpm2.Certify{
			ObjectHandle:   key.auth(),
			SignHandle:     signer.auth(),
			QualifyingData: tpm2.TPM2BData{Buffer: nonce},
		}.Execute(t)
		if err != nil {
			return err
		}
		info, sig = rsp.CertifyInfo.Bytes(), tpm2.Marshal(rsp.Signature)
		return nil
	})
	return info, sig, err
}

// Clock reads the TPM's clock.
func (d *Device) Clock(ctx context.Context) (Clock, error) {
	var c Clock
	err := d.do(ctx, "reading the TPM's clock", func(t transport.TPM) error {
		rsp, err := tpm2.ReadClock{}.Execute(t)
		if err != nil {
			return err
		}
		i := rsp.CurrentTime.ClockInfo
		c = Clock{Clock: i.Clock, ResetCount: i.ResetCount, RestartCount: i.RestartCount, Safe: bool(i.Safe)}
		return nil
	})
	return c, err
}

// Info reads the TPM's properties.
func (d *Device) Info(ctx context.Context) (Info, error) {
	info := Info{Path: d.path}
	err := d.do(ctx, "reading the TPM's properties", func(t transport.TPM) error {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTManufacturer), PropertyCount: 8}.Execute(t)
		if err != nil {
			return err
		}
		props, err := rsp.CapabilityData.Data.TPMProperties()
		if err != nil {
			return err
		}
		info.Manufacturer, info.Model, info.Firmware = "", "", 0
		for _, p := range props.TPMProperty {
			switch text := string(binary.BigEndian.AppendUint32(nil, p.Value)); p.Property {
			case tpm2.TPMPTManufacturer:
				info.Manufacturer = printable(text)
			case tpm2.TPMPTVendorString1, tpm2.TPMPTVendorString2, tpm2.TPMPTVendorString3, tpm2.TPMPTVendorString4:
				info.Model += printable(text)
			case tpm2.TPMPTFirmwareVersion1:
				info.Firmware |= uint64(p.Value) << 32
			case tpm2.TPMPTFirmwareVersion2:
				info.Firmware |= uint64(p.Value)
			}
		}
		info.Model = strings.TrimSpace(info.Model)
		info.Banks, err = activeBanks(t)
		return err
	})
	if err != nil {
		return Info{}, err
	}
	return info, nil
}

func activeBanks(t transport.TPM) ([]string, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(t)
	if err != nil {
		return nil, err
	}
	assigned, err := rsp.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range assigned.PCRSelections {
		for name, alg := range banks {
			if alg == s.Hash && slices.ContainsFunc(s.PCRSelect, func(b byte) bool { return b != 0 }) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
}
