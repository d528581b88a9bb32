package monitor_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/rats"
)

// The refusal matrix of starting an enclave: a good image and SIGSTRUCT with one thing changed.
//
// R105: an enclave with DEBUG starts only if the policy names its exact measurement.
func TestEnclavesThatMayNotStartAreRefused(t *testing.T) {
	good, sig := image(t, small, nil)
	other, err := otherKey()
	if err != nil {
		t.Fatal(err)
	}
	i, err := enclave.Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	debug := func(o *enclave.SignOptions) { o.Attributes.Flags |= abi.FlagDebug }
	with := func(o enclave.Options) []byte {
		file, _ := image(t, o, nil)
		return file
	}
	for what, c := range map[string]struct {
		file, sig []byte
		o         monitor.Options
		change    func(*monitor.Config)
		want      rats.CodeInfo
	}{
		"SIGSTRUCT of another enclave":  {file: with(enclave.Options{Heap: 32 << 20}), sig: sig, want: enclave.CodeInitHash},
		"module with a changed byte":    {file: flip(good, len(good)-1), sig: sig, want: enclave.CodeImage},
		"exponent 65537":                {file: good, sig: exponent(sig), want: abi.CodeSigstructKey},
		"Q1 wrong":                      {file: good, sig: flip(sig, 1040), want: abi.CodeSigstructQuotients},
		"Q2 wrong":                      {file: good, sig: flip(sig, 1424), want: abi.CodeSigstructQuotients},
		"signature wrong":               {file: good, sig: flip(sig, 516), want: abi.CodeSigstructSignature},
		"SIGSTRUCT cut short":           {file: good, sig: sig[:1807], want: abi.CodeLength},
		"attributes not those signed":   {file: good, sig: sig, o: monitor.Options{Start: enclave.Start{Attributes: abi.Attributes{Flags: abi.FlagInit, XFRM: 3}}}, want: enclave.CodeInitAttributes},
		"re-signed by a stranger":       {file: good, sig: sign(t, i, other, nil), want: monitor.CodeSigner},
		"no policy":                     {file: good, sig: sig, change: func(c *monitor.Config) { c.Policy = monitor.Policy{} }, want: monitor.CodeSigner},
		"inline by a foreign signer":    {file: good, sig: sig, change: func(c *monitor.Config) { c.Policy = monitor.Policy{Foreign: [][32]byte{abi.TestMRSIGNER}} }, want: monitor.CodeMode},
		"unknown mode":                  {file: good, sig: sig, o: monitor.Options{Mode: 9}, want: monitor.CodeMode},
		"debug where none may":          {file: good, sig: sign(t, i, testKey(t), debug), want: monitor.CodeDebug},
		"debug where another may":       {file: good, sig: sign(t, i, testKey(t), debug), change: func(c *monitor.Config) { c.Policy.Debug = [][32]byte{{1}} }, want: monitor.CodeDebug},
		"debug asked of a release":      {file: good, sig: sig, o: monitor.Options{Start: enclave.Start{Attributes: abi.Attributes{Flags: abi.FlagInit | abi.FlagDebug | abi.FlagMode64, XFRM: 3}}}, want: enclave.CodeInitAttributes},
		"heap above the budget":         {file: with(enclave.Options{Heap: 2 << 30}), sig: sig, want: monitor.CodeCreate},
		"two threads":                   {file: with(enclave.Options{TCS: 2}), sig: sig, want: monitor.CodeCreate},
		"a function nobody has":         {file: handmade(t, "assay", "telnet", ""), want: monitor.CodeImport},
		"a function of another type":    {file: handmade(t, "assay", "size", "i"), want: monitor.CodeImport},
		"code that isn't valid":         {file: handmade(t, "assay", "size", "", 0xff), want: monitor.CodeModule},
		"code that runs by itself":      {file: selfStarting(t), want: monitor.CodeModule},
		"an initialisation that traps":  {file: trapping(t), want: monitor.CodeTrap},
		"no time to start":              {file: good, sig: sig, change: func(c *monitor.Config) { c.Budget.Time = time.Nanosecond }, want: monitor.CodeTime},
		"randomness that ends":          {file: good, sig: sig, change: func(c *monitor.Config) { c.Rand = &short{n: 40} }, want: monitor.CodeTrap},
		"memory that no machine has":    {file: with(enclave.Options{Heap: 4 << 30}), sig: sig, want: monitor.CodeCreate},
		"heap too small for the module": {file: good, sig: sig, change: func(c *monitor.Config) { c.Budget.Memory = 1 << 16 }, want: monitor.CodeCreate},
	} {
		if c.sig == nil {
			p, err := enclave.Parse(c.file)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			c.sig = sign(t, p, testKey(t), nil)
		}
		e, err := newMonitor(t, c.change).Load(bg, c.file, c.sig, c.o)
		wantCode(t, what, err, c.want)
		if err == nil {
			_ = e.Destroy()
		}
	}
}

