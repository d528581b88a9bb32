// Package dcap verifies what SGX and TDX quotes have in common: Intel's Data Center Attestation Primitives. It parses
// quotes of version 3, 4 and 5, checks their chain of signatures up to Intel's root, and computes the status of the
// platform from Intel's signed collateral (TCB info, quoting enclave identities, revocation lists).
//
// A verified quote guarantees that a quoting enclave, certified by a platform certificate (PCK) under the pinned root,
// signed exactly the body of the quote. It does not say that the platform is up to date (the [TCB] says so, where
// collateral was at hand), that the body is acceptable (the formats' rules say so), nor that the quoting enclave is
// Intel's unless its identity was at hand.
//
// Every function is pure: clock, trust anchors and collateral are arguments. [Verifier] holds nothing but a bounded
// memory of signatures that were verified under the built-in root; validity times and revocation are checked anew on
// each use.
//
// Specifications: Intel SGX and TDX DCAP Quote Generation Library (appendix A), Intel SGX PCK Certificate and CRL
// Profile, Intel SGX and TDX Provisioning Certification Service API v4.
package dcap
