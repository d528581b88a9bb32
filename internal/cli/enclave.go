package cli

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
)

func (a *app) enclaveCmd() *cobra.Command {
	return group("enclave VERB", "build, measure, sign and run software enclaves", `An enclave is a WebAssembly module (wasip1) in an image. Its identity is its MRENCLAVE, computed of the image by the rules of
SGX, and who signed it. A release is signed in two steps, so that the key can stay offline or in an HSM: gendata, catsig.`,
		a.enclaveBuildCmd(), a.enclaveMeasureCmd(), a.enclaveInspectCmd(), a.enclaveSignCmd(), a.enclaveGenDataCmd(), a.enclaveCatSigCmd(), a.enclaveMonitorCmd())
}

func (a *app) enclaveBuildCmd() *cobra.Command {
	var o enclave.Options
	var out string
	var heap, buffer int64
	var config bool
	cmd := &cobra.Command{
		Use:   "build MODULE",
		Short: "pack a WebAssembly module into an enclave image",
		Long: `Packs a module into an image. Module, heap, buffer and number of threads are measured; product and version are only what
signing starts from. Two clean builds of one module give one MRENCLAVE; build it so that its bytes don't depend on where:

  GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -trimpath -buildvcs=false -ldflags=-buildid= -o vault.wasm .`,
		Example: "  assay enclave build vault.wasm --out vault.enclave --product 7 --svn 3",
		Args:    exactly("MODULE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return usage(cmd, "say --out FILE")
			}
			if heap < 0 || buffer < 0 || buffer > enclave.MaxBuffer {
				return usage(cmd, "a size is out of range")
			}
			o.Heap, o.Buffer = uint64(heap), uint32(buffer)
			if config {
				o.Attributes = abi.Attributes{Flags: abi.FlagInit | abi.FlagMode64 | abi.FlagKSS, XFRM: enclave.DefaultXFRM}
			}
			module, err := a.readPublic(args[0], enclave.MaxModule)
			if err != nil {
				return err
			}
			image, err := enclave.New(module, o)
			if err != nil {
				return err
			}
			if err := writePublic(out, image.Encode()); err != nil {
				return err
			}
			return a.showMeasure(imageMeasure(image))
		},
	}
	f := cmd.Flags()
	f.StringVar(&out, "out", "", "write the image to this file")
	f.Int64Var(&heap, "heap", enclave.DefaultHeap, "most bytes of memory, a multiple of 65536")
	f.Int64Var(&buffer, "buffer", enclave.DefaultBuffer, "bytes of the marshalling buffer, a multiple of 4096")
	f.BoolVar(&config, "launch-config", false, "whoever starts it may give it a launch configuration, which its reports show (attribute KSS)")
	f.Uint16Var(&o.TCS, "threads", 1, "calls that may be inside at a time; a Go module can have one")
	f.Uint16Var(&o.ProductID, "product", 0, "product id that signing starts from")
	f.Uint16Var(&o.SVN, "svn", 0, "security version that signing starts from")
	return cmd
}

// measured is the answer of build and measure.
type measured struct {
	Kind       string `json:"kind"` // image, stream
	MRENCLAVE  string `json:"mrenclave"`
	Size       uint64 `json:"size"` // of the address range, bytes
	Pages      int    `json:"pages"`
	TCS        int    `json:"tcs"`
	Heap       uint64 `json:"heap,omitempty"`
	Buffer     uint32 `json:"buffer,omitempty"`
	Unmeasured int64  `json:"unmeasured"` // bytes of content that anything may stand in
}

func imageMeasure(i *enclave.Image) measured {
	l := i.Layout()
	sum := i.Measure()
	return measured{
		Kind: "image", MRENCLAVE: "sha256:" + hex.EncodeToString(sum[:]), Size: l.Size, Pages: int(1 + l.Module.Pages + l.TCS.Pages + l.Heap.Pages),
		TCS: int(l.TCS.Pages), Heap: i.Options.Heap, Buffer: i.Options.Buffer,
	}
}

