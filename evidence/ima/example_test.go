package ima_test

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/assay-attest/assay/evidence/ima"
	"github.com/assay-attest/assay/rats"
)

// A list as the kernel prints it is verified against a given PCR 10; the entry after the quote is named, not counted.
func Example() {
	list := []byte("10 919d666632e75b1895ee4a6653b8e6c20842bc66 ima-ng sha256:fec395eacfbd4d9bfd3ddce68ccf0792159494ff7aae89c556f7f2796046f871 boot_aggregate\n" +
		"10 7936eb315fb4e74b99e7d461bc5c96049e1ee092 ima-ng sha1:bc026ae66d81713e4e852465e980784dc96651f8 /usr/lib/systemd/systemd\n")
	params, err := json.Marshal(ima.Params{PCRs: map[string]map[string]string{
		"sha256": {"10": "c7b7b6cd2a56c8cf9e46cf2f7773b455053e4d9af2999cd5e81004e16329666d"},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	v, err := ima.New().Verify(context.Background(),
		rats.Evidence{Format: ima.Format, MediaType: ima.MediaTypeASCII, Body: list}, rats.Inputs{Params: params})
	if err != nil {
		fmt.Println(err)
		return
	}
	claims := v.Claims.(*ima.Claims)
	for e := range claims.All() {
		fmt.Println(e.Text(), e.Sum())
	}
	fmt.Println("unquoted:", claims.Tail)
	// Output:
	// boot_aggregate sha256:fec395eacfbd4d9bfd3ddce68ccf0792159494ff7aae89c556f7f2796046f871
	// unquoted: [/usr/lib/systemd/systemd]
}
