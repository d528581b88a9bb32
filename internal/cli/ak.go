package cli

import (
	"encoding/pem"
	"io"

	"github.com/spf13/cobra"
)

func (a *app) akCmd() *cobra.Command {
	return group("ak", "certificates of attestation keys: that a key is a TPM's, without showing which",
		"A node's agent gets a certificate for the attestation key of its TPM, good for 30 days, and renews it. Who trusts the\n"+
			"server's CA needs no endorsement key to know that the key is a TPM's.",
		a.akListCmd(), a.akRevokeCmd(), a.akCRLCmd())
}

func (a *app) akListCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "list the certificates that are good, and those that were revoked",
		Example: "  assay node ak list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			l, err := c.ListAKCertificates(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(l, func(w io.Writer) {
				row(w, "SERIAL", "NODE", "EXPIRES", "REVOKED", "WHY")
				for _, k := range l.Certificates {
					row(w, k.Serial, k.Node, a.ago(k.Expires), "", "")
				}
				for _, k := range l.Revoked {
					row(w, k.Serial, k.Node, a.ago(k.Expires), a.ago(k.At), k.Why)
				}
			})
		},
	}
}

func (a *app) akRevokeCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "revoke SERIAL",
		Short:   "revoke a certificate before it runs out",
		Example: "  assay node ak revoke 5f0c…",
		Args:    exactly("SERIAL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			if err := c.RevokeAKCertificate(cmd.Context(), args[0]); err != nil {
				return err
			}
			a.done("certificate %s revoked", clean(args[0]))
			return nil
		},
	}
}

func (a *app) akCRLCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "crl",
		Short: "print the list of revoked certificates, for those who verify them",
		Long: `Prints the namespace's certificate revocation list (RFC 5280), signed by the server's CA and good for an hour, in PEM.
It needs no credential.`,
		Example: "  assay node ak crl > ak.crl\n  openssl verify -CAfile ca.pem -crl_check -CRLfile ak.crl ak.pem",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			der, err := c.AKRevocations(cmd.Context())
			if err != nil {
				return err
			}
			text := string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
			return a.show(map[string]string{"crl": text}, func(w io.Writer) { _, _ = io.WriteString(w, text) })
		},
	}
}