func (a *app) showMeasure(m measured) error {
	return a.show(m, func(w io.Writer) {
		row(w, "MRENCLAVE", m.MRENCLAVE)
		row(w, "size", fmt.Sprintf("%d bytes, %d pages, %d threads", m.Size, m.Pages, m.TCS))
		if m.Kind == "image" {
			row(w, "heap", fmt.Sprintf("%d bytes", m.Heap))
			row(w, "buffer", fmt.Sprintf("%d bytes", m.Buffer))
		}
		if m.Unmeasured > 0 {
			row(w, "warning", fmt.Sprintf("%d bytes are loaded and not measured", m.Unmeasured))
		}
	})
}

func (a *app) enclaveMeasureCmd() *cobra.Command {
	var stream string
	cmd := &cobra.Command{
		Use:   "measure FILE",
		Short: "compute the MRENCLAVE of an image, or of a record stream (.sgxs) of a real SGX enclave",
		Example: "  assay enclave measure vault.enclave\n" +
			"  assay enclave measure app.sgxs -o json\n" +
			"  assay enclave measure vault.enclave --stream vault.sgxs && sha256sum vault.sgxs",
		Args: exactly("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := a.readPublic(args[0], 1<<30)
			if err != nil {
				return err
			}
			if !enclave.IsImage(b) {
				s, err := enclave.MeasureStream(bytes.NewReader(b))
				if err != nil {
					return err
				}
				return a.showMeasure(measured{
					Kind: "stream", MRENCLAVE: "sha256:" + hex.EncodeToString(s.MRENCLAVE[:]), Size: s.Size, Pages: s.Pages, TCS: s.TCS, Unmeasured: s.Unmeasured,
				})
			}
			image, err := enclave.Parse(b)
			if err != nil {
				return err
			}
			if stream != "" {
				var out bytes.Buffer
				if err := image.WriteStream(&out); err != nil {
					return err
				}
				if err := writePublic(stream, out.Bytes()); err != nil {
					return err
				}
			}
			return a.showMeasure(imageMeasure(image))
		},
	}
	cmd.Flags().StringVar(&stream, "stream", "", "also write the image's record stream to this file")
	return cmd
}

// sigstruct is the answer of sign, catsig and inspect.
type sigstruct struct {
	MRENCLAVE  string `json:"mrenclave"`
	MRSIGNER   string `json:"mrsigner,omitempty"`
	Test       bool   `json:"test"` // signed with the published test key: anyone can sign so
	ProductID  uint16 `json:"product_id"`
	SVN        uint16 `json:"svn"`
	Date       string `json:"date,omitempty"`
	Debug      bool   `json:"debug"`
	Attributes string `json:"attributes"`
	Mask       string `json:"attributes_mask,omitempty"`
	XFRM       string `json:"xfrm"`
	MiscSelect uint32 `json:"misc_select"`
	Valid      bool   `json:"valid"` // signature, Q1 and Q2 were verified
	Image      *bool  `json:"image,omitempty"`
}

func sigstructOf(s abi.Sigstruct) sigstruct {
	signer := s.MRSIGNER()
	return sigstruct{
		MRENCLAVE: "sha256:" + hex.EncodeToString(s.EnclaveHash[:]), MRSIGNER: "sha256:" + hex.EncodeToString(signer[:]),
		Test: enclave.TestSigned(signer), ProductID: s.ISVProdID, SVN: s.ISVSVN, Date: s.DateText(), Debug: s.Attributes.Debug(),
		Attributes: fmt.Sprintf("%016x", s.Attributes.Flags), Mask: fmt.Sprintf("%016x", s.AttributesMask.Flags),
		XFRM: fmt.Sprintf("%016x", s.Attributes.XFRM), MiscSelect: s.MiscSelect, Valid: true,
	}
}