// short is randomness that ends.
type short struct{ n int }

func (s *short) Read(b []byte) (int, error) {
	if s.n -= len(b); s.n < 0 {
		return 0, errors.New("no randomness")
	}
	return len(b), nil
}

// exponent sets the exponent of a SIGSTRUCT to 65537.
func exponent(sig []byte) []byte {
	b := bytes.Clone(sig)
	binary.LittleEndian.PutUint32(b[512:], 65537)
	return b
}

func section(id byte, content ...byte) []byte {
	return append([]byte{id, byte(len(content))}, content...)
}

// module puts a module together whose function types are () → (), (i32) → (), (i32) → i32 and (i32, i32) → ().
func module(t testing.TB, sections ...[]byte) []byte {
	t.Helper()
	b := []byte("\x00asm\x01\x00\x00\x00")
	b = append(b, section(1, 4, 0x60, 0, 0, 0x60, 1, 0x7f, 0, 0x60, 1, 0x7f, 1, 0x7f, 0x60, 2, 0x7f, 0x7f, 0)...)
	for _, s := range sections {
		b = append(b, s...)
	}
	i, err := enclave.New(b, enclave.Options{Heap: 1 << 20, Buffer: 4096})
	if err != nil {
		t.Fatal(err)
	}
	return i.Encode()
}

var (
	oneMemory    = section(5, 1, 0, 1)
	exportMemory = section(7, append([]byte{1, 6}, "memory\x02\x00"...)...)
)

// handmade is a module that imports one function, of type () → (), (i32) → () or (i32, i32) → (), and, if it is given, has code.
func handmade(t testing.TB, from, name, params string, code ...byte) []byte {
	imports := append([]byte{1, byte(len(from))}, from...)
	imports = append(append(imports, byte(len(name))), name...)
	imports = append(imports, 0, byte([]int{0, 1, 3}[len(params)]))
	sections := [][]byte{section(2, imports...)}
	if code == nil {
		return module(t, append(sections, oneMemory, exportMemory)...)
	}
	body := append([]byte{byte(len(code) + 2), 0}, append(code, 0x0b)...)
	return module(t, append(sections, section(3, 1, 0), oneMemory, exportMemory, section(10, append([]byte{1}, body...)...))...)
}

// selfStarting has a start section, whose function calls a leaf function.
func selfStarting(t testing.TB) []byte {
	imports := append([]byte{1, 22}, "wasi_snapshot_preview1"...)
	imports = append(append(imports, 9), "proc_exit\x00\x01"...)
	body := []byte{1, 6, 0, 0x41, 0, 0x10, 0, 0x0b}
	return module(t, section(2, imports...), section(3, 1, 0), oneMemory, exportMemory, section(8, 1), section(10, body...))
}

