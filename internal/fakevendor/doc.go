// Package fakevendor is the makers of hardware, none of whom exists: an Intel with root, platform and processor CA, TCB
// signer, revocation lists and a provisioning certification service (PCS); an AMD with root, signers of chip and leased
// keys and a key distribution service (KDS); and makers of TPMs. Their machines make fresh, valid evidence of every kind,
// with exactly one thing wrong where a test asks for it.
//
// It guarantees the shape and the cryptography of the real thing, byte layouts and names included, and shares no code with
// the verifiers it tests but the structures of enclave/abi. It proves nothing about real hardware: its roots are in memory,
// and a verifier accepts them only where a test hands them in as anchors.
//
// It is for tests and demonstrations alone, and panics where randomness fails.
package fakevendor
