package tpm

import "github.com/assay-attest/assay/rats"

// PinForTest adds a maker to the built-in set until the test ends.
func PinForTest(t interface{ Cleanup(func()) }, vendor string, der []byte, virtual bool) {
	before, beforePins := vendorRoots, pins
	c, err := readCertificate(der)
	if err != nil {
		panic(err)
	}
	roots := append(VendorRoots(), VendorRoot{Vendor: vendor, Subject: c.Subject.String(), Digest: rats.SHA256(der), Virtual: virtual, Cert: c})
	vendorRoots = func() []VendorRoot { return roots }
	pins = append(pins[:len(pins):len(pins)], pin{vendor: vendor})
	t.Cleanup(func() { vendorRoots, pins = before, beforePins })
}
