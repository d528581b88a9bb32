// Package keeper is the root keeper: the small process that holds a machine's root key for one boot and derives from it.
//
// The root comes from the TPM at the first start an operator asked for, is sealed so that only authorised early code on
// this TPM opens it (S10, S12), and is never shown to anybody: clients receive derivations for the security version they
// were measured to have (S11, S15). With launch class initrd everything happens before user space, and a constant is
// extended into every PCR of the seal on every path, so that nothing unseals again until the machine is reset (S10).
//
// It guarantees that a root which can't be opened is never silently replaced (R085), that a crash between any two steps
// loses nothing, and that keys of different launch and root classes never coincide. It does not protect the root from
// whoever controls the kernel it runs under, and a root of launch class userspace or of a software TPM not even from the
// machine's administrator: Status says so, and every derivation depends on it.
//
// It contains no WebAssembly and no network; a test holds its list of dependencies.
package keeper
