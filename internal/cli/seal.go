package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/internal/keeper"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

func (a *app) sealCmd() *cobra.Command {
	return group("seal", "the machine's root key: what may open it, and how it gets over updates", `A machine's root key opens only for boots that its owner authorised. Before an update: plan, authorise where the owner's key
is, install. After the first good boot: commit, and everything older is refused for ever. docs/roots.md explains it.`,
		a.sealKeyCmd(), a.sealInitCmd(), a.sealStatusCmd(), a.sealPlanCmd(), a.sealAuthoriseCmd(), a.sealInstallCmd(), a.sealCommitCmd(),
		group("recover", "bring a root back that doesn't open, with the escrowed share", "",
			a.sealRequestCmd(), a.sealAnswerCmd(), a.sealFinishCmd()))
}

// keeperFlag is where the keeper of this machine listens.
func keeperFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("socket", filepath.Join(keeper.DefaultRuntime, keeper.SocketName), "socket of this machine's root keeper")
}

// withKeeper runs f with a connection to the keeper.
func withKeeper(cmd *cobra.Command, socket string, f func(*keeper.Conn) error) error {
	c, err := keeper.Dial(cmd.Context(), socket)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

func (a *app) sealKeyCmd() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "key",
		Short: "make the owner's policy key and recovery key; keep both away from the machines",
		Long: `Writes owner.key (P-256) and recovery.key (X25519), and owner.pub and recovery.pub for the keepers' configuration. Nobody
but the owner needs the private ones: they belong on a machine without a network, or into an HSM.`,
		Example: "  assay seal key --out ./owner",
		Args:    exactly(),
		RunE: func(_ *cobra.Command, _ []string) error {
			policy, err := ecdsa.GenerateKey(elliptic.P256(), a.env.Rand)
			if err != nil {
				return err
			}
			private, err := x509.MarshalPKCS8PrivateKey(policy)
			if err != nil {
				return err
			}
			public, err := x509.MarshalPKIXPublicKey(&policy.PublicKey)
			if err != nil {
				return err
			}
			recovery, err := sealed.GenerateKey(a.env.Rand)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			for _, f := range []struct {
				name string
				text []byte
				mode os.FileMode
			}{
				{"owner.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600},
				{"owner.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o644},
				{"recovery.key", []byte(base64.StdEncoding.EncodeToString(recovery.Bytes()) + "\n"), 0o600},
				{"recovery.pub", []byte(base64.StdEncoding.EncodeToString(recovery.Public()) + "\n"), 0o644},
			} {
				err := writeKeyFile(filepath.Join(dir, f.name), f.text, f.mode)
				clear(f.text)
				if err != nil {
					return err
				}
			}
			clear(private)
			a.done("wrote owner.key, owner.pub, recovery.key and recovery.pub to %s", clean(dir))
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "out", ".", "directory to write to")
	return cmd
}

// writeKeyFile writes a file that must not be there yet.
func writeKeyFile(path string, text []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return CodeFile.Bad(path, "a file that isn't there yet", cause(err))
	}
	if _, err := f.Write(text); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func (a *app) sealInitCmd() *cobra.Command {
	var dir, replace string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "order a root key to be made when the keeper starts next",
		Long: `A keeper never makes a root by itself, not even when the one it has doesn't open. To replace a root, name it: everything
sealed under it is then lost.`,
		Example: "  assay seal init\n  assay seal init --replace sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
		Args:    exactly(),
		RunE: func(_ *cobra.Command, _ []string) error {
			var old *rats.Digest
			if replace != "" {
				d, err := rats.ParseDigest(replace)
				if err != nil {
					return CodeUsage.Bad("--replace", "a root, as `assay seal status` shows it", err.Error())
				}
				old = &d
			}
			if err := keeper.WriteOrder(dir, old); err != nil {
				return err
			}
			a.done("a root is made at the keeper's next start")
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "state", keeper.DefaultState, "the keeper's state directory")
	cmd.Flags().StringVar(&replace, "replace", "", "root to replace")
	return cmd
}

func (a *app) sealStatusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "say what this machine's root keeper holds",
		Example: "  assay seal status\n  assay seal status -o json",
		Args:    exactly(),
	}
	socket := keeperFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var st keeper.Status
		err := withKeeper(cmd, *socket, func(c *keeper.Conn) (err error) {
			st, err = c.Status(cmd.Context())
			return err
		})
		if err != nil {
			return err
		}
		if err := a.show(st, func(w io.Writer) { sealStatus(w, st) }); err != nil {
			return err
		}
		if st.State != keeper.StateReady {
			return &verdictError{exit: rats.ExitError}
		}
		return nil
	}
	return cmd
}