// trapping has an initialisation that is unreachable.
func trapping(t testing.TB) []byte {
	exports := append([]byte{2, 6}, "memory\x02\x00"...)
	exports = append(append(exports, byte(len(boundary.Initialize))), boundary.Initialize...)
	exports = append(exports, 0, 0)
	return module(t, section(3, 1, 0), oneMemory, section(7, exports...), section(10, 1, 3, 0, 0x00, 0x0b))
}

func TestPagesThatAreNotTheImagesAreRefused(t *testing.T) {
	file, sig := image(t, small, nil)
	i, err := enclave.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	m, l := newMonitor(t, nil), i.Layout()
	header := make([]byte, enclave.PageSize)
	copy(header, file[:128])
	clear(header[30:34])
	clear(header[36:56])
	changed := func(at int) []byte {
		b := bytes.Clone(header)
		b[at] ^= 0x40
		return b
	}
	const rw, r = enclave.PageREG | enclave.PageR | enclave.PageW, uint64(enclave.PageREG | enclave.PageR)
	page := make([]byte, enclave.PageSize)
	type add struct {
		offset, flags uint64
		content       []byte
		count         uint64
	}
	whole := i.Module[:len(i.Module)/enclave.PageSize*enclave.PageSize]
	first := add{0, r, header, 0}
	for what, c := range map[string]struct {
		adds []add
		want rats.CodeInfo
	}{
		"configuration writable":        {[]add{{0, rw, header, 0}}, monitor.CodePage},
		"configuration of two pages":    {[]add{{0, r, append(bytes.Clone(header), page...), 0}}, monitor.CodePage},
		"configuration not padded":      {[]add{{0, r, changed(1000), 0}}, monitor.CodePage},
		"configuration missing":         {[]add{{enclave.PageSize, r, page, 0}}, monitor.CodePage},
		"configuration without content": {[]add{{0, r, nil, 1}}, monitor.CodePage},
		"module writable":               {[]add{first, {l.Module.Offset, rw, page, 0}}, monitor.CodePage},
		"module executable":             {[]add{first, {l.Module.Offset, r | enclave.PageX, page, 0}}, monitor.CodePage},
		"module without content":        {[]add{first, {l.Module.Offset, r, nil, 1}}, monitor.CodePage},
		"a page left out":               {[]add{first, {l.Module.Offset + enclave.PageSize, r, page, 0}}, monitor.CodePage},
		"a page twice":                  {[]add{first, {l.Module.Offset, r, page, 0}, {l.Module.Offset, r, page, 0}}, monitor.CodePage},
		"half a page":                   {[]add{first, {l.Module.Offset, r, page[:100], 0}}, monitor.CodePage},
		"no page":                       {[]add{first, {l.Module.Offset, r, nil, 0}}, monitor.CodePage},
		"module longer than it says":    {[]add{first, {l.Module.Offset, r, make([]byte, (l.Module.Pages+1)*enclave.PageSize), 0}}, monitor.CodePage},
		"module not padded":             {[]add{first, {l.Module.Offset, r, whole, 0}, {l.Module.Offset + uint64(len(whole)), r, bytes.Repeat([]byte{1}, enclave.PageSize), 0}}, monitor.CodePage},
	} {
		e, err := m.Create(monitor.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for n, a := range c.adds {
			err = e.Add(a.offset, a.flags, a.content, a.count)
			if n < len(c.adds)-1 && err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		wantCode(t, what, err, c.want)
	}

	s, err := abi.ParseSigstruct(sig)
	if err != nil {
		t.Fatal(err)
	}
	add1 := func(e *monitor.Instance, a add) error { return e.Add(a.offset, a.flags, a.content, a.count) }
	e, _ := m.Create(monitor.Options{})
	wantCode(t, "init of nothing", e.Init(bg, s), monitor.CodePage)
	wantCode(t, "add after a failed init", add1(e, first), monitor.CodePoisoned)
	e, _ = m.Create(monitor.Options{})
	if err := add1(e, first); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "enter before init", try(e, "echo", []byte(nil)), monitor.CodeState)
	wantCode(t, "init before the heap", e.Init(bg, s), monitor.CodePage)

	e = load(t, m, monitor.Options{})
	wantCode(t, "add after init", add1(e, first), monitor.CodeState)
	wantCode(t, "init after init", e.Init(bg, s), monitor.CodeState)
	if err := e.Destroy(); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "enter after destroy", try(e, "echo", []byte(nil)), monitor.CodeState)
	if err := e.Destroy(); err != nil {
		t.Error(err)
	}
}

