// Package agent is the node side of an attestation: it joins a server, holds a stream to it, collects what the server
// asks for and forwards the answers as opaque blobs.
//
// It guarantees that it listens on no network port (the one socket it has is a local one for its own user), that every
// connection is TLS 1.3 to a server under a pinned CA, that it answers challenges of the verifier it joined only, that
// everything the server sends is bounded, and that it writes no path of a plan to its log.
//
// It is not trusted: what it says counts only as far as the TPM and the measuring enclave vouch for it. It keeps no
// secret on disk: AK and TLS key live in the TPM, the enclave's keys in memory for one run.
package agent

import "github.com/assay-attest/assay/rats"

// The codes of this package.
var (
	CodeStateMissing = rats.CodeInfo{
		Code: "agent.state.missing", Title: "this machine has not joined a server",
		Hint: "join first: `assay agent join --server … --token …`",
	}
	CodeStateExists = rats.CodeInfo{
		Code: "agent.state.exists", Title: "this machine has joined already",
		Hint: "keep it as it is, or replace its identity with --replace",
	}
	CodeStateMalformed = rats.CodeInfo{
		Code: "agent.state.malformed", Title: "the agent's state can't be used",
		Hint: "restore it from a backup or join again",
	}
	CodeStateOpen = rats.CodeInfo{
		Code: "agent.state.permissions", Title: "the agent's state can be read or written by others",
		Hint: "make the directory 0700 and state.json 0600, of the user the agent runs as",
	}
	CodeStateLocked = rats.CodeInfo{
		Code: "agent.state.locked", Title: "another agent runs with this state",
		Hint: "stop it first; two agents of one identity look like a cloned machine",
	}
	CodeConfig = rats.CodeInfo{
		Code: "agent.config.malformed", Title: "the configuration file can't be used",
		Hint: "see docs/agent.md for the fields",
	}
	CodeEnclaveFile = rats.CodeInfo{
		Code: "agent.enclave.unreadable", Title: "the measuring enclave's image or SIGSTRUCT can't be read",
		Hint: "`make build` puts both beside the binary; the agent's configuration says where they are",
	}
	CodeToken = rats.CodeInfo{
		Code: "agent.token.malformed", Title: "the join token can't be read",
		Hint: "paste it whole, as it was told at its creation (asj1.…), or have a new one made",
	}
	CodeTPM = rats.CodeInfo{
		Code: "agent.tpm.unusable", Title: "the TPM can't be used",
		Hint: "check that /dev/tpmrm0 exists and that the agent's user may open it (group tss), or name another TPM with --tpm",
	}
	CodeTPMChanged = rats.CodeInfo{
		Code: "agent.tpm.changed", Title: "the TPM doesn't hold the key this machine joined with",
		Hint: "it was cleared, or is another TPM: join again with --replace",
	}
	CodeJoined = rats.CodeInfo{
		Code: "agent.join.answer", Title: "the server's answer to joining can't be used",
		Hint: "compare the versions of agent and server",
	}
	CodeProtocol = rats.CodeInfo{
		Code: "agent.protocol.unsupported", Title: "the server doesn't speak this agent's protocol",
		Hint: "bring agent and server to versions that fit",
	}
	CodeChallenge = rats.CodeInfo{
		Code: "agent.challenge.malformed", Title: "the challenge is not one this agent may answer",
		Hint: "compare the versions of agent and server",
	}
	CodeVerifier = rats.CodeInfo{
		Code: "agent.challenge.verifier", Title: "the challenge is of another verifier than the one this machine joined",
		Hint: "the server's verifier key was replaced: join again with --replace",
	}
	CodeNoAttester = rats.CodeInfo{
		Code: "agent.format.unknown", Title: "this agent makes no evidence of that format",
		Hint: "bring the agent to the server's version, or take the format out of the policy",
	}
	CodeCheckpoint = rats.CodeInfo{
		Code: "agent.checkpoint.rollback", Title: "the server's audit log is shorter than it was, or another",
		Hint: "the server was restored from a backup, or its log was changed: ask its owner",
	}
	CodeRenewal = rats.CodeInfo{
		Code: "agent.certificate.renewal", Title: "the renewed certificate is not for this machine's key and name",
		Hint: "ask the server's owner; the old certificate is used until it expires",
	}
	CodeNotRunning = rats.CodeInfo{
		Code: "agent.socket.unavailable", Title: "no agent answers on the local socket",
		Hint: "start the agent (`assay agent run`), name its socket with --socket, or use the user it runs as",
	}
	CodeSecretName = rats.CodeInfo{
		Code: "agent.secret.name", Title: "this is not the name of a secret",
		Hint: "names are 1 to 253 lower-case letters, digits, '.', '_', '-' and, between elements, '/'",
	}
	CodeNoFreshResult = rats.CodeInfo{
		Code: "agent.release.timeout", Title: "no fresh result arrived in time, so the secret stays where it is",
		Hint: "see `assay agent status` and the agent's log for what hinders the attestation",
	}
	CodeRelease = rats.CodeInfo{
		Code: "agent.release.malformed", Title: "the release can't be opened",
		Hint: "try again; if it stays, compare the versions of agent and server",
	}
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{
	CodeStateMissing, CodeStateExists, CodeStateMalformed, CodeStateOpen, CodeStateLocked, CodeConfig, CodeEnclaveFile, CodeToken, CodeTPM,
	CodeTPMChanged, CodeJoined, CodeProtocol, CodeChallenge, CodeVerifier, CodeNoAttester, CodeCheckpoint, CodeRenewal,
	CodeNotRunning, CodeSecretName, CodeNoFreshResult, CodeRelease,
}

func clip(s string) string {
	if len(s) > 120 {
		return s[:120] + "…"
	}
	return s
}
