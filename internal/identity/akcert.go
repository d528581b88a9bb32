package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// Certificates of attestation keys: who trusts this verifier's CA need not see the EK to know that a key is a TPM's (R117).
const (
	akLifetime  = 30 * 24 * time.Hour // S48
	akSuffix    = "/ak"               // of the node's URI
	maxAKs      = 8                   // that are good at a time, per node
	crlLifetime = time.Hour
	// akRegistry is the one document of its kind: the serials that were revoked before they ran out.
	akRegistry = "revoked"
)

// oidAK is tcg-kp-AIKCertificate (TCG EK Credential Profile; Platform Identity Attestation Credentials).
var oidAK = asn1.ObjectIdentifier{2, 23, 133, 8, 3}

// Why a certificate of an attestation key is not issued, or does not count.
var (
	CodeAKUnapproved = akCode("identity.ak.unapproved", "the node is not approved, so nobody vouches for its TPM",
		"approve the node first (assay node approve NAME)")
	CodeAKMany = akCode("identity.ak.many", "the node has enough certificates for its attestation key",
		"use one of those it has, or revoke some (assay node ak revoke)")
	CodeAKRecord = akCode("identity.ak.record", "the node has no enrolment record with an attestation key",
		"delete the node and let the machine join again")
	CodeAKUnknown = akCode("identity.ak.unknown", "no certificate with this serial is good at present",
		"list them with `assay node ak list`; one that has run out needs no revocation")
	CodeAKMalformed = akCode("identity.ak.malformed", "that is not a certificate of an attestation key",
		"give the DER of the certificate that the verifier issued")
	CodeAKUsage = akCode("identity.ak.usage", "the certificate is for something else than an attestation key",
		"a node's TLS certificate doesn't vouch for its attestation key")
	CodeAKExpired = akCode("identity.ak.expired", "the certificate of the attestation key is not valid now",
		"the agent renews it after 20 days; compare the clocks")
	CodeAKRevoked = akCode("identity.ak.revoked", "the certificate of the attestation key was revoked",
		"the node was deleted, revoked or replaced; see `assay node ak list`")
	CodeAKList = akCode("identity.ak.list", "the list of revoked certificates is missing, old, or not the verifier's",
		"fetch it anew: it is good for an hour")
)

func akCode(c rats.Code, title, hint string) rats.CodeInfo {
	return rats.CodeInfo{Code: c, Title: title, Hint: hint, Slot: rats.InstanceIdentity}
}

var akCodes = []rats.CodeInfo{
	CodeAKUnapproved, CodeAKMany, CodeAKRecord, CodeAKUnknown, CodeAKMalformed, CodeAKUsage, CodeAKExpired, CodeAKRevoked, CodeAKList,
}

// AKCertificate issues the certificate of a node's attestation key (TPM2B_PUBLIC): common name the node's id, one URI SAN
// assay://NAMESPACE/node/ID/ak, extended key usage tcg-kp-AIKCertificate alone, 30 days. It says nothing of the EK. The
// caller has made sure that credential activation tied the key to a TPM.
func (c *CA) AKCertificate(namespace, node string, akPub []byte) (der []byte, serial string, err error) {
	pub, err := tpm.AKPublicKey(akPub)
	if err != nil {
		return nil, "", err
	}
	if !validNamespace(namespace) || !validNodeID(node) {
		return nil, "", fmt.Errorf("issuing a certificate: %q in %q is not a node's id in a namespace", node, namespace)
	}
	uri := nodeURI(namespace, node)
	uri.Path += akSuffix
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: node}, URIs: []*url.URL{uri}, UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidAK},
	}
	return c.issue(t, crypto.PublicKey(pub), akLifetime)
}

// IssueAK issues a certificate for the attestation key of a node (id) that was tied to its TPM when it joined; the caller
// has established that the request comes over the node's own connection.
func (j *Joiner) IssueAK(ctx context.Context, namespace string, space store.Space, node string) (api.AKCertificate, error) {
	var n store.Node
	err := space.View(ctx, func(tx store.Tx) (err error) {
		n, err = tx.Nodes().Get(node)
		return err
	})
	if err != nil {
		return api.AKCertificate{}, fmt.Errorf("looking up node %s: %w", clip(node), err)
	}
	ak := akOf(n)
	if ak == nil {
		return api.AKCertificate{}, CodeAKRecord.Missing("enrolment record", "an attestation key", "none")
	}
	der, serial, err := j.cfg.CA.AKCertificate(namespace, node, ak)
	if err != nil {
		return api.AKCertificate{}, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return api.AKCertificate{}, fmt.Errorf("reading an issued certificate: %w", err)
	}
	err = j.change(ctx, space, node, func(tx store.Tx, n *store.Node, at time.Time) error {
		if n.Enrolment != store.EnrolmentApproved {
			return CodeAKUnapproved.Bad("enrolment", store.EnrolmentApproved, clip(n.Enrolment))
		}
		if !bytes.Equal(akOf(*n), ak) {
			return CodeAKRecord.Bad("enrolment record", "the attestation key it had", "another")
		}
		good := goodAKs(*n, at)
		if len(good) >= maxAKs {
			return CodeAKMany.Bad("certificates", fmt.Sprintf("fewer than %d", maxAKs), fmt.Sprint(len(good)))
		}
		n.AKCerts = append(good, store.AKCert{Serial: serial, Issued: at, Expires: cert.NotAfter.UTC()})
		return audit(tx, at, "node:"+n.ID, "ak.issue", rats.Subject(rats.SubjectNode, n.ID), map[string]any{"serial": serial})
	})
	if err != nil {
		return api.AKCertificate{}, err
	}
	return api.AKCertificate{Node: node, Serial: serial, Issued: j.cfg.Now().UTC(), Expires: cert.NotAfter.UTC(), Certificate: der, CAs: j.cfg.Pins.DER()}, nil
}