func sealStatus(w io.Writer, st keeper.Status) {
	row(w, "state", st.State)
	if st.Reason != nil {
		row(w, "because", st.Reason.String())
		row(w, "hint", st.Reason.Hint)
	}
	row(w, "root", st.Root.String())
	row(w, "class", st.Class)
	row(w, "launch", string(st.Launch))
	for _, m := range st.Marks {
		row(w, "mark", m)
	}
	row(w, "revision", fmt.Sprintf("%d, opened by a set of %d, newest set %d", st.Revision, st.SetRevision, st.Newest))
	row(w, "capped", fmt.Sprint(st.Boot.Capped))
	row(w, "memory", fmt.Sprintf("locked %t, undumpable %t, secret %t", st.Hardened.MemoryLocked, st.Hardened.Undumpable, st.SecretMem))
	switch {
	case st.Created || st.Recovered:
		row(w, "next", "authorise the next boot before it: assay seal plan")
	case st.Uncommitted:
		row(w, "next", "if this boot is good: assay seal commit")
	}
}

func (a *app) sealPlanCmd() *cobra.Command {
	var file, config, binary, note string
	cmd := &cobra.Command{
		Use:   "plan [flags]",
		Short: "print the PCR values of a boot, for the owner to authorise",
		Long: `Without --pcrs the plan is for what is running now. With it, the file's values replace those of this boot; with --config
and --keeper besides, the file's PCR 11 is the value before the keeper starts, and what the keeper will measure is added.`,
		Example: "  assay seal plan > plan.json\n  assay seal plan --pcrs predicted.json --note 'kernel 6.12.9' > plan.json",
		Args:    exactly(),
	}
	socket := keeperFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&file, "pcrs", "", `predicted values, {"7": "sha256:…"}; - is standard input`)
	f.StringVar(&config, "config", "", "the keeper's configuration in the next initramfs")
	f.StringVar(&binary, "keeper", "", "the keeper's program in the next initramfs")
	f.StringVar(&note, "note", "", "what the plan is for, as people call it")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		pcrs, err := a.predicted(file, config, binary)
		if err != nil {
			return err
		}
		return withKeeper(cmd, *socket, func(c *keeper.Conn) error {
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			plan, err := st.Plan(pcrs)
			if err != nil {
				return err
			}
			plan.Note = note
			return a.printSet(plan)
		})
	}
	return cmd
}

func (a *app) predicted(file, config, binary string) (map[int]rats.Digest, error) {
	if file == "" {
		return nil, nil
	}
	text, err := a.readDocument(file)
	if err != nil {
		return nil, err
	}
	pcrs, err := keeper.ParsePCRs(text)
	if err != nil || config == "" || binary == "" {
		return pcrs, err
	}
	if text, err = a.readDocument(config); err != nil {
		return nil, err
	}
	c, err := keeper.ParseConfig(text)
	if err != nil {
		return nil, err
	}
	image, err := keeper.MeasureFile(binary)
	if err != nil {
		return nil, err
	}
	return keeper.Predict(pcrs, c, image)
}

func (a *app) printSet(s keeper.Set) error {
	b, err := s.Encode()
	if err != nil {
		return err
	}
	_, err = a.env.Out.Write(b)
	return err
}

func (a *app) sealAuthoriseCmd() *cobra.Command {
	var key, owner, signature string
	var digest bool
	cmd := &cobra.Command{
		Use:   "authorise PLAN",
		Short: "sign a plan with the owner's policy key; needs neither machine nor network",
		Long: `Prints the signed set. With a key in an HSM: --digest prints the SHA-256 digest to sign (hexadecimal), and --signature with
--owner joins the plan and the ECDSA signature (ASN.1) that came back.`,
		Example: "  assay seal authorise plan.json --key owner.key > set.json\n  assay seal authorise plan.json --digest\n" +
			"  assay seal authorise plan.json --signature plan.sig --owner owner.pub > set.json",
		Args: exactly("PLAN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := a.readDocument(args[0])
			if err != nil {
				return err
			}
			plan, err := keeper.ParseSet(text)
			if err != nil {
				return err
			}
			switch {
			case digest:
				d, err := plan.SignedDigest()
				if err == nil {
					fmt.Fprintln(a.env.Out, hex.EncodeToString(d))
				}
				return err
			case signature != "" && owner != "":
				return a.joinSignature(plan, signature, owner)
			case key == "":
				return usage(cmd, "--key is missing")
			}
			secret, err := a.readSecret(key, 16<<10)
			if err != nil {
				return err
			}
			defer clear(secret)
			signer, err := keeper.ParseSigner(secret)
			if err != nil {
				return err
			}
			set, err := keeper.Authorise(plan, signer, a.env.Rand)
			if err != nil {
				return err
			}
			a.done("authorised for root %s up to revision %d: PCRs %v", short(set.Root), set.Revision, slices.Sorted(maps.Keys(set.PCRs)))
			return a.printSet(set)
		},
	}
	f := cmd.Flags()
	f.StringVar(&key, "key", "", "owner's policy key (PEM); - is standard input")
	f.BoolVar(&digest, "digest", false, "print what is to be signed, and sign nothing")
	f.StringVar(&signature, "signature", "", "signature made elsewhere (ASN.1)")
	f.StringVar(&owner, "owner", "", "owner's public policy key, to check that signature")
	return cmd
}

