package enclave

import (
	"crypto/aes"
	"crypto/subtle"
)

// cmac returns the AES-128-CMAC of a message (RFC 4493), as EREPORT computes it.
func cmac(key [16]byte, message []byte) (mac [16]byte) {
	block, err := aes.NewCipher(key[:])
	if err != nil { // the key has 16 bytes
		panic(err)
	}
	var k1, k2 [16]byte
	block.Encrypt(k1[:], k1[:])
	k1 = double(k1)
	k2 = double(k1)
	for len(message) > aes.BlockSize {
		subtle.XORBytes(mac[:], mac[:], message[:aes.BlockSize])
		block.Encrypt(mac[:], mac[:])
		message = message[aes.BlockSize:]
	}
	last := k1
	if len(message) < aes.BlockSize {
		last = k2
		last[len(message)] ^= 0x80
	}
	subtle.XORBytes(last[:], last[:], message)
	subtle.XORBytes(mac[:], mac[:], last[:])
	block.Encrypt(mac[:], mac[:])
	return mac
}

// double multiplies by x in the field of CMAC's subkeys.
func double(b [16]byte) (out [16]byte) {
	var carry byte
	for i := 15; i >= 0; i-- {
		out[i], carry = b[i]<<1|carry, b[i]>>7
	}
	out[15] ^= 0x87 & -carry
	return out
}
