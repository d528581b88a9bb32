package tpm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// An NV counter only grows; defined anew it starts above every counter this TPM ever had. Its password is needed to
// increment it, the owner's (empty) one to read it. It is exempt from dictionary-attack lockout (S14). Who holds the
// owner's password can delete it, which destroys and never revives what depends on it.

// counterFirst and counterLast bound the NV indices of an owner (TCG Registry of Reserved TPM 2.0 Handles, 2.2).
const (
	counterFirst = 0x01800000
	counterLast  = 0x01bfffff
)

func checkCounter(index uint32) error {
	if index < counterFirst || index > counterLast {
		return fmt.Errorf("NV index %#x is not of an owner: %#x to %#x", index, uint32(counterFirst), uint32(counterLast))
	}
	return nil
}

// checkPassword refuses what go-tpm 0.9.8 gets wrong: it cuts a password at its first zero byte, where the TPM drops zeros
// at the end only. A TPM takes at most the size of the index's hash.
func checkPassword(password []byte) error {
	if len(password) > 32 || bytes.IndexByte(password, 0) >= 0 {
		return errors.New("a counter's password has at most 32 bytes, none of them zero")
	}
	return nil
}

func counterPublic(index uint32, written bool) tpm2.TPMSNVPublic {
	return tpm2.TPMSNVPublic{
		NVIndex: tpm2.TPMHandle(index), NameAlg: tpm2.TPMAlgSHA256, DataSize: 8,
		Attributes: tpm2.TPMANV{NT: tpm2.TPMNTCounter, AuthWrite: true, AuthRead: true, OwnerRead: true, NoDA: true, Written: written},
	}
}

// counterName is the Name of a counter in use. It is the same on every TPM.
func counterName(index uint32) (tpm2.TPM2BName, error) {
	public := counterPublic(index, true)
	name, err := tpm2.NVName(&public)
	if err != nil {
		return tpm2.TPM2BName{}, err
	}
	return *name, nil
}

// DefineCounter makes a counter with a password of at most 32 bytes that are not zero, or one in place of an old one, and increments it
// once so that it has a value, which is returned.
func (d *Device) DefineCounter(ctx context.Context, index uint32, password []byte) (uint64, error) {
	if err := checkCounter(index); err != nil {
		return 0, fmt.Errorf("defining a counter: %w", err)
	}
	if err := checkPassword(password); err != nil {
		return 0, fmt.Errorf("defining a counter: %w", err)
	}
	err := d.withStorage(ctx, "defining a counter", d.do, func(t transport.TPM, s *storage) error {
		old, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(t)
		switch {
		case err == nil:
			handle := tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: old.NVName}
			if _, err := (tpm2.NVUndefineSpace{AuthHandle: emptyAuth(tpm2.TPMRHOwner), NVIndex: handle}).Execute(t); err != nil {
				return fmt.Errorf("deleting the old one: %w", err)
			}
		case !errors.Is(err, tpm2.TPMRCHandle):
			return err
		}
		_, err = tpm2.NVDefineSpace{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: s.session(nil, true)},
			Auth:       tpm2.TPM2BAuth{Buffer: password},
			PublicInfo: tpm2.New2B(counterPublic(index, false)),
		}.Execute(t)
		return err
	})
	if err != nil {
		return 0, err
	}
	return d.IncrementCounter(ctx, index, password)
}

// IncrementCounter adds one to a counter and returns its new value. It proves the password without showing it.
func (d *Device) IncrementCounter(ctx context.Context, index uint32, password []byte) (uint64, error) {
	if err := checkPassword(password); err != nil {
		return 0, fmt.Errorf("incrementing a counter: %w", err)
	}
	var value uint64
	err := d.withStorage(ctx, "incrementing a counter", d.once, func(t transport.TPM, s *storage) error {
		public, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(t)
		if err != nil {
			return notDefined(err)
		}
		if err := isCounter(public); err != nil {
			return err
		}
		handle := tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: public.NVName}
		auth := tpm2.AuthHandle{Handle: handle.Handle, Name: handle.Name, Auth: s.session(password, false)}
		if _, err := (tpm2.NVIncrement{AuthHandle: auth, NVIndex: handle}).Execute(t); err != nil {
			return err
		}
		value, err = readCounter(t, index)
		return err
	})
	return value, err
}

// Counter returns the value of a counter, ErrNoCounter if there is none at this index, or something else.
func (d *Device) Counter(ctx context.Context, index uint32) (uint64, error) {
	if err := checkCounter(index); err != nil {
		return 0, fmt.Errorf("reading a counter: %w", err)
	}
	var value uint64
	err := d.do(ctx, "reading a counter", func(t transport.TPM) error {
		public, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(t)
		if err != nil {
			return notDefined(err)
		}
		if err := isCounter(public); err != nil {
			return err
		}
		value, err = readCounter(t, index)
		return err
	})
	return value, err
}

// notDefined drops the TPM's error where it says that an index isn't there: do would take it for a stale handle.
func notDefined(err error) error {
	if errors.Is(err, tpm2.TPMRCHandle) {
		return ErrNoCounter
	}
	return err
}

// isCounter compares an index with what DefineCounter makes: who made another kind of index there could set it back.
func isCounter(rsp *tpm2.NVReadPublicResponse) error {
	got, err := rsp.NVPublic.Contents()
	if err != nil {
		return err
	}
	want := counterPublic(uint32(got.NVIndex), bool(got.Attributes.Written))
	if got.Attributes != want.Attributes || got.NameAlg != want.NameAlg || got.DataSize != want.DataSize || len(got.AuthPolicy.Buffer) != 0 {
		return fmt.Errorf("%w: NV index %#x is something else", ErrNoCounter, uint32(got.NVIndex))
	}
	return nil
}

// readCounter reads the value. ErrNoCounter: defined, never incremented.
func readCounter(t transport.TPM, index uint32) (uint64, error) {
	name, err := counterName(index)
	if err != nil {
		return 0, err
	}
	rsp, err := tpm2.NVRead{
		AuthHandle: emptyAuth(tpm2.TPMRHOwner), Size: 8,
		NVIndex: tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: name},
	}.Execute(t)
	if errors.Is(err, tpm2.TPMRCNVUninitialized) {
		return 0, fmt.Errorf("%w: it has no value yet", ErrNoCounter)
	}
	if err != nil {
		return 0, err
	}
	if len(rsp.Data.Buffer) != 8 {
		return 0, fmt.Errorf("NV index %#x yields %d bytes, expected 8", index, len(rsp.Data.Buffer))
	}
	return binary.BigEndian.Uint64(rsp.Data.Buffer), nil
}
