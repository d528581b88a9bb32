// Command guest is an enclave that does what the monitor's tests want of it, good and bad.
package main

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk"
	"github.com/assay-attest/assay/rats"
)

//go:wasmimport assay get
func rawGet(offset, p, n uint32)

//go:wasmimport assay put
func rawPut(offset, p, n uint32)

//go:wasmimport assay ocall
func rawOCall(name, nameLen, in, inLen, out, outLen uint32) int32

//go:wasmimport assay report
func rawReport(target, data, out uint32) int32

//go:wasmimport assay key
func rawKey(request, out uint32) int32

//go:wasmimport assay quote
func rawQuote(data, out, n uint32) int32

//go:wasmimport assay random
func rawRandom(p, n uint32)

//go:wasmimport assay hash
func rawHash(bits, p, n, out uint32) int32

//go:wasmimport assay start
func rawStart(bits uint32) int32

//go:wasmimport assay write
func rawWrite(handle, p, n uint32) int32

//go:wasmimport assay sum
func rawSum(handle, out uint32) int32

//go:wasmimport assay hkdf
func rawHKDF(secret, secretLen, salt, saltLen, info, infoLen, out, outLen uint32) int32

//go:wasmimport assay seal
func rawSeal(key, keyLen, nonce, extra, extraLen, in, inLen, out uint32) int32

//go:wasmimport assay open
func rawOpen(key, keyLen, nonce, extra, extraLen, in, inLen, out uint32) int32

//go:wasmimport assay refusal
func rawRefusal(out, n uint32) int32

type Raw struct {
	Leaf string
	Args [8]uint32
}

//go:wasmexport raw
func raw(n int32) int32 {
	return sdk.Serve(n, func(r Raw) (int32, error) {
		a := r.Args
		switch r.Leaf {
		case "get":
			rawGet(a[0], a[1], a[2])
		case "put":
			rawPut(a[0], a[1], a[2])
		case "ocall":
			return rawOCall(a[0], a[1], a[2], a[3], a[4], a[5]), nil
		case "report":
			return rawReport(a[0], a[1], a[2]), nil
		case "key":
			return rawKey(a[0], a[1]), nil
		case "quote":
			return rawQuote(a[0], a[1], a[2]), nil
		case "random":
			rawRandom(a[0], a[1])
		case "hash":
			return rawHash(a[0], a[1], a[2], a[3]), nil
		case "start":
			return rawStart(a[0]), nil
		case "write":
			return rawWrite(a[0], a[1], a[2]), nil
		case "sum":
			return rawSum(a[0], a[1]), nil
		case "hkdf":
			return rawHKDF(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]), nil
		case "seal":
			return rawSeal(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]), nil
		case "open":
			return rawOpen(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]), nil
		case "refusal":
			return rawRefusal(a[0], a[1]), nil
		}
		return 0, nil
	})
}

// Where scratch memory is, for raw.
var scratch [1 << 16]byte

//go:wasmexport place
func place(n int32) int32 {
	return sdk.Serve(n, func(sdk.None) (uint32, error) { return uint32(uintptr(unsafe.Pointer(&scratch))), nil })
}

//go:wasmexport beyond
func beyond(int32) int32 { return 1 << 30 }

//go:wasmexport negative
func negative(int32) int32 { return -5 }

//go:wasmexport empty
func empty(n int32) int32 {
	return sdk.Serve(n, func(sdk.None) (sdk.None, error) { return sdk.None{}, nil })
}

//go:wasmexport echo
func echo(n int32) int32 {
	return sdk.Serve(n, func(b []byte) ([]byte, error) { return b, nil })
}

//go:wasmexport large
func large(n int32) int32 {
	return sdk.Serve(n, func(size uint32) ([]byte, error) { return make([]byte, size), nil })
}

type Outcall struct {
	Name string
	In   []byte
	Room uint32
	Many uint32
}

