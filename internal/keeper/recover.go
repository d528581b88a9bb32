package keeper

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

// The escrow splits the root in two: root.json keeps one share, the other lies beside it sealed to the owner's recovery
// key. The disk alone opens nothing, nor does the recovery key alone. What crosses between machine and owner during a
// recovery is the second share, sealed to a key that the keeper made in this boot.

// RecoveryRequest is what the machine asks of its owner.
type RecoveryRequest struct {
	Version int         `json:"version"` // 1
	Root    rats.Digest `json:"root"`
	Launch  Launch      `json:"launch"`
	Escrow  []byte      `json:"escrow"`
	Key     []byte      `json:"key"`  // X25519, of this boot
	Boot    Boot        `json:"boot"` // with launch initrd its last event in PCR 11 before the cap is the key's
}

// RecoveryAnswer is the owner's answer. It is of use to the keeper that asked, alone.
type RecoveryAnswer struct {
	Version int         `json:"version"` // 1
	Root    rats.Digest `json:"root"`
	Share   []byte      `json:"share"`
}

const maxRecovery = 32 << 10

func escrowInfo(root rats.Digest) []byte {
	return append([]byte("assay root escrow 1\x00"), root.Sum...)
}

func answerInfo(root rats.Digest, key []byte) []byte {
	return append(append([]byte("assay root recovery 1\x00"), root.Sum...), key...)
}

// escrow adds the two shares, if the owner has a recovery key.
func (k *Keeper) escrow(root *rootFile, seed []byte) error {
	if len(k.cfg.Recovery) == 0 {
		return nil
	}
	share := make([]byte, len(seed))
	defer clear(share)
	if _, err := io.ReadFull(k.rand, share); err != nil {
		return fmt.Errorf("making the escrowed share: %w", err)
	}
	root.Share = make([]byte, len(seed))
	subtle.XORBytes(root.Share, seed, share)
	var err error
	if root.Escrow, err = sealed.Seal(k.cfg.Recovery, escrowInfo(root.Root), share); err != nil {
		return fmt.Errorf("sealing the escrowed share: %w", err)
	}
	return nil
}

// RequestRecovery begins a recovery. It is for a keeper whose root doesn't open, in the same boot as FinishRecovery.
func (k *Keeper) RequestRecovery() (RecoveryRequest, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.seed != nil:
		return RecoveryRequest{}, CodeRecovery.Bad("state", StateLocked, StateReady)
	case k.root == nil || len(k.root.Escrow) == 0:
		return RecoveryRequest{}, CodeRecovery.Missing("escrow", "an escrowed share", "none")
	case k.recovery == nil:
		return RecoveryRequest{}, CodeRecovery.Missing("key", "a recovery key of this boot", "none: reboot")
	}
	if err := k.audit("recovery-requested", k.root.Root, ""); err != nil {
		return RecoveryRequest{}, err
	}
	return RecoveryRequest{Version: 1, Root: k.root.Root, Launch: k.cfg.Launch, Escrow: k.root.Escrow, Key: k.recovery.Public(), Boot: k.boot}, nil
}

// AnswerRecovery is the owner's part, done where the recovery key is. Before it the owner makes sure that the request
// comes from the machine's keeper: by being at its console, or by a quote of PCR 11 that Boot's events explain.
func AnswerRecovery(request []byte, key *sealed.Key) (RecoveryAnswer, error) {
	var r RecoveryRequest
	if len(request) > maxRecovery {
		return RecoveryAnswer{}, CodeRecovery.Bad("", fmt.Sprintf("at most %d bytes", maxRecovery), fmt.Sprint(len(request)))
	}
	if err := strictJSON(request, &r); err != nil {
		return RecoveryAnswer{}, CodeRecovery.Bad("", "a request", err.Error())
	}
	if r.Version != 1 || r.Root.Alg != "sha256" || r.Root.Check() != nil || len(r.Key) != 32 {
		return RecoveryAnswer{}, CodeRecovery.Bad("version, root, key", "a request of version 1", "something else")
	}
	share, err := key.Open(escrowInfo(r.Root), r.Escrow)
	if err != nil {
		return RecoveryAnswer{}, CodeRecovery.Bad("escrow", "a share sealed to this recovery key", err.Error())
	}
	defer clear(share)
	box, err := sealed.Seal(r.Key, answerInfo(r.Root, r.Key), share)
	if err != nil {
		return RecoveryAnswer{}, CodeRecovery.Bad("key", "an X25519 key", err.Error())
	}
	return RecoveryAnswer{Version: 1, Root: r.Root, Share: box}, nil
}

// FinishRecovery opens the root with the owner's answer and seals it anew, for this TPM, with a counter of its own: every
// set of before is void, and the owner authorises the next boot.
func (k *Keeper) FinishRecovery(ctx context.Context, answer []byte) error {
	var a RecoveryAnswer
	if len(answer) > maxRecovery || strictJSON(answer, &a) != nil || a.Version != 1 {
		return CodeRecovery.Bad("", "an answer of version 1", "something else")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seed != nil || k.recovery == nil || !a.Root.Equal(k.root.Root) {
		return CodeRecovery.Bad("root", "an answer to this boot's request", a.Root.String())
	}
	share, err := k.recovery.Open(answerInfo(k.root.Root, k.recovery.Public()), a.Share)
	if err != nil {
		return CodeRecovery.Bad("share", "one sealed to this boot's key", err.Error())
	}
	defer clear(share)
	if len(share) != seedSize || len(k.root.Share) != seedSize {
		return CodeRecovery.Bad("share", fmt.Sprintf("%d bytes", seedSize), fmt.Sprint(len(share)))
	}
	seed := make([]byte, seedSize)
	defer clear(seed)
	subtle.XORBytes(seed, share, k.root.Share)
	if !rootID(seed).Equal(k.root.Root) {
		return CodeSubstituted.Bad("root", k.root.Root.String(), "another")
	}
	if err := k.audit("recovered", k.root.Root, ""); err != nil {
		return err
	}
	var root *rootFile
	err = k.withTPM(ctx, func(dev *tpm.Device) (err error) {
		root, err = k.keep(ctx, dev, seed)
		return err
	})
	if err != nil {
		return err
	}
	if err := k.hold(root, slices.Clone(seed)); err != nil {
		return err
	}
	k.recovered, k.booted, k.recovery, k.reason = true, nil, nil, nil
	if k.cfg.Launch == LaunchInitrd {
		return nil // after the cap: this boot's monitor makes no quotes of its launch
	}
	return k.withTPM(ctx, func(dev *tpm.Device) error { return k.measureMonitor(ctx, dev) })
}

// EncodeJSON is how requests and answers travel.
func (r RecoveryRequest) EncodeJSON() ([]byte, error) { return encodeLines(r) }

// EncodeJSON is how requests and answers travel.
func (a RecoveryAnswer) EncodeJSON() ([]byte, error) { return encodeLines(a) }

func encodeLines(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	return append(b, '\n'), errors.Join(err)
}