// R095: parameters cross in the marshalling buffer only, and every pointer and length is checked. Whatever lies outside is
// the end of the enclave, with a code.
func TestPointersOutsideAreRefused(t *testing.T) { inBothModes(t, pointersOutsideAreRefused) }

func pointersOutsideAreRefused(t *testing.T, mode abi.Mode) {
	m := newMonitor(t, nil)
	const far, top = 0x7fff0000, 0xffffffff
	for _, c := range []struct {
		leaf string
		args [8]uint32
		want rats.CodeInfo
	}{
		{"get", [8]uint32{0, far, 16}, monitor.CodePointer},
		{"get", [8]uint32{0, top, 2}, monitor.CodePointer},  // overflow
		{"get", [8]uint32{0, 64, top}, monitor.CodePointer}, // a negative length
		{"get", [8]uint32{small.Buffer, 1 << 16, 1}, monitor.CodeBuffer},
		{"get", [8]uint32{top, 1 << 16, 2}, monitor.CodeBuffer}, // overflow
		{"get", [8]uint32{1, 1 << 16, small.Buffer}, monitor.CodeBuffer},
		{"put", [8]uint32{0, far, 16}, monitor.CodePointer},
		{"put", [8]uint32{small.Buffer - 1, 1 << 16, 2}, monitor.CodeBuffer},
		{"put", [8]uint32{0xfffffff0, 1 << 16, 0x20}, monitor.CodeBuffer},
		{"ocall", [8]uint32{far, 4, 0, 0, 0, 0}, monitor.CodePointer},
		{"ocall", [8]uint32{0, 4, far, 4, 0, 0}, monitor.CodePointer},
		{"ocall", [8]uint32{0, 4, 0, 4, far, 4}, monitor.CodePointer},
		{"ocall", [8]uint32{0, 4, 0, 4, 0, top}, monitor.CodePointer},
		{"report", [8]uint32{far, 0, 0}, monitor.CodePointer},
		{"report", [8]uint32{0, far, 0}, monitor.CodePointer},
		{"report", [8]uint32{0, 0, far}, monitor.CodePointer},
		{"key", [8]uint32{far, 0}, monitor.CodePointer},
		{"key", [8]uint32{0, top - 3}, monitor.CodePointer},
		{"quote", [8]uint32{far, 0, 0}, monitor.CodePointer},
		{"quote", [8]uint32{0, 0, top}, monitor.CodePointer},
		{"random", [8]uint32{far, 1}, monitor.CodePointer},
		{"hash", [8]uint32{256, far, 1, 0}, monitor.CodePointer},
		{"hash", [8]uint32{256, 0, 1, far}, monitor.CodePointer},
		{"hash", [8]uint32{512, 0, 1, top - 60}, monitor.CodePointer},
		{"write", [8]uint32{0, far, 1}, monitor.CodePointer},
		{"hkdf", [8]uint32{far, 32, 0, 0, 0, 0, 0, 32}, monitor.CodePointer},
		{"hkdf", [8]uint32{0, 32, 0, 0, 0, 0, far, 32}, monitor.CodePointer},
		{"seal", [8]uint32{far, 16, 0, 0, 0, 0, 0, 0}, monitor.CodePointer},
		{"seal", [8]uint32{0, 16, far, 0, 0, 0, 0, 0}, monitor.CodePointer},
		{"seal", [8]uint32{0, 16, 64, 0, 0, 1024, top, 4096}, monitor.CodePointer},
		{"seal", [8]uint32{0, 16, 64, 0, 0, 1024, 16, far}, monitor.CodePointer},
		{"open", [8]uint32{0, 16, 64, 0, 0, 1024, 32, far}, monitor.CodePointer},
		{"refusal", [8]uint32{far, 100}, monitor.CodePointer},
	} {
		e := load(t, m, monitor.Options{Mode: mode})
		wantCode(t, c.leaf, try(e, "raw", raw{c.leaf, c.args}), c.want)
		wantCode(t, c.leaf+" again", try(e, "empty", none{}), monitor.CodePoisoned)
	}
}

