package snp

import "fmt"

// Policy is a guest policy (ABI section 4.3): what the guest's owner permits the platform.
type Policy uint64

const (
	policySMT       Policy = 1 << 16
	policyReserved1 Policy = 1 << 17 // must be one
	policyMigrate   Policy = 1 << 18
	policyDebug     Policy = 1 << 19
	policyCXL       Policy = 1 << 21
)

// ABI returns the least firmware interface the guest accepts.
func (p Policy) ABI() (major, minor byte) { return byte(p >> 8), byte(p) }

// Debug says whether the host may read and write the guest's memory.
func (p Policy) Debug() bool { return p&policyDebug != 0 }

// flag is a named bit.
type flag struct {
	name string
	bit  uint
}

// What a guest policy permits: each lowers the guest's protection.
var policyPermits = []flag{{"smt", 16}, {"migration", 18}, {"debug", 19}, {"cxl", 21}}

// What a guest policy demands: each raises the guest's protection.
var policyDemands = []flag{
	{"single-socket", 20}, {"mem-aes-256-xts", 22}, {"rapl-disabled", 23}, {"ciphertext-hiding", 24}, {"page-swap-disabled", 25},
}

// What a platform says of itself (PLATFORM_INFO).
var platformFlags = []flag{
	{"smt", 0}, {"tsme", 1}, {"ecc", 2}, {"rapl-disabled", 3}, {"ciphertext-hiding", 4}, {"alias-check-complete", 5}, {"tio", 7},
}

const policyKnown = 25 // the highest bit of a guest policy that has a meaning

// namesOf returns the names of the flags that are set.
func namesOf(flags []flag, bits uint64) []string {
	names := []string{}
	for _, f := range flags {
		if bits>>f.bit&1 != 0 {
			names = append(names, f.name)
		}
	}
	return names
}

func (p Policy) String() string { return fmt.Sprintf("0x%x", uint64(p)) }
