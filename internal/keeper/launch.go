package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

const bootFileName = "boot.json"

// Start opens the root, or makes one if an operator ordered that, and returns a keeper that holds it or says why not.
// With launch initrd the PCRs of the seal are capped before it returns, on every path; if that fails it wipes the root and
// returns CodeCap, and the machine must not go on to user space. Any other error is a malfunction.
func Start(ctx context.Context, o Options) (*Keeper, error) {
	k := &Keeper{
		cfg: o.Config, rand: o.Rand, now: o.Now, measure: o.Measure, step: o.step, signer: o.Signer,
		image: o.Image, hardened: o.Hardened, proc: -1,
	}
	if k.step == nil {
		k.step = func(string) error { return nil }
	}
	if err := k.directories(); err != nil {
		return nil, k.capAnyway(ctx, err)
	}
	if k.cfg.TPM == NoTPM {
		k.reason = k.open(ctx, nil)
		k.noteLocked()
		return k, nil
	}
	found := false
	err := k.withTPM(ctx, func(dev *tpm.Device) (err error) {
		found = true
		if k.cfg.Launch == LaunchInitrd {
			defer func() { err = errors.Join(err, k.cap(context.WithoutCancel(ctx), dev)) }()
		}
		return k.launch(ctx, dev)
	})
	if err != nil && !found {
		err = CodeNoTPM.Missing("tpm", "a TPM", err.Error())
	}
	if err != nil {
		k.wipe()
		return nil, errors.Join(err, k.Close())
	}
	k.noteLocked()
	return k, nil
}

func (k *Keeper) directories() (err error) {
	if k.state, err = openDisk(k.cfg.State, 0o077); err != nil {
		return err
	}
	if k.runtime, err = openDisk(k.cfg.Runtime, 0o066); err != nil {
		return err
	}
	return k.openProc()
}

// capAnyway caps where the keeper can't even find its directories.
func (k *Keeper) capAnyway(ctx context.Context, err error) error {
	if k.cfg.Launch == LaunchInitrd {
		err = errors.Join(err, Cap(ctx, k.cfg.TPM, k.cfg.PCRs))
	}
	return err
}

// noteLocked tells the log why there is no root.
func (k *Keeper) noteLocked() {
	if k.reason == nil {
		return
	}
	var root rats.Digest
	if k.root != nil {
		root = k.root.Root
	}
	k.note("locked", root, k.reason.Error())
}

// launch does everything between measuring and the cap.
func (k *Keeper) launch(ctx context.Context, dev *tpm.Device) error {
	if k.recorded() {
		k.reason = CodeLocked.Missing("boot", "a boot before its cap", "one whose PCRs were capped")
		return nil
	}
	if k.cfg.Launch == LaunchInitrd {
		events := MeasuredEvents(k.cfg, k.image)
		for _, e := range events {
			if err := k.extend(ctx, dev, measuredPCR, e); err != nil {
				return err
			}
		}
	}
	values, err := dev.PCRs(ctx, "sha256", k.cfg.PCRs)
	if err != nil {
		return err
	}
	k.boot.Before = make(map[int]rats.Digest, len(values))
	for p, v := range values {
		k.boot.Before[p] = rats.Digest{Alg: "sha256", Sum: v}
	}
	if k.reason = k.open(ctx, dev); k.reason == nil {
		return k.measureMonitor(ctx, dev)
	}
	if k.root == nil || len(k.root.Escrow) == 0 {
		return nil
	}
	// The key that a recovery of this boot would be sealed to. In PCR 11 before the cap it is proven to be of this phase.
	key, err := sealed.GenerateKey(k.rand)
	if err != nil {
		return fmt.Errorf("making a recovery key: %w", err)
	}
	k.recovery = key
	if k.cfg.Launch == LaunchInitrd {
		return k.extend(ctx, dev, measuredPCR, "assay:recovery:"+rats.SHA256(key.Public()).String())
	}
	return nil
}

func (k *Keeper) extend(ctx context.Context, dev *tpm.Device, pcr int, text string) error {
	if err := dev.ExtendPCR(ctx, pcr, []byte(text)); err != nil {
		return err
	}
	k.boot.Events = append(k.boot.Events, Event{PCR: pcr, Text: text})
	return nil
}

// cap extends the constant into every PCR of the seal and records it.
func (k *Keeper) cap(ctx context.Context, dev *tpm.Device) error {
	for _, p := range k.cfg.PCRs {
		if err := k.extend(ctx, dev, p, CapEvent); err != nil {
			k.wipe()
			return CodeCap.Bad(fmt.Sprintf("pcr %d", p), "extended", err.Error())
		}
	}
	k.boot.Capped = true
	return k.recordBoot()
}

