package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/assay-attest/assay/rats"
)

// The codes of connections that can't be made, and of answers that can't be used.
var (
	CodeAddress = rats.CodeInfo{
		Code: "client.address.malformed", Title: "the server's address is not usable",
		Hint: "write it as https://host:port, without a path",
	}
	CodeNoCA = rats.CodeInfo{
		Code: "client.ca.none", Title: "no CA is pinned, so no server can be believed",
		Hint: "give the CA certificate or its hash; `assay server init` and every join token tell it",
	}
	CodeRefused = rats.CodeInfo{
		Code: "client.server.down", Title: "the server's machine answers, but nothing listens on that port",
		Hint: "start the server, or correct the port of its address",
	}
	CodeTimeout = rats.CodeInfo{
		Code: "client.server.timeout", Title: "the server doesn't answer",
		Hint: "check that the machine is up and that no firewall drops the connection",
	}
	CodeNoRoute = rats.CodeInfo{
		Code: "client.server.no-route", Title: "there is no route to the server",
		Hint: "check this machine's network and the server's address",
	}
	CodeName = rats.CodeInfo{
		Code: "client.name.unresolved", Title: "the server's name can't be resolved",
		Hint: "check the name and this machine's DNS, or use the address",
	}
	CodeOtherCA = rats.CodeInfo{
		Code: "client.ca.other", Title: "the server presents another CA",
		Hint: "this is another server, somebody in between, or a server whose CA was replaced: compare the hash with its owner before pinning it",
	}
	CodeServerName = rats.CodeInfo{
		Code: "client.certificate.name", Title: "the server's certificate is for another name",
		Hint: "use a name the certificate holds, or add this one to the server's names",
	}
	CodeClock = rats.CodeInfo{
		Code: "client.certificate.time", Title: "the server's certificate is not valid at the time of this machine's clock",
		Hint: "if this machine's clock is wrong, correct it; else renew the server's certificate",
	}
	CodeCertificate = rats.CodeInfo{
		Code: "client.certificate.refused", Title: "the server refuses this client's certificate",
		Hint: "the certificate is expired, revoked, or of another server: join again (`assay agent join`)",
	}
	CodePlain = rats.CodeInfo{
		Code: "client.tls.plain", Title: "the port speaks plain HTTP, not TLS",
		Hint: "use the server's TLS port; a balancer in front of it must pass TLS through",
	}
	CodeTLSVersion = rats.CodeInfo{
		Code: "client.tls.version", Title: "the server doesn't speak TLS 1.3",
		Hint: "this is not a server of ours, or something in between ends TLS: a balancer must pass it through",
	}
	CodeLost = rats.CodeInfo{
		Code: "client.server.lost", Title: "the connection broke before the answer was complete",
		Hint: "try again; the server may be restarting",
	}
	CodeConnect = rats.CodeInfo{
		Code: "client.server.unreachable", Title: "the server can't be reached",
		Hint: "see the error beneath",
	}
	CodeAnswer = rats.CodeInfo{
		Code: "client.answer.malformed", Title: "the server's answer is not what the API promises",
		Hint: "check that the address is of this server and not of something in front of it, and compare versions",
	}
	CodeAnswerSize = rats.CodeInfo{
		Code: "client.answer.size", Title: "the server's answer is larger than it may be",
		Hint: "ask for less (a limit), or check what answers at this address",
	}
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{
	CodeAddress, CodeNoCA, CodeRefused, CodeTimeout, CodeNoRoute, CodeName, CodeOtherCA, CodeServerName, CodeClock,
	CodeCertificate, CodePlain, CodeTLSVersion, CodeLost, CodeConnect, CodeAnswer, CodeAnswerSize,
}

// Unreachable is the error of a server that could not be asked: nothing is known about what was asked for. The command
// line's exit code for it is rats.ExitUnreachable.
type Unreachable struct {
	Code   rats.Code
	Title  string
	Hint   string
	Server string // host:port
	Detail string // what was expected and seen, if that is known
	Err    error  // beneath; may be nil
}

func (e *Unreachable) Error() string {
	s := "reaching " + e.Server + ": " + e.Title
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Code == CodeConnect.Code && e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s + " (" + string(e.Code) + ")"
}

func (e *Unreachable) Unwrap() error { return e.Err }

func (c *Client) unreachable(info rats.CodeInfo, detail string, err error) error {
	return &Unreachable{
		Code: info.Code, Title: info.Title, Hint: info.Hint, Server: c.base.Host, Detail: detail, Err: err,
	}
}

// diagnose turns an error of the transport into an Unreachable. A cancelled context stays what it is.
func (c *Client) diagnose(err error) error {
	var known *Unreachable
	if errors.As(err, &known) || errors.Is(err, context.Canceled) {
		return err
	}
	if info, detail, ok := c.diagnoseCertificate(err); ok {
		return c.unreachable(info, detail, err)
	}
	return c.unreachable(diagnoseConnection(err), "", err)
}

// probe looks closer at a connection that broke before any answer came. With TLS 1.3 a server refuses a client's
// certificate after the client's handshake is done, and a client that is just writing then sees a reset instead of the alert:
// a second connection that writes nothing hears it.
func (c *Client) probe(ctx context.Context, err error) error {
	var lost *Unreachable
	if !errors.As(err, &lost) || lost.Code != CodeLost.Code {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, dialErr := c.opt.Dialer(ctx, "tcp", c.base.Host)
	if dialErr != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	h, _ := c.ready(ctx)
	if h == nil {
		return err
	}
	cfg := h.Transport.(*http.Transport).TLSClientConfig.Clone()
	cfg.ServerName, cfg.NextProtos = c.base.Hostname(), nil
	_, readErr := tls.Client(conn, cfg).Read(make([]byte, 1))
	if readErr != nil && diagnoseConnection(readErr).Code == CodeCertificate.Code {
		return c.unreachable(CodeCertificate, "", readErr)
	}
	return err
}

// diagnoseCertificate explains a server whose certificate was refused here.
func (c *Client) diagnoseCertificate(err error) (rats.CodeInfo, string, bool) {
	var presented []*x509.Certificate
	var verification *tls.CertificateVerificationError
	if errors.As(err, &verification) {
		presented = verification.UnverifiedCertificates
	}
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil {
		now, cert := c.opt.Now().UTC(), invalid.Cert
		detail := "this machine's clock says " + now.Format(time.RFC3339) + ", the certificate is valid from " +
			cert.NotBefore.UTC().Format(time.RFC3339) + " to " + cert.NotAfter.UTC().Format(time.RFC3339)
		if now.Before(cert.NotBefore) {
			detail += ": the clock is probably slow"
		} else {
			detail += ": it expired, or the clock is fast"
		}
		return CodeClock, detail, true
	}
	var name x509.HostnameError
	if errors.As(err, &name) {
		return CodeServerName, "expected " + clip(name.Host) + ", seen " + clip(namesOf(name.Certificate)), true
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) || verification != nil {
		var expected []string
		for _, der := range c.cas {
			expected = append(expected, rats.SHA256(der).String())
		}
		return CodeOtherCA, "expected " + strings.Join(expected, " or ") + ", seen " + seenCA(rats.Digest{}, presented), true
	}
	return rats.CodeInfo{}, "", false
}

func namesOf(cert *x509.Certificate) string {
	names := append([]string(nil), cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name"
	}
	return strings.Join(names, ", ")
}

// diagnoseConnection explains everything that isn't about the server's certificate.
func diagnoseConnection(err error) rats.CodeInfo {
	var dns *net.DNSError
	var timeout net.Error
	text := err.Error()
	switch {
	case errors.As(err, &dns):
		return CodeName
	case errors.Is(err, syscall.ECONNREFUSED):
		return CodeRefused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return CodeNoRoute
	case errors.Is(err, http.ErrSchemeMismatch), isRecordHeader(err):
		return CodePlain
	// The alerts of crypto/tls have no exported type outside QUIC: their text is all there is.
	case strings.Contains(text, "protocol version"):
		return CodeTLSVersion
	case strings.Contains(text, "remote error: tls:") && strings.Contains(text, "certificate"):
		return CodeCertificate
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return CodeTimeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), strings.Contains(text, "http2:"), strings.Contains(text, "server sent GOAWAY"):
		return CodeLost
	default:
		return CodeConnect
	}
}

func isRecordHeader(err error) bool {
	var header tls.RecordHeaderError
	return errors.As(err, &header)
}