func (a *app) joinSignature(plan keeper.Set, signature, owner string) error {
	sig, err := a.readDocument(signature)
	if err != nil {
		return err
	}
	text, err := a.readDocument(owner)
	if err != nil {
		return err
	}
	pub, err := keeper.ParseOwner(text)
	if err != nil {
		return err
	}
	plan.Signature = sig
	if err := plan.Verify(pub); err != nil {
		return err
	}
	return a.printSet(plan)
}

func (a *app) sealInstallCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "install SET",
		Short:   "hand a signed set to this machine's root keeper, for later boots",
		Example: "  assay seal install set.json",
		Args:    exactly("SET"),
	}
	socket := keeperFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		text, err := a.readDocument(args[0])
		if err != nil {
			return err
		}
		if _, err := keeper.ParseSet(text); err != nil {
			return err
		}
		return withKeeper(cmd, *socket, func(c *keeper.Conn) error {
			if err := c.Install(cmd.Context(), text); err != nil {
				return err
			}
			a.done("installed; nothing older is refused before `assay seal commit`")
			return nil
		})
	}
	return cmd
}

func (a *app) sealCommitCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "commit",
		Short:   "declare this boot good: sets of earlier revisions never open again",
		Example: "  assay seal commit",
		Args:    exactly(),
	}
	socket := keeperFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return withKeeper(cmd, *socket, func(c *keeper.Conn) error {
			v, err := c.Commit(cmd.Context())
			if err == nil {
				a.done("committed revision %d", v)
			}
			return err
		})
	}
	return cmd
}

func (a *app) sealRequestCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "request",
		Short:   "on the machine: ask the owner for the escrowed share",
		Example: "  assay seal recover request > request.json",
		Args:    exactly(),
	}
	socket := keeperFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return withKeeper(cmd, *socket, func(c *keeper.Conn) error {
			r, err := c.RequestRecovery(cmd.Context())
			if err != nil {
				return err
			}
			b, err := r.EncodeJSON()
			if err == nil {
				_, err = a.env.Out.Write(b)
			}
			a.done("key of this boot: %s; compare it with the machine's console or a quote of PCR 11 before answering", rats.SHA256(r.Key))
			return err
		})
	}
	return cmd
}

func (a *app) sealAnswerCmd() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "answer REQUEST",
		Short:   "where the recovery key is: open the share, and seal it to the machine that asked",
		Example: "  assay seal recover answer request.json --key recovery.key > answer.json",
		Args:    exactly("REQUEST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usage(cmd, "--key is missing")
			}
			request, err := a.readDocument(args[0])
			if err != nil {
				return err
			}
			text, err := a.readSecret(file, 1<<10)
			if err != nil {
				return err
			}
			defer clear(text)
			raw := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
			defer clear(raw)
			n, err := base64.StdEncoding.Decode(raw, text)
			if err != nil {
				return CodeFile.Bad(file, "a recovery key", "something else")
			}
			key, err := sealed.ParseKey(raw[:n])
			if err != nil {
				return CodeFile.Bad(file, "a recovery key", "something else")
			}
			answer, err := keeper.AnswerRecovery(request, key)
			if err != nil {
				return err
			}
			b, err := answer.EncodeJSON()
			if err == nil {
				_, err = a.env.Out.Write(b)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&file, "key", "", "owner's recovery key; - is standard input")
	return cmd
}

func (a *app) sealFinishCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "finish ANSWER",
		Short:   "on the machine, in the same boot: open the root with the owner's answer, and seal it anew",
		Example: "  assay seal recover finish answer.json",
		Args:    exactly("ANSWER"),
	}
	socket := keeperFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		answer, err := a.readDocument(args[0])
		if err != nil {
			return err
		}
		return withKeeper(cmd, *socket, func(c *keeper.Conn) error {
			if err := c.FinishRecovery(cmd.Context(), answer); err != nil {
				return err
			}
			a.done("recovered; earlier sets are void: authorise the next boot before it (assay seal plan)")
			return nil
		})
	}
	return cmd
}