// Cap caps PCRs without a keeper: for every way into user space on which none ran. None named are all that a seal of
// launch initrd can have.
func Cap(ctx context.Context, path string, pcrs []int) error {
	if len(pcrs) == 0 {
		pcrs = slices.Sorted(slices.Values(slices.Concat(initrdPCRs, grubPCRs)))
	}
	dev, err := tpm.Open(ctx, path)
	if err != nil {
		return CodeCap.Bad("tpm", "a TPM", err.Error())
	}
	defer func() { _ = dev.Close() }()
	for _, p := range pcrs {
		err = errors.Join(err, dev.ExtendPCR(ctx, p, []byte(CapEvent)))
	}
	if err != nil {
		return CodeCap.Bad("pcrs", "extended", err.Error())
	}
	return nil
}

// open finds, opens or makes the root. Its error is why the keeper stays locked.
func (k *Keeper) open(ctx context.Context, dev *tpm.Device) error {
	root, err := k.readRoot()
	if err != nil {
		return err
	}
	k.root = root
	order, err := k.readOrder()
	if err != nil {
		return err
	}
	switch {
	case order != nil && order.fits(root):
		return k.create(ctx, dev)
	case order != nil && root == nil:
		return CodeCreate.Bad(orderFileName, "no root to replace", order.Replaces.String())
	case order != nil:
		// Left over from a crash after it was carried out, or meant for another root: never a reason to make one.
		if err := errors.Join(k.audit("order-ignored", root.Root, "it names another root"), k.state.remove(orderFileName)); err != nil {
			return err
		}
	case root == nil:
		return CodeNoRoot.Missing(rootFileName, "a root, or an order to make one", "neither")
	}
	if root.Class == RootSimulated {
		return k.hold(root, root.Seed)
	}
	return k.unseal(ctx, dev)
}

// recorded says whether this boot was capped already, by the record of an earlier keeper, which is then kept: it explains
// the PCRs to verifiers. Who deletes the record may make a root of his own, which no owner authorised, and PCR 11 shows
// that it was made after the cap.
func (k *Keeper) recorded() bool {
	if k.cfg.Launch != LaunchInitrd {
		return false
	}
	b, err := k.runtime.read(bootFileName, maxStateFile)
	if b == nil && err == nil {
		return false
	}
	var boot Boot
	if err == nil && json.Unmarshal(b, &boot) == nil {
		k.boot = boot
	}
	k.root, _ = k.readRoot() // for the status alone
	return true
}

// hold takes a seed into service if it is the root's.
func (k *Keeper) hold(root *rootFile, seed []byte) error {
	defer clear(seed)
	if len(seed) != seedSize || !rootID(seed).Equal(root.Root) {
		return CodeSubstituted.Bad("root", root.Root.String(), "another")
	}
	v, err := newVault(seed)
	if err != nil {
		return err
	}
	k.seed, k.root = v, root
	return nil
}

// unseal opens the root with the newest set that fits.
func (k *Keeper) unseal(ctx context.Context, dev *tpm.Device) error {
	r := k.root
	parent, err := dev.StorageName(ctx)
	if err != nil {
		return err
	}
	if string(parent) != string(r.Parent) {
		return CodeOtherTPM.Bad("parent", fmt.Sprintf("storage key %x", clip(string(r.Parent))), fmt.Sprintf("%x", parent))
	}
	sets, err := k.sets(r)
	if err != nil {
		return err
	}
	counter, err := dev.Counter(ctx, r.NVIndex)
	if errors.Is(err, tpm.ErrNoCounter) {
		return CodeNoCounter.Bad("nv_index", fmt.Sprintf("a counter at %#x", r.NVIndex), err.Error())
	}
	if err != nil {
		return err
	}
	values := make(map[int][]byte)
	for p, v := range k.boot.Before {
		values[p] = v.Sum
	}
	var revoked error
	for _, s := range sets {
		if !s.matches(values) {
			continue
		}
		secret, err := dev.Unseal(ctx, tpm.Sealed{Public: r.Public, Private: r.Private}, authority(k.cfg.owner, r.Root, r.Launch, r.Epoch), s.approval(), s.Signature)
		switch {
		case errors.Is(err, tpm.ErrRevoked):
			revoked = CodeRevoked.Bad("revision", fmt.Sprintf("at least %d", counter), fmt.Sprint(s.Revision))
			continue
		case errors.Is(err, tpm.ErrOtherTPM):
			return CodeOtherTPM.Bad("root", "sealed by this TPM", err.Error())
		case errors.Is(err, tpm.ErrRefused):
			return CodeSubstituted.Bad("root", "sealed under the owner's policy key", err.Error())
		case err != nil:
			return err
		}
		if err := k.hold(r, secret); err != nil {
			return err
		}
		k.booted = &s
		k.note("unsealed", r.Root, fmt.Sprintf("revision %d, counter %d", s.Revision, counter))
		return nil
	}
	if revoked != nil {
		return revoked
	}
	return k.whyNot(sets, values)
}

