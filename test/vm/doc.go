// Package vm boots real virtual machines for tests: QEMU in software emulation, SeaBIOS or OVMF, a Debian kernel with TPM
// and IMA built in, a software TPM with endorsement certificates of a CA of its own, and this project's own agent as the one
// program of the guest that matters.
//
// It guarantees that firmware, boot loader and kernel measure what they really load: nothing in the event log or the
// PCRs is made up. A guest reaches one address, 10.0.2.100:8443, which is the server a test names, and nothing else. Every file
// lies in the directory the test gives, and every process ends with the machine.
//
// It doesn't guarantee isolation (the host reads the guest's memory and the TPM's state), it doesn't use KVM even where
// there is one, and it installs nothing: Find says what is missing, and tests are skipped with that reason.
// docs/vm.md tells how the parts fit, what is measured where, and how long boots take.
package vm
