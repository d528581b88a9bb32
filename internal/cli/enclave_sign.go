package cli

import (
	"crypto/rsa"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
)

func (a *app) enclaveSignCmd() *cobra.Command {
	var o signing
	var key string
	cmd := &cobra.Command{
		Use:   "sign IMAGE",
		Short: "sign an image with a key at hand: the published test key, unless --key names another",
		Long: `Makes the SIGSTRUCT of an image. Without --key the published test key signs: every verdict about such an enclave shows "test",
and a policy must allow it by name. For releases keep the key offline: see gendata and catsig.`,
		Example: "  assay enclave sign vault.enclave --out vault.sig\n" +
			"  assay enclave sign vault.enclave --key signer.pem --svn 4 --out vault.sig",
		Args: exactly("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			mrenclave, options, err := a.signOptions(cmd, args[0], o)
			if err != nil {
				return err
			}
			private, err := a.signer(key)
			if err != nil {
				return err
			}
			s, err := enclave.Sign(mrenclave, options, private)
			if err != nil {
				return err
			}
			return a.keepSigstruct(s, o.out)
		},
	}
	o.flags(cmd, "the SIGSTRUCT")
	cmd.Flags().StringVar(&key, "key", "", "file with the signer's private key (PEM, RSA-3072, exponent 3), mode 0600")
	return cmd
}

func (a *app) signer(file string) (*rsa.PrivateKey, error) {
	if file == "" {
		a.done("warning: signing with the published test key; anyone can sign so")
		return enclave.TestKey()
	}
	text, err := a.readSecret(file, 64<<10)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	return enclave.ParsePrivateKey(text)
}

func (a *app) keepSigstruct(s abi.Sigstruct, out string) error {
	if err := writePublic(out, s.Bytes()); err != nil {
		return err
	}
	return a.showSigstruct(sigstructOf(s))
}

func (a *app) enclaveGenDataCmd() *cobra.Command {
	var o signing
	cmd := &cobra.Command{
		Use:   "gendata IMAGE",
		Short: "write the bytes that an offline key signs",
		Long: `Writes the 256 bytes of the SIGSTRUCT that its signature covers. Take them to where the key is, look at them there with the same
command, sign them (RSA PKCS #1 v1.5 with SHA-256), and bring signature and public key back to catsig.`,
		Example: "  assay enclave gendata vault.enclave --svn 4 --out vault.gendata\n" +
			"  openssl dgst -sha256 -sign signer.pem -out vault.rsa vault.gendata     # offline\n" +
			"  assay enclave catsig vault.gendata --signature vault.rsa --public signer.pub --out vault.sig",
		Args: exactly("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			mrenclave, options, err := a.signOptions(cmd, args[0], o)
			if err != nil {
				return err
			}
			data, err := enclave.GenData(mrenclave, options)
			if err != nil {
				return err
			}
			s, err := enclave.Unsigned(mrenclave, options)
			if err != nil {
				return err
			}
			if err := writePublic(o.out, data); err != nil {
				return err
			}
			c := sigstructOf(s)
			c.MRSIGNER, c.Test, c.Valid = "", false, false
			return a.showSigstruct(c)
		},
	}
	o.flags(cmd, "the bytes to sign")
	return cmd
}

func (a *app) enclaveCatSigCmd() *cobra.Command {
	var signature, public, image, out string
	cmd := &cobra.Command{
		Use:     "catsig GENDATA",
		Short:   "make the SIGSTRUCT of the bytes that gendata wrote and their signature",
		Example: "  assay enclave catsig vault.gendata --signature vault.rsa --public signer.pub --image vault.enclave --out vault.sig",
		Args:    exactly("GENDATA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if signature == "" || public == "" || out == "" {
				return usage(cmd, "say --signature FILE, --public FILE and --out FILE")
			}
			var files [3][]byte
			for i, name := range []string{args[0], signature, public} {
				var err error
				if files[i], err = a.readPublic(name, 64<<10); err != nil {
					return err
				}
			}
			key, err := enclave.ParsePublicKey(files[2])
			if err != nil {
				return err
			}
			s, err := enclave.CatSig(files[0], key, files[1])
			if err != nil {
				return err
			}
			if image != "" {
				i, err := a.readImage(image)
				if err != nil {
					return err
				}
				if _, err := enclave.Init(i.Measure(), s, enclave.Start{AllowDebug: true}); err != nil {
					return err
				}
			}
			return a.keepSigstruct(s, out)
		},
	}
	f := cmd.Flags()
	f.StringVar(&signature, "signature", "", "file with the signature: 384 bytes, as openssl writes it")
	f.StringVar(&public, "public", "", "file with the signer's public key (PEM)")
	f.StringVar(&image, "image", "", "also check that the result is of this image")
	f.StringVar(&out, "out", "", "write the SIGSTRUCT to this file")
	return cmd
}