type raw struct {
	Leaf string
	Args [8]uint32
}

func TestArgumentsOfLeafFunctionsAreChecked(t *testing.T) {
	inBothModes(t, argumentsOfLeafFunctionsAreChecked)
}

func argumentsOfLeafFunctionsAreChecked(t *testing.T, mode abi.Mode) {
	e := load(t, newMonitor(t, nil), monitor.Options{Mode: mode})
	at := call[uint32](t, e, "place", none{})
	for _, c := range []struct {
		leaf string
		args [8]uint32
		want rats.CodeInfo
	}{
		{"hash", [8]uint32{128, at, 1, at}, monitor.CodeArgument},
		{"start", [8]uint32{255}, monitor.CodeArgument},
		{"write", [8]uint32{63, at, 1}, monitor.CodeArgument},
		{"sum", [8]uint32{0xffffffff, at}, monitor.CodeArgument},
		{"hkdf", [8]uint32{at, 32, 0, 0, 0, 0, at, 0}, monitor.CodeArgument},
		{"hkdf", [8]uint32{at, 32, 0, 0, 0, 0, at, 255*32 + 1}, monitor.CodeArgument},
		{"seal", [8]uint32{at, 17, at + 64, 0, 0, at + 128, 16, at + 256}, monitor.CodeArgument},
		{"seal", [8]uint32{at, 16, at + 64, 0, 0, at + 128, 16, at + 129}, monitor.CodeArgument}, // overlaps its input
		{"seal", [8]uint32{at, 16, at + 64, 0, 0, at + 128, 16, at + 60}, monitor.CodeArgument},  // and its nonce
		{"open", [8]uint32{at, 16, at + 64, 0, 0, at + 128, 15, at + 256}, monitor.CodeCipher},
		{"open", [8]uint32{at, 16, at + 64, 0, 0, at + 128, 32, at + 256}, monitor.CodeCipher},
		{"ocall", [8]uint32{at, 65, 0, 0, 0, 0}, monitor.CodeHost},
		{"ocall", [8]uint32{at, 4, at, small.Buffer + 1 - 8, 0, 0}, monitor.CodeHost},
		{"report", [8]uint32{at, at + 1024, at + 2048}, enclave.CodeReportTarget},
		{"key", [8]uint32{at, at + 1024}, abi.CodePlatform},
		{"quote", [8]uint32{at, at + 1024, 4096}, monitor.CodeQuote},
	} {
		if got := call[int32](t, e, "raw", raw{c.leaf, c.args}); got != boundary.Refused {
			t.Errorf("%s %v: %d, want a refusal", c.leaf, c.args, got)
		}
		// The reason stays until the call ends, so it is asked for in one: by the SDK, below.
	}
	for want, err := range map[rats.CodeInfo]error{
		monitor.CodeQuote:           try(e, "quote", [64]byte{}),
		monitor.CodeHost:            try(e, "ocall", outcall{Name: "nobody"}),
		sdk.CodeSealed:              try(e, "unseal", sealing{Box: make([]byte, 200)}),
		enclave.CodeKeyPolicy:       try(e, "seal", sealing{Policy: 0}),
		enclave.CodeKeyName:         try(e, "getkey", abi.KeyRequest{KeyName: abi.KeyProvision}.Bytes()),
		enclave.CodeKeySVN:          try(e, "getkey", abi.KeyRequest{KeyName: abi.KeySeal, KeyPolicy: 1, ISVSVN: 3}.Bytes()),
		abi.CodeLength:              try(e, "getkey", []byte("short")),
		boundary.CodeMalformed:      try(e, "getkey", uint8(1)),
		boundary.CodeSize:           try(e, "large", small.Buffer),
		monitor.CodeInput:           try(e, "echo", make([]byte, small.Buffer)),
		{Code: "enclave.sdk.entry"}: try(e, "fail", none{}),
	} {
		wantCode(t, string(want.Code), err, want)
		if err != nil && strings.Contains(err.Error(), "4711") {
			t.Errorf("words left the enclave: %v", err)
		}
	}
	if got := call[[]byte](t, e, "echo", []byte("still here")); string(got) != "still here" {
		t.Errorf("after refusals: %q", got)
	}
}