// whyNot tells a boot that was capped from one nobody authorised.
func (k *Keeper) whyNot(sets []Set, values map[int][]byte) error {
	if len(sets) == 0 {
		return CodeNotAuthorised.Missing(setsDir, "a set signed by the owner", "none")
	}
	if k.cfg.Launch == LaunchInitrd && slices.ContainsFunc(sets, func(s Set) bool { return s.cappedFrom(values) }) {
		return CodeLocked.Missing("boot", "a boot before its cap", "one whose PCRs were capped")
	}
	return CodeNotAuthorised.Bad("pcrs", fmt.Sprintf("those of revision %d", sets[0].Revision), fmt.Sprintf("other values in PCRs %v", sets[0].differing(values)))
}

// create makes a root. Until root.json has its name nothing was handed out, and a crash leaves the order to be carried out.
func (k *Keeper) create(ctx context.Context, dev *tpm.Device) error {
	system := make([]byte, seedSize)
	if _, err := io.ReadFull(k.rand, system); err != nil {
		return fmt.Errorf("making a root: %w", err)
	}
	defer clear(system)
	seed := system
	if dev != nil {
		random, err := dev.Random(ctx, seedSize)
		if err != nil {
			return err
		}
		defer clear(random)
		if seed, err = mix(random, system); err != nil {
			return err
		}
		defer clear(seed)
	}
	detail := "the first"
	if k.root != nil {
		detail = "replaces " + k.root.Root.String()
	}
	if err := k.audit("root-ordered", rootID(seed), detail); err != nil {
		return err
	}
	root, err := k.keep(ctx, dev, seed)
	if err != nil {
		return err
	}
	if err := errors.Join(k.audit("root-created", root.Root, detail), k.state.remove(orderFileName)); err != nil {
		return err
	}
	k.created = true
	if err := k.hold(root, slices.Clone(seed)); err != nil {
		return err
	}
	if k.signer == nil || k.cfg.Launch != LaunchUserspace || dev == nil {
		return nil
	}
	return k.authoriseSelf(ctx, dev)
}

// keep writes a root's file: sealed by the TPM, with its escrow, and a counter of its own.
func (k *Keeper) keep(ctx context.Context, dev *tpm.Device, seed []byte) (*rootFile, error) {
	root := &rootFile{Version: 1, Root: rootID(seed), Class: k.class(), Launch: k.cfg.Launch, Created: k.now().UTC()}
	if dev == nil {
		root.Seed = slices.Clone(seed)
	} else {
		root.NVIndex, root.Epoch = k.cfg.NVIndex, make([]byte, epochSize)
		if _, err := io.ReadFull(k.rand, root.Epoch); err != nil {
			return nil, fmt.Errorf("making a root: %w", err)
		}
		object, err := dev.Seal(ctx, seed, authority(k.cfg.owner, root.Root, root.Launch, root.Epoch))
		if err != nil {
			return nil, err
		}
		root.Public, root.Private = object.Public, object.Private
		if root.Parent, err = dev.StorageName(ctx); err != nil {
			return nil, err
		}
		if err := k.escrow(root, seed); err != nil {
			return nil, err
		}
	}
	b, err := root.encode()
	if err != nil {
		return nil, err
	}
	defer clear(b)
	if err := k.step("sealed"); err != nil {
		return nil, err
	}
	if dev != nil {
		password := counterPassword(seed)
		defer clear(password)
		if _, err := dev.DefineCounter(ctx, root.NVIndex, password); err != nil {
			return nil, err
		}
	}
	if err := k.step("counter"); err != nil {
		return nil, err
	}
	if err := k.state.write(rootFileName, b); err != nil {
		return nil, err
	}
	return root, k.step("written")
}

// authoriseSelf signs what is running now, with a key that lies on this machine: launch userspace only.
func (k *Keeper) authoriseSelf(ctx context.Context, dev *tpm.Device) error {
	counter, err := dev.Counter(ctx, k.root.NVIndex)
	if err != nil {
		return err
	}
	plan := Set{Version: 1, Root: k.root.Root, Launch: k.root.Launch, Epoch: k.root.Epoch, NVIndex: k.root.NVIndex, Revision: counter, PCRs: maps.Clone(k.boot.Before), Note: "by the keeper itself"}
	set, err := Authorise(plan, k.signer, k.rand)
	if err != nil {
		return err
	}
	return k.install(set)
}
