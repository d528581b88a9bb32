package keeper

import "github.com/assay-attest/assay/rats"

// The codes of this package. Those that say why a root is locked are kept in Status.
var (
	CodeConfig = rats.CodeInfo{
		Code: "keeper.config.malformed", Title: "the keeper's configuration is not usable",
		Hint: "docs/roots.md lists its fields; for launch initrd build the initramfs again afterwards",
	}
	CodeState = rats.CodeInfo{
		Code: "keeper.state.malformed", Title: "the keeper's state can't be trusted as it lies there",
		Hint: "restore the state directory from a backup, or recover the root with the escrowed share; nothing was replaced",
	}
	CodeNoTPM = rats.CodeInfo{
		Code: "keeper.tpm.none", Title: "there is no TPM to keep the root",
		Hint: "switch the TPM on and have its driver in the initramfs; `tpm: none` makes a simulated root for trying things out",
	}
	CodeNoRoot = rats.CodeInfo{
		Code: "keeper.root.none", Title: "this machine has no root key, and nobody asked for one",
		Hint: "`assay seal init` asks for one at the next start",
	}
	CodeCreate = rats.CodeInfo{
		Code: "keeper.create.refused", Title: "the order to make a root doesn't fit",
		Hint: "it must name the root it replaces, and everything sealed under that is then lost: `assay seal init --replace ROOT`",
	}
	CodeLocked = rats.CodeInfo{
		Code: "keeper.root.locked-until-reboot", Title: "the root is locked until the machine is started again",
		Hint: "after the cap nothing unseals: reboot; nothing is lost. With launch userspace starting the keeper again is enough",
	}
	CodeOtherTPM = rats.CodeInfo{
		Code: "keeper.unseal.other-tpm", Title: "the root was sealed by another TPM, or this one was cleared",
		Hint: "put the disk back, or move the root here with the escrowed share: `assay seal recover`",
	}
	CodeNoCounter = rats.CodeInfo{
		Code: "keeper.unseal.no-counter", Title: "the TPM's revision counter is gone",
		Hint: "somebody deleted it: find out who; then recover with the escrowed share: `assay seal recover`",
	}
	CodeNotAuthorised = rats.CodeInfo{
		Code: "keeper.unseal.not-authorised", Title: "the owner authorised no set for what was started",
		Hint: "boot what was authorised; or, if this change is yours: `assay seal plan`, `assay seal authorise`, `assay seal install`, and reboot",
	}
	CodeRevoked = rats.CodeInfo{
		Code: "keeper.unseal.revoked", Title: "what was started is older than the last committed revision",
		Hint: "boot the newer kernel; a set that was committed away never opens again",
	}
	CodeSubstituted = rats.CodeInfo{
		Code: "keeper.root.substituted", Title: "what was unsealed is not the root the owner authorised",
		Hint: "the state directory was tampered with: restore it from a backup",
	}
	CodeSet = rats.CodeInfo{
		Code: "keeper.set.malformed", Title: "this is not a set of PCR values as `assay seal plan` writes it",
		Hint: "plan again; a set is for one root, launch class and counter",
	}
	CodeSetSignature = rats.CodeInfo{
		Code: "keeper.set.signature", Title: "the set is not signed by the owner's policy key",
		Hint: "`assay seal authorise` with the key whose public part the keeper's configuration holds",
	}
	CodeCap = rats.CodeInfo{
		Code: "keeper.cap.incomplete", Title: "the seal's PCRs could not be capped",
		Hint: "the root was wiped; do not go on to user space: reset the machine",
	}
	CodeSVN = rats.CodeInfo{
		Code: "keeper.derive.svn", Title: "keys of a newer version are not for this client",
		Hint: "ask for the client's own security version or an older one",
	}
	CodeClient = rats.CodeInfo{
		Code: "keeper.client.refused", Title: "the keeper was not told to accept this program",
		Hint: "the keeper's configuration names its clients by the SHA-256 of their executable",
	}
	CodeRequest = rats.CodeInfo{
		Code: "keeper.request.malformed", Title: "the keeper doesn't understand the request",
		Hint: "keeper and client must be of the same release",
	}
	CodeCommit = rats.CodeInfo{
		Code: "keeper.commit.refused", Title: "there is nothing this boot could commit",
		Hint: "boot what the newest set was planned for, then commit",
	}
	CodeRecovery = rats.CodeInfo{
		Code: "keeper.recovery.refused", Title: "the root can't be recovered like this",
		Hint: "`assay seal recover request` on the machine, `answer` where the recovery key is, `finish` on the machine, in one boot",
	}
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{
	CodeConfig, CodeState, CodeNoTPM, CodeNoRoot, CodeCreate, CodeLocked, CodeOtherTPM, CodeNoCounter, CodeNotAuthorised, CodeRevoked,
	CodeSubstituted, CodeSet, CodeSetSignature, CodeCap, CodeSVN, CodeClient, CodeRequest, CodeCommit, CodeRecovery,
}