// akOf returns the attestation key of a node's enrolment record, nil if it has none.
func akOf(n store.Node) []byte {
	for _, e := range n.Endorsements {
		if e.MediaType != tpm.EnrolmentMediaType {
			continue
		}
		if r, err := tpm.ParseEnrolment(e.Body); err == nil {
			return r.AK
		}
	}
	return nil
}

// goodAKs are the certificates that have not run out. Those that are revoked stand in the registry and not here.
func goodAKs(n store.Node, now time.Time) (good []store.AKCert) {
	for _, c := range n.AKCerts {
		if now.Before(c.Expires) {
			good = append(good, c)
		}
	}
	return good
}

// revocations reads the registry.
func revocations(tx store.Tx, now time.Time) (list []api.RevokedAK, err error) {
	d, err := tx.Documents().Get(store.DocAKRevocations, akRegistry, 0)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading revoked certificates: %w", err)
	}
	if err := json.Unmarshal(d.Body, &list); err != nil {
		return nil, fmt.Errorf("reading revoked certificates: %w", err)
	}
	return slices.DeleteFunc(list, func(r api.RevokedAK) bool { return !now.Before(r.Expires) }), nil
}

// revokeAKs puts all good certificates of a node into the registry: what happens whenever the node stops being one.
func (j *Joiner) revokeAKs(tx store.Tx, n store.Node, at time.Time, why string) error {
	good := goodAKs(n, at)
	if len(good) == 0 {
		return nil
	}
	list, err := revocations(tx, at)
	if err != nil {
		return err
	}
	for _, c := range good {
		list = append(list, api.RevokedAK{Serial: c.Serial, Node: n.ID, At: at, Expires: c.Expires, Why: why})
	}
	return putRevocations(tx, list, at)
}

func putRevocations(tx store.Tx, list []api.RevokedAK, at time.Time) error {
	b, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("encoding revoked certificates: %w", err)
	}
	_, err = tx.Documents().Put(store.Document{Kind: store.DocAKRevocations, Name: akRegistry, Body: b, Author: "verifier", At: at})
	if err != nil {
		return fmt.Errorf("storing revoked certificates: %w", err)
	}
	return nil
}

// Forget is called in the transaction that deletes a node, before it does: what the node's attestation key was vouched for
// by is revoked.
func (j *Joiner) Forget(tx store.Tx, n store.Node) error {
	return j.revokeAKs(tx, n, j.cfg.Now().UTC(), "deleted")
}

// RevokeAK revokes one certificate, by its serial, before it runs out.
func (j *Joiner) RevokeAK(ctx context.Context, space store.Space, actor, serial string) error {
	at := j.cfg.Now().UTC()
	return space.Update(ctx, func(tx store.Tx) error {
		n, c, err := findAK(tx, serial, at)
		if err != nil {
			return err
		}
		if err := j.revokeAKs(tx, store.Node{ID: n.ID, AKCerts: []store.AKCert{c}}, at, "asked"); err != nil {
			return err
		}
		n.AKCerts = slices.DeleteFunc(slices.Clone(n.AKCerts), func(o store.AKCert) bool { return o.Serial == serial })
		if err := tx.Nodes().Put(n); err != nil {
			return fmt.Errorf("storing node %s: %w", clip(n.ID), err)
		}
		return audit(tx, at, actor, "ak.revoke", rats.Subject(rats.SubjectNode, n.ID), map[string]any{"serial": serial})
	})
}

func findAK(tx store.Tx, serial string, now time.Time) (store.Node, store.AKCert, error) {
	for after := ""; ; {
		page, err := tx.Nodes().List(after, scanPage)
		if err != nil {
			return store.Node{}, store.AKCert{}, fmt.Errorf("reading nodes: %w", err)
		}
		for _, n := range page {
			for _, c := range goodAKs(n, now) {
				if c.Serial == serial {
					return n, c, nil
				}
			}
		}
		if len(page) < scanPage {
			return store.Node{}, store.AKCert{}, CodeAKUnknown.Bad("serial", "that of a good certificate", clip(serial))
		}
		after = page[len(page)-1].Name
	}
}

