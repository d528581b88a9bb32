// Package endorse gets, keeps and hands out collateral: what the makers of hardware publish about their machines
// (certificates, revocation lists, TCB information), from Intel's PCS or a caching PCCS and from AMD's KDS.
//
// A [Cache] fetches a document once however many ask for it, keeps it on disk, backs off from a service that fails,
// remembers that a document doesn't exist, and goes on using a document that is still valid while its service can't be
// reached. Nothing is fetched from a service that isn't configured, nor from a host that isn't allowed. A [Bundle] is
// all collateral in one signed file, for machines without network and for auditors.
//
// What it hands out is hearsay: it checks that a document is of the kind that was asked for, that the issuer chain beside
// it signed it, and where roots are configured that the chain ends there; but trust is the verifiers' decision, who
// check everything again under their own roots. What evidence asks to be fetched is decided before the evidence is
// verified, so a forger can make the cache ask a vendor for nonsense, within the limits of [Config].
//
// Clock, randomness and transport are given by the caller.
package endorse
