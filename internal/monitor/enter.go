package monitor

import (
	"context"
	"errors"
	"fmt"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/rats"
)

// within marks the context of an OCALL with the enclave whose call is inside.
type within struct{ e *Instance }

// Enter calls an entry point (EENTER to EEXIT): the encoded parameters cross in the marshalling buffer, and the encoded
// result comes back, or the coded error the enclave answered. Any fault inside ends the enclave, and so does the end of
// ctx or of the budget of time. Nothing of the enclave runs when Enter has returned.
func (e *Instance) Enter(ctx context.Context, entry string, in []byte) ([]byte, error) {
	if ctx.Value(within{e}) != nil {
		return nil, CodeReentry.Bad(entry, "", "")
	}
	if err := e.take(ready, entry); err != nil {
		return nil, err
	}
	defer e.inside.Store(false)
	if len(in) > len(e.buffer) {
		return nil, CodeInput.Bad(entry, fmt.Sprintf("at most %d bytes", len(e.buffer)), fmt.Sprint(len(in)))
	}
	limit, cancel := context.WithTimeout(ctx, e.m.c.Budget.Time)
	defer cancel()
	used := max(len(in), 1)
	defer func() { clear(e.buffer[:used]) }()
	copy(e.buffer, in)
	n, err := e.run.enter(context.WithValue(limit, within{e}, true), entry, len(in))
	if err == nil && (n < 0 || n > len(e.buffer)) {
		err = fatal{CodeReply.Bad(entry, fmt.Sprintf("0 to %d", len(e.buffer)), fmt.Sprint(n))}
	}
	if err != nil {
		err = e.fault(limit, entry, err)
		used = len(e.buffer) // 0 if it is gone
		return nil, err
	}
	used = max(used, n)
	return boundary.ParseReply(append([]byte(nil), e.buffer[:n]...))
}

// fatal is an error after which an enclave is gone.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// fault ends the enclave for a fatal error and says what it was; the engine's words, which can hold addresses, are in
// the log only.
func (e *Instance) fault(ctx context.Context, entry string, err error) error {
	var f fatal
	if !errors.As(err, &f) {
		return err
	}
	e.end(poisoned)
	reason, coded := rats.ReasonOf(err)
	switch {
	case coded:
	case ctx.Err() != nil:
		err = CodeTime.Bad(entry, e.m.c.Budget.Time.String(), ctx.Err().Error())
	default:
		e.m.c.Log.Warn("an enclave ended itself", "entry", entry, "error", err)
		err = CodeTrap.Bad(entry, "", "")
	}
	e.m.c.Log.Warn("an enclave was stopped", "mrenclave", fmt.Sprintf("%x", e.id.MRENCLAVE), "entry", entry, "code", reason.Code)
	return err
}

// services are what an enclave's code asks of its monitor and can't have from its own memory.
type services interface {
	report(target, data []byte) ([]byte, error)
	verify(report []byte) error
	key(request []byte) ([]byte, error)
	quote(ctx context.Context, data []byte) ([]byte, error)
	ocall(ctx context.Context, name string, in, out []byte) (int, error) // in and out are enclave memory
}

// inline serves an enclave in the monitor's own process.
type inline struct {
	e     *Instance
	guest *guest
	left  int // OCALLs of the call that is inside
}

func (s *inline) enter(ctx context.Context, entry string, n int) (int, error) {
	s.left = s.e.m.c.Budget.OCalls
	return s.guest.enter(ctx, entry, n)
}

func (s *inline) stop() { s.guest.stop() }

func (s *inline) report(target, data []byte) ([]byte, error) { return s.e.report(target, data) }

func (s *inline) verify(report []byte) error { return s.e.verify(report) }

func (s *inline) key(request []byte) ([]byte, error) { return s.e.key(request) }

func (s *inline) quote(ctx context.Context, data []byte) ([]byte, error) { return s.e.quote(ctx, data) }

// ocall copies what the enclave sends into the marshalling buffer, and what the application answers out of it.
func (s *inline) ocall(ctx context.Context, name string, in, out []byte) (int, error) {
	if s.left--; s.left < 0 {
		return 0, fatal{CodeCalls.Bad(name, fmt.Sprint(s.e.m.c.Budget.OCalls), "more")}
	}
	b := s.e.buffer
	if len(in) > len(b) {
		return 0, CodeInput.Bad(name, fmt.Sprintf("at most %d bytes", len(b)), fmt.Sprint(len(in)))
	}
	room := min(len(out), len(b)-len(in))
	defer func() { clear(b[:len(in)+room]) }()
	copy(b, in)
	answer := b[len(in) : len(in)+room : len(in)+room]
	n, err := s.e.host(ctx, name, b[:len(in):len(in)], answer)
	if err != nil {
		return 0, err
	}
	room = n // the rest was not written by an application that keeps to its part
	return copy(out, answer[:n]), nil
}

// host calls the application and checks what it says.
func (e *Instance) host(ctx context.Context, name string, in, out []byte) (int, error) {
	call := e.o.Host[name]
	if call == nil {
		return 0, CodeHost.Bad("ocall", "an OCALL of the application", name)
	}
	n, err := call(ctx, in, out)
	if err != nil {
		if _, coded := rats.ReasonOf(err); !coded {
			e.m.c.Log.Warn("an OCALL failed", "ocall", name, "error", err)
			err = CodeOCall.Missing(name, "", "")
		}
		return 0, err
	}
	if n < 0 || n > len(out) {
		return 0, CodeResult.Bad(name, fmt.Sprintf("0 to %d", len(out)), fmt.Sprint(n))
	}
	return n, nil
}

// report is EREPORT.
func (e *Instance) report(target, data []byte) ([]byte, error) {
	t, err := abi.ParseTargetInfo(target)
	if err != nil {
		return nil, err
	}
	r, err := e.m.c.Key.Report(e.id, e.platform, t, [64]byte(data), e.m.keyID)
	if err != nil {
		return nil, err
	}
	return r.Bytes(), nil
}

// verify checks a report for this enclave.
func (e *Instance) verify(report []byte) error {
	r, err := abi.ParseReport(report)
	if err != nil {
		return err
	}
	k, err := e.m.c.Key.Key(e.id, e.platform, abi.KeyRequest{KeyName: abi.KeyReport, KeyID: r.KeyID})
	if err != nil {
		return err
	}
	defer clear(k[:])
	return enclave.VerifyReport(k, r)
}

// key is EGETKEY.
func (e *Instance) key(request []byte) ([]byte, error) {
	r, err := abi.ParseKeyRequest(request)
	if err != nil {
		return nil, err
	}
	k, err := e.m.c.Key.Key(e.id, e.platform, r)
	if err != nil {
		return nil, err
	}
	return k[:], nil
}

// quote makes a quote of the enclave's body with its report data.
func (e *Instance) quote(ctx context.Context, data []byte) ([]byte, error) {
	if e.m.c.Quote == nil {
		return nil, CodeQuote.Missing("quote", "", "")
	}
	return e.m.c.Quote(ctx, e.id.Body(e.platform, [64]byte(data)))
}