type outcall struct {
	Name string
	In   []byte
	Room uint32
	Many uint32
}

type sealing struct {
	Policy     uint16
	Extra, Box []byte
}

// A fault inside is the end of the enclave: it answers nothing any more, whatever the fault was.
func TestFaultsEndTheEnclave(t *testing.T) { inBothModes(t, faultsEndTheEnclave) }

func faultsEndTheEnclave(t *testing.T, mode abi.Mode) {
	m := newMonitor(t, func(c *monitor.Config) { c.Budget.Time, c.Budget.OCalls = 5*time.Second, 10 })
	host := map[string]monitor.HostCall{"ping": func(context.Context, []byte, []byte) (int, error) { return 0, nil }}
	encode := func(v any) []byte {
		b, err := boundary.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for entry, c := range map[string]struct {
		in   []byte
		want rats.CodeInfo
	}{
		"panics":   {nil, monitor.CodeTrap},
		"exits":    {nil, monitor.CodeTrap},
		"hang":     {nil, monitor.CodeTime},
		"block":    {nil, monitor.CodeTime},
		"beyond":   {nil, monitor.CodeReply},
		"negative": {nil, monitor.CodeReply},
		"grow":     {encode(uint32(128 << 20)), monitor.CodeTrap}, // more than its heap
		"ocall":    {encode(outcall{Name: "ping", Many: 11}), monitor.CodeCalls},
	} {
		closed := 0
		e := load(t, m, monitor.Options{Mode: mode, Host: host, Close: func() { closed++ }})
		began := time.Now()
		_, err := e.Enter(bg, entry, c.in)
		wantCode(t, entry, err, c.want)
		if d := time.Since(began); d > 20*time.Second {
			t.Errorf("%s: stopped after %v", entry, d)
		}
		if err != nil && strings.Contains(err.Error(), "4711") {
			t.Errorf("%s: words left the enclave: %v", entry, err)
		}
		wantCode(t, entry+", then another", try(e, "empty", none{}), monitor.CodePoisoned)
		if err := e.Destroy(); err != nil || closed != 1 {
			t.Errorf("%s: destroyed with %v, closed %d times", entry, err, closed)
		}
	}
	e := load(t, m, monitor.Options{Mode: mode})
	for _, entry := range []string{"nobody", "_initialize", "", "memory"} {
		_, err := e.Enter(bg, entry, nil)
		wantCode(t, "entry "+entry, err, monitor.CodeEntry)
	}
	if got := call[uint32](t, e, "grow", uint32(16<<20)); got != 16<<20 {
		t.Errorf("grown by %d", got)
	}
	ctx, cancel := context.WithCancel(bg)
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := e.Enter(ctx, "hang", nil)
	wantCode(t, "a call that was cancelled", err, monitor.CodeTime)
}

func TestOneCallIsInsideAtATime(t *testing.T) { inBothModes(t, oneCallIsInsideAtATime) }

func oneCallIsInsideAtATime(t *testing.T, mode abi.Mode) {
	m := newMonitor(t, nil)
	var e, other *monitor.Instance
	in, out := make(chan bool), make(chan bool)
	var nested, through error
	host := map[string]monitor.HostCall{
		"wait": func(context.Context, []byte, []byte) (int, error) {
			in <- true
			<-out
			return 0, nil
		},
		"again": func(ctx context.Context, _, _ []byte) (int, error) {
			_, nested = e.Enter(ctx, "empty", nil)
			return 0, nil
		},
		"by way of another": func(ctx context.Context, _, _ []byte) (int, error) {
			_, err := monitor.Call[outcall, []byte](ctx, other, "ocall", outcall{Name: "back"})
			return 0, err
		},
		"back": func(ctx context.Context, _, _ []byte) (int, error) {
			_, through = e.Enter(ctx, "empty", nil)
			return 0, nil
		},
	}
	e, other = load(t, m, monitor.Options{Mode: mode, Host: host}), load(t, m, monitor.Options{Mode: mode, Host: host})
	done := make(chan error)
	go func() { done <- try(e, "ocall", outcall{Name: "wait"}) }()
	<-in
	wantCode(t, "a second call", try(e, "empty", none{}), monitor.CodeBusy)
	wantCode(t, "destroying", e.Destroy(), monitor.CodeBusy)
	out <- true
	if err := <-done; err != nil {
		t.Error(err)
	}
	call[[]byte](t, e, "ocall", outcall{Name: "again"})
	wantCode(t, "a call from its own OCALL", nested, monitor.CodeReentry)
	call[[]byte](t, e, "ocall", outcall{Name: "by way of another"})
	wantCode(t, "a call by way of another enclave", through, monitor.CodeReentry)
	call[none](t, e, "empty", none{})
}

func TestAnswersOfAHostileApplicationAreRefused(t *testing.T) {
	inBothModes(t, answersOfAHostileApplicationAreRefused)
}

func answersOfAHostileApplicationAreRefused(t *testing.T, mode abi.Mode) {
	type host = func(in, out []byte) (int, error)
	var seen []byte
	offer := func(f host) monitor.HostCall {
		return func(_ context.Context, in, out []byte) (int, error) { return f(in, out) }
	}
	e := load(t, newMonitor(t, nil), monitor.Options{Mode: mode, Host: map[string]monitor.HostCall{
		"more":     offer(func(_, out []byte) (int, error) { return len(out) + 1, nil }),
		"huge":     offer(func(_, _ []byte) (int, error) { return 1 << 40, nil }),
		"negative": offer(func(_, _ []byte) (int, error) { return -1, nil }),
		"fails":    offer(func(_, _ []byte) (int, error) { return 0, errors.New("a path of the host") }),
		"coded":    offer(func(_, _ []byte) (int, error) { return 0, rats.CodeInfo{Code: "app.busy"}.Missing("x", "", "") }),
		"wide": offer(func(in, out []byte) (int, error) { // what lies behind its slices is not its own
			seen = bytes.Clone(in[:cap(in)])
			return copy(out[:cap(out)], bytes.Repeat([]byte{7}, 1<<20)), nil
		}),
	}})
	for name, want := range map[string]rats.CodeInfo{
		"more": monitor.CodeResult, "huge": monitor.CodeResult, "negative": monitor.CodeResult, "fails": monitor.CodeOCall,
		"coded": {Code: "app.busy"}, "nobody": monitor.CodeHost,
	} {
		err := try(e, "ocall", outcall{Name: name, Room: 16})
		wantCode(t, name, err, want)
		if err != nil && strings.Contains(err.Error(), "a path of the host") {
			t.Errorf("%s: the application's words reached the enclave: %v", name, err)
		}
	}
	got := call[[]byte](t, e, "ocall", outcall{Name: "wide", In: []byte("abc"), Room: 100})
	if len(got) != 100 || string(seen) != "abc" {
		t.Errorf("an answer of %d bytes to %q", len(got), seen)
	}
}
