//go:build !wasip1

package sdk

import (
	"time"

	"github.com/assay-attest/assay/enclave/sdk/boundary"
)

// Outside an enclave there are no leaf functions: what can refuse refuses, and there is neither randomness nor time.

type nowhere struct{}

func pointer([]byte) nowhere { return nowhere{} }

func leafSize() uint32                { return 0 }
func leafGet(uint32, nowhere, uint32) {}
func leafPut(uint32, nowhere, uint32) {}
func leafOCall(_ nowhere, _ uint32, _ nowhere, _ uint32, _ nowhere, _ uint32) int32 {
	return boundary.Refused
}
func leafRefusal(nowhere, uint32) int32               { return 0 }
func leafReport(_, _, _ nowhere) int32                { return boundary.Refused }
func leafVerify(nowhere) int32                        { return boundary.Refused }
func leafKey(_, _ nowhere) int32                      { return boundary.Refused }
func leafQuote(_, _ nowhere, _ uint32) int32          { return boundary.Refused }
func leafRandom(nowhere, uint32)                      { panic("no randomness outside an enclave") }
func leafTime() int64                                 { return time.Time{}.UnixNano() }
func leafHash(uint32, nowhere, uint32, nowhere) int32 { return boundary.Refused }
func leafStart(uint32) int32                          { return boundary.Refused }
func leafWrite(uint32, nowhere, uint32) int32         { return boundary.Refused }
func leafSum(uint32, nowhere) int32                   { return boundary.Refused }
func leafEnd(uint32) int32                            { return boundary.Refused }
func leafHKDF(_ nowhere, _ uint32, _ nowhere, _ uint32, _ nowhere, _ uint32, _ nowhere, _ uint32) int32 {
	return boundary.Refused
}

func leafSeal(_ nowhere, _ uint32, _, _ nowhere, _ uint32, _ nowhere, _ uint32, _ nowhere) int32 {
	return boundary.Refused
}

func leafOpen(_ nowhere, _ uint32, _, _ nowhere, _ uint32, _ nowhere, _ uint32, _ nowhere) int32 {
	return boundary.Refused
}
