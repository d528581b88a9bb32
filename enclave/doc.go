// Package enclave makes and measures images of software enclaves, signs them, and derives their keys and reports: what
// SGX does in hardware, with the same structures and the same rules (Intel SDM volume 3D).
//
// It guarantees that equal modules and options give equal images and one MRENCLAVE, that the measurement is SGX's own
// (the SHA-256 of the stream of ECREATE, EADD and EEXTEND records), that a signature can be made offline and is checked
// before it counts, and that no key is derived for a security version above the caller's own, nor across modes, debug,
// launch or root classes. All of it is pure: randomness and time are arguments.
//
// It runs no enclave, keeps no root key, and wipes only what it says it wipes. Deriving a key proves nothing about who
// asks: that the identity is that of a running enclave is the monitor's business.
package enclave

import "github.com/assay-attest/assay/rats"

// What can be wrong with images, streams, signatures and requests.
var (
	CodeImage = code("enclave.image.malformed", rats.Executables, "the file is not an enclave image",
		"make it with `assay enclave build`")
	CodeImageSize = code("enclave.image.size", rats.Executables, "the module, its heap or its buffer is too large",
		"the limits are in docs/enclave-image.md")
	CodeModule = code("enclave.module.malformed", rats.Executables, "the module is not a WebAssembly module",
		"build it with GOOS=wasip1 GOARCH=wasm -buildmode=c-shared")
	CodeModuleImport = code("enclave.module.import", rats.Executables, "the module imports what an enclave isn't given",
		"an enclave may import functions of wasi_snapshot_preview1 and assay only")
	CodeModuleMemory = code("enclave.module.memory", rats.Executables, "the module's memory is not one of an enclave's",
		"it must have one memory, exported as memory, that fits into the heap")
	CodeStream = code("enclave.stream.malformed", rats.Executables, "the bytes are not an enclave's record stream",
		"give a stream of ECREATE, EADD and EEXTEND records")
	CodeStreamPage = code("enclave.stream.page", rats.Executables, "a page of the stream is one that the processor refuses",
		"pages are aligned, inside the enclave, added once, and of type REG or TCS")
	CodeSignOptions = code("enclave.sign.options", rats.Executables, "an enclave can't be signed with these options",
		"INIT must be among the attributes and the mask must cover INIT and DEBUG")
	CodeSignKey = code("enclave.sign.key", rats.Executables, "the key can't sign enclaves",
		"make one with `openssl genrsa -3 3072`")
	CodeSignData = code("enclave.sign.data", rats.Executables, "the bytes are not those that gendata made",
		"give the 256 bytes that `assay enclave gendata` wrote, unchanged")
	CodeInitHash = code("enclave.init.hash", rats.Executables, "the signature is for another enclave",
		"the image was built anew since; sign it again")
	CodeInitAttributes = code("enclave.init.attributes", rats.Executables, "the enclave's attributes are not those that were signed",
		"start it with the attributes of its SIGSTRUCT")
	CodeInitDebug = code("enclave.init.debug", rats.Executables, "the enclave would run open to a debugger",
		"sign it without DEBUG, or let the monitor allow debug enclaves")
	CodeKeyName = code("enclave.key.name", rats.Hardware, "the enclave may not have a key of this name",
		"ask for REPORT or SEAL; the others need the attribute PROVISIONKEY or EINITTOKEN_KEY")
	CodeKeyPolicy = code("enclave.key.policy", rats.Hardware, "the key policy binds the key to nobody, or has unknown bits",
		"name MRENCLAVE, MRSIGNER or both; the other bits need the attribute KSS")
	CodeKeySVN = code("enclave.key.svn", rats.Hardware, "the key is one of a newer version than the caller's",
		"update the enclave (or the monitor) that asks")
	CodeKeyPlatform = code("enclave.key.platform", rats.Hardware, "the key is one of another mode, launch or root class",
		"a secret opens only under the mode, launch and root class it was sealed under")
	CodeKeyReserved = code("enclave.key.reserved", rats.Hardware, "a reserved field of the key request is not zero",
		"clear the request before filling it in")
	CodeReportTarget = code("enclave.report.target", rats.Hardware, "the target info names no mode",
		"make the target info of the target's own report, with enclave.Target")
	CodeReportMAC = code("enclave.report.mac", rats.Hardware, "the report was not made for this enclave on this platform",
		"ask for a report with this enclave as its target; a report of another machine never verifies")
)

func code(c rats.Code, slot rats.Slot, title, hint string) rats.CodeInfo {
	return rats.CodeInfo{Code: c, Slot: slot, Title: title, Hint: hint}
}

// Codes are all reasons that this package gives.
var Codes = []rats.CodeInfo{
	CodeImage, CodeImageSize, CodeModule, CodeModuleImport, CodeModuleMemory, CodeStream, CodeStreamPage, CodeSignOptions,
	CodeSignKey, CodeSignData, CodeInitHash, CodeInitAttributes, CodeInitDebug, CodeKeyName, CodeKeyPolicy, CodeKeySVN,
	CodeKeyPlatform, CodeKeyReserved, CodeReportTarget, CodeReportMAC,
}