//go:wasmexport ocall
func ocall(n int32) int32 {
	return sdk.Serve(n, func(o Outcall) ([]byte, error) {
		out := make([]byte, o.Room)
		size := 0
		for range max(o.Many, 1) {
			var err error
			if size, err = sdk.Exchange(o.Name, o.In, out); err != nil {
				return nil, err
			}
		}
		return out[:size], nil
	})
}

//go:wasmexport fail
func fail(n int32) int32 {
	return sdk.Serve(n, func(sdk.None) (sdk.None, error) { return sdk.None{}, fmt.Errorf("the secret is 4711") })
}

//go:wasmexport panics
func panics(int32) int32 { panic("the secret is 4711") }

//go:wasmexport exits
func exits(int32) int32 {
	os.Exit(0)
	return 0
}

//go:wasmexport hang
func hang(int32) int32 {
	for i := 0; ; i++ {
		sink += i
	}
}

//go:wasmexport block
func block(int32) int32 {
	go func() {
		for {
			time.Sleep(time.Hour)
		}
	}()
	<-make(chan int)
	return 0
}

//go:wasmexport nap
func nap(n int32) int32 {
	return sdk.Serve(n, func(sdk.None) (sdk.None, error) {
		time.Sleep(20 * time.Millisecond)
		return sdk.None{}, nil
	})
}

var sink int

//go:wasmexport grow
func grow(n int32) int32 {
	return sdk.Serve(n, func(size uint32) (uint32, error) {
		b := make([]byte, size)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		return uint32(len(b)), nil
	})
}

// Between starts a goroutine that counts whenever it may, and says how far one is that was started before.
var counted int

//go:wasmexport between
func between(n int32) int32 {
	return sdk.Serve(n, func(sdk.None) (int64, error) {
		was := counted
		if was == 0 {
			go func() {
				for {
					counted++
					runtime.Gosched()
				}
			}()
			runtime.Gosched()
		}
		return int64(counted), nil
	})
}

// Ambient tells what the enclave sees of the outside without OCALLs.
type Ambient struct {
	Args, Env   []string
	Dir         string
	File        bool
	Time        int64
	Random      [16]byte
	SDKTime     int64
	Hash, Hash2 [32]byte
}

//go:wasmexport ambient
func ambient(n int32) int32 {
	return sdk.Serve(n, func(sdk.None) (a Ambient, err error) {
		a.Args, a.Env = os.Args, os.Environ()
		a.Dir, _ = os.Getwd()
		_, err = os.ReadFile("/etc/passwd")
		a.File = err == nil
		a.Time, a.SDKTime = time.Now().UnixNano(), sdk.Now().UnixNano()
		fmt.Println("printed inside")
		_, err = rand.Read(a.Random[:])
		a.Hash = sdk.SHA256(a.Random[:])
		a.Hash2 = sha256.Sum256(a.Random[:])
		return a, err
	})
}

// HashJob hashes memory, by the monitor or alone.
type HashJob struct {
	Size, Times uint32
	Alone       bool
}

var bulk []byte

//go:wasmexport hash
func hash(n int32) int32 {
	return sdk.Serve(n, func(j HashJob) ([32]byte, error) {
		if len(bulk) != int(j.Size) {
			bulk = make([]byte, j.Size)
		}
		var sum [32]byte
		for range j.Times {
			if j.Alone {
				sum = sha256.Sum256(bulk)
			} else {
				h := sdk.NewSHA256()
				h.Write(bulk)
				h.Sum(sum[:0])
				h.Sum(nil)
				copy(sum[:], h.Sum(nil))
				h.Reset()
				h.Write(bulk)
				if string(h.Sum(nil)) != string(sum[:]) {
					return sum, fmt.Errorf("a hash that was reset differs")
				}
			}
		}
		return sum, nil
	})
}

