package identity

import (
	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/rats"
)

// inNamespace is how the audit log names an EK: equal for one EK in one namespace, so that its uses can be followed, and
// another in every namespace, so that who reads the logs of two can't tell by them that a machine is in both (R117, S48). Who
// knows an EK can compute it: the SHA-256 of "assay/ek-in-namespace/1", a zero byte, the namespace, another, and the digest's
// text.
func inNamespace(namespace string, ek rats.Digest) string {
	if ek.IsZero() {
		return ""
	}
	return rats.SHA256([]byte("assay/ek-in-namespace/1\x00" + namespace + "\x00" + ek.String())).String()
}

// ForReaders returns what a relying party may see of a node: nothing that tells its hardware from other hardware outside of
// this namespace (R117). Reasons that judge hardware and identity keep what they say and lose the values that were compared.
func ForReaders(n api.Node) api.Node {
	n.EK = rats.Digest{}
	n.Reasons = ReasonsForReaders(n.Reasons)
	return n
}

// ReasonsForReaders are reasons without the values that could name hardware.
func ReasonsForReaders(reasons []rats.Reason) []rats.Reason {
	var out []rats.Reason
	for _, r := range reasons {
		if r.Slot == rats.Hardware || r.Slot == rats.InstanceIdentity {
			r.Expected, r.Seen = "", ""
		}
		out = append(out, r)
	}
	return out
}
