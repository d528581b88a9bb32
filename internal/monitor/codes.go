package monitor

import "github.com/assay-attest/assay/rats"

// What a monitor refuses.
var (
	CodeState = code("monitor.enclave.state", rats.RuntimeOpaque, "the enclave is not in the state for this step",
		"the steps are create, add, init, enter, destroy, in this order")
	CodeCreate = code("monitor.enclave.resources", rats.RuntimeOpaque, "the enclave wants more than this monitor gives",
		"build it with a smaller heap and one TCS, or raise the monitor's budget")
	CodePage = code("monitor.page.refused", rats.Executables, "the page is not the next one of the enclave's layout",
		"add the pages of the image in order, at their offsets and with their flags")
	CodeSigner = code("monitor.launch.signer", rats.Executables, "the enclave's signer may not start enclaves here",
		"add the signer's MRSIGNER to the monitor's launch policy")
	CodeMode = code("monitor.launch.mode", rats.Executables, "the enclave's signer may not use this mode",
		"inline is for the operator's own signers; start it in mode process")
	CodeDebug = code("monitor.launch.debug", rats.Executables, "this enclave may not run open to a debugger",
		"sign it without DEBUG, or name its exact MRENCLAVE in the launch policy")
	CodeImport = code("monitor.module.import", rats.Executables, "the module imports a function the monitor doesn't have",
		"build it with the SDK of this version")
	CodeModule = code("monitor.module.invalid", rats.Executables, "the engine refuses the module",
		"build it with GOOS=wasip1 GOARCH=wasm -buildmode=c-shared")
	CodeEntry = code("monitor.call.entry", rats.RuntimeOpaque, "the enclave has no such entry point",
		"an entry point is exported, takes a length and returns one")
	CodeInput = code("monitor.call.size", rats.RuntimeOpaque, "the parameters don't fit into the marshalling buffer",
		"send less at a time, or build the enclave with a larger buffer")
	CodeBusy = code("monitor.call.busy", rats.RuntimeOpaque, "another call is inside the enclave",
		"an enclave takes one call at a time; start more of them for more calls")
	CodeReentry = code("monitor.call.reentered", rats.RuntimeOpaque, "the enclave was called from within its own OCALL",
		"let the OCALL return first")
	CodeTime = code("monitor.call.time", rats.RuntimeOpaque, "the call's time was up",
		"raise the budget of time, or give the enclave less to do; it was stopped and is gone")
	CodeCalls = code("monitor.call.ocalls", rats.RuntimeOpaque, "the call made more OCALLs than it may",
		"raise the budget of calls; the enclave was stopped and is gone")
	CodeReply = code("monitor.call.reply", rats.RuntimeOpaque, "the entry point returned a length outside the buffer",
		"the enclave is faulty; it was stopped and is gone")
	CodeTrap = code("monitor.enclave.trap", rats.RuntimeOpaque, "the enclave's code ended itself",
		"a panic or a fault inside; run it with DEBUG to see its words; start it anew")
	CodePoisoned = code("monitor.enclave.poisoned", rats.RuntimeOpaque, "the enclave was stopped before",
		"start it anew: after a fault it answers nothing any more")
	CodePointer = code("monitor.leaf.pointer", rats.RuntimeOpaque, "the enclave passed memory that is not its own",
		"the enclave is faulty; it was stopped and is gone")
	CodeBuffer = code("monitor.leaf.buffer", rats.RuntimeOpaque, "the enclave reached outside the marshalling buffer",
		"the enclave is faulty; it was stopped and is gone")
	CodeArgument = code("monitor.leaf.argument", rats.RuntimeOpaque, "the leaf function doesn't take this argument",
		"see docs/enclave-sdk.md for keys, nonces, algorithms and lengths")
	CodeCipher = code("monitor.leaf.authentication", rats.RuntimeOpaque, "the sealed bytes are not authentic",
		"they were changed, or sealed under another key")
	CodeHost = code("monitor.ocall.unknown", rats.RuntimeOpaque, "the application offers no such OCALL",
		"register it where the application starts the enclave")
	CodeResult = code("monitor.ocall.result", rats.RuntimeOpaque, "the OCALL returned a length outside its part of the buffer",
		"the application is faulty or hostile")
	CodeOCall = code("monitor.ocall.failed", rats.RuntimeOpaque, "the OCALL failed outside", "see the application's log")
	CodeQuote = code("monitor.quote.unavailable", rats.Hardware, "this monitor makes no quotes", "give it a TPM and an attestation key")
	CodeCache = code("monitor.cache.forged", rats.Executables, "an entry of the compilation cache is not this monitor's",
		"somebody changed it, or it is of another key, engine or processor; it was removed and the module compiled anew")
)

func code(c rats.Code, slot rats.Slot, title, hint string) rats.CodeInfo {
	return rats.CodeInfo{Code: c, Slot: slot, Title: title, Hint: hint}
}

// Codes are all reasons that this package gives.
var Codes = []rats.CodeInfo{
	CodeState, CodeCreate, CodePage, CodeSigner, CodeMode, CodeDebug, CodeImport, CodeModule, CodeEntry, CodeInput, CodeBusy,
	CodeReentry, CodeTime, CodeCalls, CodeReply, CodeTrap, CodePoisoned, CodePointer, CodeBuffer, CodeArgument, CodeCipher,
	CodeHost, CodeResult, CodeOCall, CodeQuote, CodeCache,
}