//go:wasmexport leafhash
func leafhash(n int32) int32 {
	return sdk.Serve(n, func(j HashJob) ([32]byte, error) {
		if len(bulk) != int(j.Size) {
			bulk = make([]byte, j.Size)
		}
		var sum [32]byte
		for range j.Times {
			sum = sdk.SHA256(bulk)
		}
		return sum, nil
	})
}

var sealed []byte

// leafseal encrypts and decrypts memory in its place by the monitor.
//
//go:wasmexport leafseal
func leafseal(n int32) int32 {
	return sdk.Serve(n, func(j HashJob) (sdk.None, error) {
		if len(sealed) != int(j.Size)+16 {
			sealed = make([]byte, j.Size+16)
		}
		at, key := uint32(uintptr(unsafe.Pointer(&sealed[0]))), uint32(uintptr(unsafe.Pointer(&scratch)))
		for range j.Times {
			if rawSeal(key, 32, key+64, 0, 0, at, j.Size, at) < 0 || rawOpen(key, 32, key+64, 0, 0, at, j.Size+16, at) < 0 {
				return sdk.None{}, fmt.Errorf("sealed bytes don't open")
			}
		}
		return sdk.None{}, nil
	})
}

var curve *ecdh.PrivateKey

// agree does the work of one key agreement on P-256, which is the enclave's own code.
//
//go:wasmexport agree
func agree(n int32) int32 {
	return sdk.Serve(n, func(sdk.None) ([]byte, error) {
		var err error
		if curve == nil {
			if curve, err = ecdh.P256().GenerateKey(rand.Reader); err != nil {
				return nil, err
			}
		}
		return curve.ECDH(curve.PublicKey())
	})
}

//go:wasmexport keys
func keys(n int32) int32 {
	return sdk.Serve(n, func(times uint32) (sdk.None, error) {
		for range times {
			k, err := sdk.GetKey(abi.KeyRequest{KeyName: abi.KeySeal, KeyPolicy: abi.PolicyMRENCLAVE})
			if err != nil {
				return sdk.None{}, err
			}
			k.Wipe()
		}
		return sdk.None{}, nil
	})
}

//go:wasmexport reports
func reports(n int32) int32 {
	return sdk.Serve(n, func(times uint32) (sdk.None, error) {
		t, err := sdk.Target()
		if err != nil {
			return sdk.None{}, err
		}
		for range times {
			if _, err := sdk.Report(t, [64]byte{1}); err != nil {
				return sdk.None{}, err
			}
		}
		return sdk.None{}, nil
	})
}

//go:wasmexport quotes
func quotes(n int32) int32 {
	return sdk.Serve(n, func(times uint32) (sdk.None, error) {
		for range times {
			if _, err := sdk.Quote([64]byte{1}); err != nil {
				return sdk.None{}, err
			}
		}
		return sdk.None{}, nil
	})
}

type Seal struct {
	Policy     uint16
	Extra, Box []byte
}

//go:wasmexport seal
func seal(n int32) int32 {
	return sdk.Serve(n, func(s Seal) ([]byte, error) { return sdk.Seal(s.Policy, s.Extra, s.Box) })
}

//go:wasmexport unseal
func unseal(n int32) int32 {
	return sdk.Serve(n, func(s Seal) ([]byte, error) { return sdk.Unseal(s.Extra, s.Box) })
}

//go:wasmexport self
func self(n int32) int32 {
	return sdk.Serve(n, func(sdk.None) ([]byte, error) {
		b, err := sdk.Self()
		return b.Bytes(), err
	})
}

//go:wasmexport report
func report(n int32) int32 {
	return sdk.Serve(n, func(sdk.None) (sdk.None, error) {
		t, err := sdk.Target()
		if err != nil {
			return sdk.None{}, err
		}
		r, err := sdk.Report(t, [64]byte{1})
		if err != nil {
			return sdk.None{}, err
		}
		return sdk.None{}, sdk.VerifyReport(r)
	})
}

