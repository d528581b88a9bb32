package keyring

import "github.com/assay-attest/assay/rats"

// The codes of this package. Slot is a formality here: keys judge nobody.
var (
	CodeExists = rats.CodeInfo{
		Code: "keyring.dir.exists", Title: "keys are there already",
		Hint: "keys are never overwritten; use them, or move the directory away and know that every node must join again",
		Slot: rats.Configuration,
	}
	CodeDir = rats.CodeInfo{
		Code: "keyring.dir.missing", Title: "there is no key directory",
		Hint: "make the keys first, or correct the path; a link in the directory's place is not followed",
		Slot: rats.Configuration,
	}
	CodePermissions = rats.CodeInfo{
		Code: "keyring.file.permissions", Title: "others than the owner may reach the keys",
		Hint: "chmod 0700 the directory and 0600 its files, and consider the keys known to whoever could read them",
		Slot: rats.Configuration,
	}
	CodeFileMissing = rats.CodeInfo{
		Code: "keyring.file.missing", Title: "a key file is missing",
		Hint: "restore the whole directory from its backup; keys are not made one by one",
		Slot: rats.Configuration,
	}
	CodeFile = rats.CodeInfo{
		Code: "keyring.file.malformed", Title: "a key file doesn't hold what its name says",
		Hint: "restore the whole directory from its backup",
		Slot: rats.Configuration,
	}
	CodeShared = rats.CodeInfo{
		Code: "keyring.key.shared", Title: "two uses share one key",
		Hint: "restore the whole directory from its backup; every use needs a key of its own",
		Slot: rats.Configuration,
	}
	CodeToken = rats.CodeInfo{
		Code: "keyring.token.refused", Title: "the token was not made here, was changed, or is for something else",
		Hint: "start over; a token older than two rotations of its key is refused too",
		Slot: rats.InstanceIdentity,
	}
	CodeSecretForm = rats.CodeInfo{
		Code: "keyring.secret.malformed", Title: "the stored secret is cut off or too long",
		Hint: "put the secret again; if the database was restored, check the backup",
		Slot: rats.StorageOpaque,
	}
	CodeSecretVersion = rats.CodeInfo{
		Code: "keyring.secret.version", Title: "the stored secret has a form this program doesn't know",
		Hint: "run the program version that stored it, or put the secret again",
		Slot: rats.StorageOpaque,
	}
	CodeSecretKey = rats.CodeInfo{
		Code: "keyring.secret.key", Title: "the stored secret was encrypted under a key-encryption key that is not here",
		Hint: "restore the key directory that belongs to this database",
		Slot: rats.StorageOpaque,
	}
	CodeSecret = rats.CodeInfo{
		Code: "keyring.secret.refused", Title: "the stored secret was changed or belongs somewhere else",
		Hint: "put the secret again, and find out who wrote to the database",
		Slot: rats.StorageOpaque,
	}
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{
	CodeExists, CodeDir, CodePermissions, CodeFileMissing, CodeFile, CodeShared,
	CodeToken, CodeSecretForm, CodeSecretVersion, CodeSecretKey, CodeSecret,
}
