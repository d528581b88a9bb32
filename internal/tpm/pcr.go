package tpm

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// PCRs returns the values of PCRs of a bank.
func (d *Device) PCRs(ctx context.Context, bank string, pcrs []int) (map[int][]byte, error) {
	alg, ok := banks[bank]
	if !ok {
		return nil, fmt.Errorf("reading PCRs: no PCR bank is called %q", bank)
	}
	var values map[int][]byte
	err := d.do(ctx, "reading PCRs", func(t transport.TPM) (err error) {
		values, err = readPCRs(t, alg, pcrs)
		return err
	})
	return values, err
}

// ExtendPCR extends a PCR with the digest of an event, in every bank in use. It is not repeated if the connection to the
// TPM breaks: then it is unknown whether it was done.
func (d *Device) ExtendPCR(ctx context.Context, pcr int, event []byte) error {
	if pcr < 0 || pcr > lastPCR {
		return fmt.Errorf("extending a PCR: %d is not from 0 to %d", pcr, lastPCR)
	}
	return d.once(ctx, fmt.Sprintf("extending PCR %d", pcr), func(t transport.TPM) error {
		names, err := activeBanks(t)
		if err != nil {
			return err
		}
		var list tpm2.TPMLDigestValues
		for _, name := range names {
			hash, err := banks[name].Hash()
			if err != nil {
				return err
			}
			h := hash.New()
			h.Write(event)
			list.Digests = append(list.Digests, tpm2.TPMTHA{HashAlg: banks[name], Digest: h.Sum(nil)})
		}
		if len(list.Digests) == 0 {
			return fmt.Errorf("no PCR bank is in use")
		}
		_, err = tpm2.PCRExtend{PCRHandle: emptyAuth(tpm2.TPMHandle(pcr)), Digests: list}.Execute(t)
		return err
	})
}