//go:wasmexport instance
func instance(n int32) int32 {
	return sdk.Serve(n, func(sdk.None) ([16]byte, error) { return sdk.Instance(), nil })
}

//go:wasmexport quote
func quote(n int32) int32 {
	return sdk.Serve(n, func(d [64]byte) ([]byte, error) { return sdk.Quote(d) })
}

//go:wasmexport getkey
func getkey(n int32) int32 {
	return sdk.Serve(n, func(b []byte) (out []byte, err error) {
		r, err := abi.ParseKeyRequest(b)
		if err != nil {
			return nil, err
		}
		k, err := sdk.GetKey(r)
		if err != nil {
			return nil, err
		}
		k.Use(func(b []byte) { out = append(out, b...) })
		return out, nil
	})
}

// Keep holds a secret, uses it, wipes it.
var kept *sdk.Secret

//go:wasmexport keep
func keep(n int32) int32 {
	return sdk.Serve(n, func(b []byte) (string, error) {
		kept = sdk.NewSecret(b)
		return fmt.Sprintf("%v %s %x %+v", kept, kept, kept, *kept), nil
	})
}

//go:wasmexport wipe
func wipe(n int32) int32 {
	return sdk.Serve(n, func(sdk.None) (uint32, error) {
		d, err := sdk.HKDF(kept, nil, []byte("test"), 32)
		if err != nil {
			return 0, err
		}
		box, err := sdk.SealWith(d, [12]byte{}, nil, []byte("hello"))
		if err != nil {
			return 0, err
		}
		if b, err := sdk.OpenWith(d, [12]byte{}, nil, box); err != nil || string(b) != "hello" {
			return 0, fmt.Errorf("sealed bytes don't open: %v", err)
		}
		d.Wipe()
		kept.Wipe()
		return uint32(kept.Len()), nil
	})
}

var shelf *sdk.Shelf

type Shelved struct {
	Name string
	Box  []byte
}

//go:wasmexport put
func put(n int32) int32 {
	return sdk.Serve(n, func(s Shelved) ([]byte, error) {
		if shelf == nil {
			shelf = sdk.NewShelf()
		}
		return shelf.Put(s.Name, s.Box)
	})
}

//go:wasmexport fetch
func fetch(n int32) int32 {
	return sdk.Serve(n, func(s Shelved) ([]byte, error) { return shelf.Get(s.Name, s.Box) })
}

type Read struct {
	Code string
	Sum  [32]byte
	List []byte
	Stat sdk.Stat
	Bad  []string
}

//go:wasmexport read
func read(n int32) int32 {
	return sdk.Serve(n, func(path []byte) (r Read, err error) {
		var o sdk.Outside
		var code rats.Code
		if r.Stat, code = o.Stat(path, false); code != "" {
			r.Code = string(code)
			return r, nil
		}
		dir := r.Stat.Mode&0o170000 == 0o040000
		flags := uint32(0)
		if dir {
			flags = 1
		}
		fd, code := o.Open(path, flags)
		if code != "" {
			r.Code = string(code)
			return r, nil
		}
		b := make([]byte, 64<<10)
		if dir {
			n, code := o.List(fd, 0, b)
			r.Code, r.List = string(code), b[:n]
		} else {
			h := sdk.NewSHA256()
			for off := int64(0); ; {
				n, code := o.ReadAt(fd, b, off)
				if code != "" || n == 0 {
					r.Code = string(code)
					break
				}
				h.Write(b[:n])
				off += int64(n)
			}
			h.Sum(r.Sum[:0])
		}
		for _, other := range []int32{0, 1, 2, 3, fd - 1, fd + 1, -1} { // the monitor's own
			if _, code := o.ReadAt(other, b, 0); code != "" && other != fd {
				r.Bad = append(r.Bad, string(code))
			}
		}
		o.Close(fd)
		_, code = o.ReadAt(fd, b, 0)
		r.Bad = append(r.Bad, string(code))
		return r, nil
	})
}

func main() {}
