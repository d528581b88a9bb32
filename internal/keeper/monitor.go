package keeper

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/internal/tpm"
)

// ClientMonitor is the name of the client that runs enclaves: the keeper measures its attestation key.
const ClientMonitor = "monitor"

// labelMonitor is the derivation that is a monitor's key.
const labelMonitor = "monitor key"

// Platform returns launch and root class as reports of enclaves show them.
func (s Status) Platform() (abi.Platform, error) {
	p := abi.Platform{Mode: abi.ModeInline}
	for _, l := range []abi.Launch{abi.LaunchUserspace, abi.LaunchInitrd} {
		if l.String() == string(s.Launch) {
			p.Launch = l
		}
	}
	for _, r := range []abi.Root{abi.RootSimulated, abi.RootOSProtected, abi.RootInitrdSealed} {
		if r.String() == s.Class {
			p.Root = r
		}
	}
	_, err := abi.ParsePlatform(p.CPUSVN())
	return p, err
}

func (k *Keeper) platform(svn uint16) (abi.Platform, error) {
	p, err := Status{Launch: k.cfg.Launch, Class: k.class()}.Platform()
	p.SVN = svn
	return p, err
}

// MonitorBytes returns the key of this program as a monitor of a security version, for enclave.KeptMonitorKey.
func (c *Conn) MonitorBytes(ctx context.Context, svn uint16) ([]byte, error) {
	return c.Derive(ctx, Request{Label: labelMonitor, SVN: svn, Size: enclave.RootSize})
}

// monitorEvent is the text that measures the monitor's attestation key; "" if there is no monitor among the clients. Where
// two editions of it are, while it is being updated, it is the newer one's: one monitor for a boot.
func (k *Keeper) monitorEvent() (string, error) {
	var newest *Client
	for i, c := range k.cfg.Clients {
		if c.Name == ClientMonitor && (newest == nil || c.SVN > newest.SVN) {
			newest = &k.cfg.Clients[i]
		}
	}
	if newest == nil {
		return "", nil
	}
	root := rootAt(k.seed.key(), newest.SVN)
	defer clear(root)
	secret := k.derived(root, *newest, Request{Label: labelMonitor, Size: enclave.RootSize})
	defer clear(secret)
	key, err := enclave.ParseMonitorKey(newest.SVN, secret)
	if err != nil {
		return "", err
	}
	defer key.Wipe()
	p, err := k.platform(newest.SVN)
	if err != nil {
		return "", err
	}
	signing, err := key.AttestationKey(p, "")
	if err != nil {
		return "", err
	}
	public, err := enclave.AttestationPublic(&signing.PublicKey)
	if err != nil {
		return "", err
	}
	return abi.KeyEvent(public).Text, nil
}

// measureMonitor extends the monitor's attestation key, of a root that opened, into abi.KeyPCR: with launch initrd before
// the cap, so that only early measured code can have done it. A keeper that is started again in one boot extends nothing twice.
func (k *Keeper) measureMonitor(ctx context.Context, dev *tpm.Device) error {
	text, err := k.monitorEvent()
	if err != nil || text == "" {
		return err
	}
	if k.cfg.Launch == LaunchInitrd {
		return k.extend(ctx, dev, measuredPCR, text)
	}
	b, err := k.runtime.read(bootFileName, maxStateFile)
	if err != nil {
		return err
	}
	var earlier Boot
	if b != nil {
		if err := json.Unmarshal(b, &earlier); err != nil {
			return CodeState.Bad(bootFileName, "a record of this boot", err.Error())
		}
	}
	k.boot.Events = earlier.Events
	if slices.Contains(earlier.Events, Event{PCR: measuredPCR, Text: text}) {
		return nil
	}
	if err := k.extend(ctx, dev, measuredPCR, text); err != nil {
		return err
	}
	return k.recordBoot()
}

// recordBoot writes down what was extended in this boot.
func (k *Keeper) recordBoot() error {
	b, err := json.MarshalIndent(k.boot, "", "  ")
	if err != nil {
		return fmt.Errorf("recording this boot: %w", err)
	}
	return k.runtime.write(bootFileName, b)
}

// noteMonitor tells the log that a monitor asked for its key: it started, or connected again (R097). Nothing depends on the
// entry: a full disk must not keep a monitor from its key.
func (k *Keeper) noteMonitor(c Client) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seed == nil {
		return
	}
	k.note("monitor-started", k.root.Root, fmt.Sprintf("%s, version %d, %s", c.Name, c.SVN, c.Image))
}
