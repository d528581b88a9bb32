package sdk

import "unsafe"

// The leaf functions, as the monitor has them.

//go:wasmimport assay size
func leafSize() uint32

//go:wasmimport assay get
func leafGet(offset uint32, p unsafe.Pointer, n uint32)

//go:wasmimport assay put
func leafPut(offset uint32, p unsafe.Pointer, n uint32)

//go:wasmimport assay ocall
func leafOCall(name unsafe.Pointer, nameLen uint32, in unsafe.Pointer, inLen uint32, out unsafe.Pointer, outLen uint32) int32

//go:wasmimport assay refusal
func leafRefusal(out unsafe.Pointer, n uint32) int32

//go:wasmimport assay report
func leafReport(target, data, out unsafe.Pointer) int32

//go:wasmimport assay verify
func leafVerify(report unsafe.Pointer) int32

//go:wasmimport assay key
func leafKey(request, out unsafe.Pointer) int32

//go:wasmimport assay quote
func leafQuote(data, out unsafe.Pointer, n uint32) int32

//go:wasmimport assay random
func leafRandom(p unsafe.Pointer, n uint32)

//go:wasmimport assay time
func leafTime() int64

//go:wasmimport assay hash
func leafHash(bits uint32, p unsafe.Pointer, n uint32, out unsafe.Pointer) int32

//go:wasmimport assay start
func leafStart(bits uint32) int32

//go:wasmimport assay write
func leafWrite(handle uint32, p unsafe.Pointer, n uint32) int32

//go:wasmimport assay sum
func leafSum(handle uint32, out unsafe.Pointer) int32

//go:wasmimport assay end
func leafEnd(handle uint32) int32

//go:wasmimport assay hkdf
func leafHKDF(secret unsafe.Pointer, secretLen uint32, salt unsafe.Pointer, saltLen uint32, info unsafe.Pointer, infoLen uint32, out unsafe.Pointer, outLen uint32) int32

//go:wasmimport assay seal
func leafSeal(key unsafe.Pointer, keyLen uint32, nonce, extra unsafe.Pointer, extraLen uint32, in unsafe.Pointer, inLen uint32, out unsafe.Pointer) int32

//go:wasmimport assay open
func leafOpen(key unsafe.Pointer, keyLen uint32, nonce, extra unsafe.Pointer, extraLen uint32, in unsafe.Pointer, inLen uint32, out unsafe.Pointer) int32

// pointer returns where b begins. The runtime doesn't move what it has allocated, and leaf functions keep no pointers.
func pointer(b []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(b)) }
