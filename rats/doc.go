// Package rats holds the vocabulary of remote attestation (RFC 9334) that every part of Assay shares: Evidence and
// the Binding that makes it fresh, Claims and Facts that verification yields, the Result with its Reasons, and the
// Descriptor by which a format introduces itself.
//
// It guarantees that zero values never mean trust: the zero [Tier] is none, the zero [Result] is not trusted and an
// empty list permits nothing. It imports the standard library only, performs no input or output, reads no clock and no
// randomness, and builds for js/wasm and wasip1.
package rats
