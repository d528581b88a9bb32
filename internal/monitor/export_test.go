package monitor

import "bytes"

// MemoryHolds says whether an inline enclave's memory or its marshalling buffer holds b.
func MemoryHolds(e *Instance, b []byte) bool {
	return bytes.Contains(e.run.(*inline).guest.memory.Reallocate(uint64(e.run.(*inline).guest.mem.Size())), b) || bytes.Contains(e.buffer, b)
}
