package cli

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/internal/endorse"
)

func (a *app) collateralExportCmd(o *collateral) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export [KEY]...",
		Short: "write the documents at hand, or some of them, as one signed file",
		Long: `Writes a bundle: every document with its revocation lists, issuer chains, digests and times, signed with your P-256 key. Machines without
network import it; auditors verify evidence of that time with it, years later.`,
		Example: "  assay collateral export --out bundle.json --key bundle.key --new-key\n" +
			"  assay collateral export --out bundle.json --key bundle.key",
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.out == "" || o.key == "" {
				return usage(cmd, "say --out FILE and --key FILE")
			}
			return a.exportCollateral(o, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.out, "out", "", "file to write")
	f.StringVar(&o.key, "key", "", "file with the signing key, PEM, mode 0600")
	f.BoolVar(&o.newKey, "new-key", false, "make the signing key, and FILE.pub with its public key for those who import")
	return cmd
}

func (a *app) exportCollateral(o *collateral, args []string) error {
	c, err := a.cache(o)
	if err != nil {
		return err
	}
	defer c.Close()
	var keys []endorse.Key
	for _, s := range args {
		k, err := endorse.ParseKey(s)
		if err != nil {
			return err
		}
		keys = append(keys, k)
	}
	b, err := c.NewBundle(keys...)
	if err != nil {
		return err
	}
	if len(b.Documents) == 0 {
		return endorse.CodeService.Missing("cache", "documents to export", "none; `assay collateral fetch` gets them")
	}
	if o.newKey {
		if err := a.newSigningKey(o.key); err != nil {
			return err
		}
	}
	signer, err := a.signingKey(o.key)
	if err != nil {
		return err
	}
	doc, err := b.Seal(nil, signer)
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.out, doc, 0o644); err != nil {
		return CodeFile.Bad(o.out, "a file that can be written", cause(err))
	}
	from, until := b.Validity()
	a.done("wrote %d documents, valid together from %s until %s", len(b.Documents), at(from), at(until))
	return nil
}

func (a *app) newSigningKey(file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), a.env.Rand)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding the key: %w", err)
	}
	defer clear(private)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encoding the key: %w", err)
	}
	for _, f := range []struct {
		name, kind string
		der        []byte
		mode       os.FileMode
	}{{file, "PRIVATE KEY", private, 0o600}, {file + ".pub", "PUBLIC KEY", public, 0o644}} {
		w, err := os.OpenFile(f.name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, f.mode)
		if err != nil {
			return CodeFile.Bad(f.name, "a new file", cause(err))
		}
		err = pem.Encode(w, &pem.Block{Type: f.kind, Bytes: f.der})
		if closed := w.Close(); err == nil {
			err = closed
		}
		if err != nil {
			return CodeFile.Bad(f.name, "a file that can be written", cause(err))
		}
	}
	return nil
}

func (a *app) signingKey(file string) (crypto.Signer, error) {
	b, err := a.readSecret(file, 16<<10)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	bad := CodeFile.Bad(file, "a private key on P-256, PEM; --new-key makes one", "other content")
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, bad
	}
	defer clear(block.Bytes)
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, bad
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, bad
	}
	return signer, nil
}

func (a *app) collateralImportCmd(o *collateral) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "import BUNDLE",
		Short:   "take the documents of a bundle that somebody you trust has signed; newer ones at hand stay",
		Example: "  assay collateral import bundle.json --signer bundle.key.pub",
		Args:    exactly("BUNDLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, err := a.readDocument(args[0])
			if err != nil {
				return err
			}
			signers, err := publicKeys(o.signers)
			if err != nil {
				return err
			}
			b, err := endorse.OpenBundle(doc, signers...)
			if err != nil {
				return err
			}
			c, err := a.cache(o)
			if err != nil {
				return err
			}
			defer c.Close()
			taken, kept, err := c.Import(b)
			if err != nil {
				return err
			}
			a.done("took %d documents, as of %s; %d at hand are newer", taken, at(b.Created), kept)
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&o.signers, "signer", nil, "file with a public key, PEM, whose bundles are taken; may be repeated")
	return cmd
}

func publicKeys(files []string) ([]crypto.PublicKey, error) {
	var out []crypto.PublicKey
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, CodeFile.Bad(file, "a public key, PEM", cause(err))
		}
		block, _ := pem.Decode(b)
		if block == nil {
			return nil, CodeFile.Bad(file, "a public key, PEM", "other content")
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, CodeFile.Bad(file, "a public key, PEM", err.Error())
		}
		out = append(out, key)
	}
	return out, nil
}