func (a *app) showSigstruct(c sigstruct) error {
	return a.show(c, func(w io.Writer) {
		row(w, "MRENCLAVE", c.MRENCLAVE)
		signer := c.MRSIGNER
		if c.Test {
			signer += "  (test: anyone can sign so)"
		}
		if signer != "" {
			row(w, "MRSIGNER", signer)
			row(w, "signature", "valid, of "+c.Date)
		}
		row(w, "product", strconv.Itoa(int(c.ProductID)))
		row(w, "version", strconv.Itoa(int(c.SVN)))
		row(w, "attributes", c.Attributes+" mask "+c.Mask)
		if c.Debug {
			row(w, "warning", "DEBUG: a debugger can read this enclave")
		}
		if c.Image != nil {
			row(w, "of this image", strconv.FormatBool(*c.Image))
		}
	})
}

func (a *app) enclaveInspectCmd() *cobra.Command {
	var of string
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "show an image, or verify and show a SIGSTRUCT",
		Example: "  assay enclave inspect vault.enclave\n" +
			"  assay enclave inspect vault.sig --image vault.enclave -o json",
		Args: exactly("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := a.readPublic(args[0], enclave.MaxModule+4096)
			if err != nil {
				return err
			}
			if enclave.IsImage(b) {
				image, err := enclave.Parse(b)
				if err != nil {
					return err
				}
				return a.showMeasure(imageMeasure(image))
			}
			s, err := abi.ParseSigstruct(b)
			if err != nil {
				return err
			}
			if err := s.Verify(); err != nil {
				return err
			}
			c := sigstructOf(s)
			if of != "" {
				image, err := a.readImage(of)
				if err != nil {
					return err
				}
				same := image.Measure() == s.EnclaveHash
				c.Image = &same
			}
			return a.showSigstruct(c)
		},
	}
	cmd.Flags().StringVar(&of, "image", "", "say whether the SIGSTRUCT is of this image")
	return cmd
}

// signing is what sign and gendata are asked for.
type signing struct {
	product, svn int
	debug        bool
	date, out    string
}

func (o *signing) flags(cmd *cobra.Command, what string) {
	f := cmd.Flags()
	f.IntVar(&o.product, "product", -1, "product id; default: what the image was built with")
	f.IntVar(&o.svn, "svn", -1, "security version; default: what the image was built with")
	f.BoolVar(&o.debug, "insecure-debug", false, "let a debugger read and change the enclave")
	f.StringVar(&o.date, "date", "", "day of the signature as yyyy-mm-dd; default: today")
	f.StringVar(&o.out, "out", "", "write "+what+" to this file")
}

// options returns the image's measurement and what to sign it with.
func (a *app) signOptions(cmd *cobra.Command, file string, o signing) (mrenclave [32]byte, s enclave.SignOptions, err error) {
	if o.out == "" {
		return mrenclave, s, usage(cmd, "say --out FILE")
	}
	image, err := a.readImage(file)
	if err != nil {
		return mrenclave, s, err
	}
	s = image.Defaults()
	for _, n := range []struct {
		value int
		to    *uint16
	}{{o.product, &s.ProductID}, {o.svn, &s.SVN}} {
		if n.value > 65535 {
			return mrenclave, s, usage(cmd, "product and svn go up to 65535")
		}
		if n.value >= 0 {
			*n.to = uint16(n.value)
		}
	}
	if o.debug {
		s.Attributes.Flags |= abi.FlagDebug
	}
	s.Date = a.env.Now()
	if o.date != "" {
		if s.Date, err = time.Parse(time.DateOnly, o.date); err != nil {
			return mrenclave, s, usage(cmd, "a date is written as yyyy-mm-dd")
		}
	}
	return image.Measure(), s, nil
}

func (a *app) readImage(file string) (*enclave.Image, error) {
	b, err := a.readPublic(file, enclave.MaxModule+4096)
	if err != nil {
		return nil, err
	}
	return enclave.Parse(b)
}

// readPublic reads a file that is no secret.
func (a *app) readPublic(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, CodeFile.Bad(file, "a readable file", cause(err))
	}
	defer f.Close()
	return readBounded(file, f, limit)
}

func writePublic(file string, b []byte) error {
	if err := os.WriteFile(file, b, 0o644); err != nil {
		return CodeFile.Bad(file, "a file that can be written", cause(err))
	}
	return nil
}