// ListAKs returns the registry: the certificates that are good, without their bytes, and those that were revoked before
// they ran out.
func (j *Joiner) ListAKs(ctx context.Context, space store.Space) (out api.AKCertificateList, err error) {
	now := j.cfg.Now()
	out.Certificates = []api.AKCertificate{}
	err = space.View(ctx, func(tx store.Tx) error {
		for after := ""; ; {
			page, err := tx.Nodes().List(after, scanPage)
			if err != nil {
				return fmt.Errorf("reading nodes: %w", err)
			}
			for _, n := range page {
				for _, c := range goodAKs(n, now) {
					out.Certificates = append(out.Certificates, api.AKCertificate{Node: n.ID, Serial: c.Serial, Issued: c.Issued, Expires: c.Expires})
				}
			}
			if len(page) < scanPage {
				break
			}
			after = page[len(page)-1].Name
		}
		var err error
		out.Revoked, err = revocations(tx, now)
		return err
	})
	return out, err
}

// CRL returns the namespace's list of revoked certificates (RFC 5280 section 5), signed by the CA, good for an hour.
func (j *Joiner) CRL(ctx context.Context, space store.Space) ([]byte, error) {
	var list []api.RevokedAK
	now := j.cfg.Now().UTC()
	err := space.View(ctx, func(tx store.Tx) (err error) {
		list, err = revocations(tx, now)
		return err
	})
	if err != nil {
		return nil, err
	}
	return j.cfg.CA.revocationList(list, now)
}

func (c *CA) revocationList(list []api.RevokedAK, now time.Time) ([]byte, error) {
	t := &x509.RevocationList{Number: big.NewInt(now.UnixNano()), ThisUpdate: now.Add(-backdate), NextUpdate: now.Add(crlLifetime)}
	for _, r := range list {
		n, ok := new(big.Int).SetString(r.Serial, 16)
		if !ok {
			return nil, fmt.Errorf("signing a revocation list: %q is no serial", r.Serial)
		}
		t.RevokedCertificateEntries = append(t.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: r.At})
	}
	der, err := x509.CreateRevocationList(c.cfg.Rand, t, c.cert, c.key)
	if err != nil {
		return nil, fmt.Errorf("signing a revocation list: %w", err)
	}
	return der, nil
}

// AK is whose attestation key a certificate is for.
type AK struct {
	Namespace, Node, Serial string
	Key                     crypto.PublicKey
}

// VerifyAK checks the certificate of an attestation key (DER) with the list of revoked ones (DER) of its namespace: what a
// relying party does that trusts the CA.
func (p *Pins) VerifyAK(der, crl []byte) (AK, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return AK{}, CodeAKMalformed.Bad("certificate", "DER", "other bytes")
	}
	ca, err := p.issuer(leaf)
	if err != nil {
		return AK{}, err
	}
	now := p.now()
	if !validAt(leaf, now) || !validAt(ca, now) || leaf.NotAfter.Sub(leaf.NotBefore) > akLifetime+backdate {
		return AK{}, CodeAKExpired.Bad("certificate", "validity at "+now.UTC().Format(time.RFC3339)+", 30 days at most",
			leaf.NotBefore.UTC().Format(time.RFC3339)+" to "+leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if leaf.IsCA || len(leaf.ExtKeyUsage) > 0 || len(leaf.UnknownExtKeyUsage) != 1 || !leaf.UnknownExtKeyUsage[0].Equal(oidAK) ||
		leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.UnhandledCriticalExtensions) > 0 || len(leaf.URIs) != 1 {
		return AK{}, CodeAKUsage.Bad("certificate", "an attestation key's", "other usages")
	}
	uri, ok := strings.CutSuffix(leaf.URIs[0].String(), akSuffix)
	if !ok {
		return AK{}, CodeAKUsage.Bad("subject alternative name", "assay://NAMESPACE/node/ID/ak", clip(leaf.URIs[0].String()))
	}
	namespace, node, err := parseNodeURI(uri)
	if err != nil {
		return AK{}, err
	}
	if err := unrevoked(leaf, ca, crl, now); err != nil {
		return AK{}, err
	}
	return AK{Namespace: namespace, Node: node, Serial: serialText(leaf.SerialNumber), Key: leaf.PublicKey}, nil
}

func unrevoked(leaf, ca *x509.Certificate, crl []byte, now time.Time) error {
	list, err := x509.ParseRevocationList(crl)
	if err != nil || list.CheckSignatureFrom(ca) != nil || now.Before(list.ThisUpdate) || !now.Before(list.NextUpdate) {
		return CodeAKList.Bad("crl", "one of the CA, of the last hour", "another, or none")
	}
	for _, r := range list.RevokedCertificateEntries {
		if r.SerialNumber.Cmp(leaf.SerialNumber) == 0 {
			return CodeAKRevoked.Bad("serial", "one that isn't revoked", serialText(leaf.SerialNumber))
		}
	}
	return nil
}
