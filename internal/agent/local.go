package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/rats"
)

// Status is what the running agent knows of itself.
type Status struct {
	Server    string    `json:"server"`
	Namespace string    `json:"namespace"`
	Node      string    `json:"node"`
	Name      string    `json:"name"`
	Connected bool      `json:"connected"`      // the stream is open
	Told      *api.Told `json:"told,omitempty"` // the last result the server told; nil: none in this run
	Renews    time.Time `json:"renews"`         // when the certificate is to be renewed
}

const maxLocalAnswer = 1 << 20

// listenLocal makes the local socket, for the agent's own user and root only.
func listenLocal(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("making the local socket: %s is there and is no socket", path)
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, CodeStateLocked.Bad(path, "no other agent", "a running one")
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing the old local socket: %w", err)
		}
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("making the local socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("closing the local socket to others: %w", err)
	}
	return ownOnly{ln}, nil
}

// ownOnly lets nobody in but root and the user the agent runs as, whatever the socket's mode.
type ownOnly struct{ net.Listener }

func (l ownOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, ok := peerUID(c); ok && (uid == 0 || uid == uint32(os.Geteuid())) {
			return c, nil
		}
		c.Close()
	}
}

func peerUID(c net.Conn) (uint32, bool) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return 0, false
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return 0, false
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return 0, false
	}
	return cred.Uid, true
}

// local serves the local socket.
func (a *agent) local() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(a.status())
	})
	mux.HandleFunc("GET /v1/secrets/{name}", func(w http.ResponseWriter, r *http.Request) {
		secret, err := a.release(r.Context(), r.PathValue("name"))
		if err != nil {
			a.log.Warn("secret not released", "code", codeOf(err), "error", text(err))
			writeProblem(w, err)
			return
		}
		defer clear(secret)
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Cache-Control", "no-store")
		w.Write(secret)
	})
	return mux
}

func (a *agent) status() Status {
	due, _ := a.renewalDue()
	a.mu.Lock()
	defer a.mu.Unlock()
	return Status{
		Server: a.state.Server, Namespace: a.state.Namespace, Node: a.state.Node, Name: a.state.Name,
		Connected: a.connected, Told: a.told, Renews: a.now().Add(due).UTC().Truncate(time.Second),
	}
}

// writeProblem tells a caller why there is no secret: the server's own problem where it is one.
func writeProblem(w http.ResponseWriter, err error) {
	p := api.Problem{Status: http.StatusInternalServerError, Title: "the agent could not do it", Detail: err.Error()}
	var refused *client.Error
	var unreachable *client.Unreachable
	switch {
	case errors.As(err, &refused):
		p = refused.Problem
	case errors.As(err, &unreachable):
		p = api.Problem{
			Status: http.StatusBadGateway, Code: unreachable.Code, Title: unreachable.Title, Hint: unreachable.Hint,
			Detail: "reaching " + unreachable.Server + ": " + unreachable.Detail,
		}
	default:
		if r, ok := rats.ReasonOf(err); ok {
			p = api.Problem{
				Status: http.StatusBadRequest, Code: r.Code, Title: r.Title, Hint: r.Hint, Path: r.Path, Expected: r.Expected, Seen: r.Seen,
			}
			if r.Code == CodeNoFreshResult.Code {
				p.Status = http.StatusGatewayTimeout
			}
		}
	}
	if p.Status < 400 {
		p.Status = http.StatusBadGateway
	}
	w.Header().Set("Content-Type", api.TypeProblem)
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

// LocalStatus asks the agent behind a local socket for its status.
func LocalStatus(ctx context.Context, socket string) (Status, error) {
	b, err := localGet(ctx, socket, "/v1/status", maxLocalAnswer)
	if err != nil {
		return Status{}, err
	}
	var s Status
	if err := json.Unmarshal(b, &s); err != nil {
		return Status{}, fmt.Errorf("decoding the agent's status: %w", err)
	}
	return s, nil
}

// SecretGet asks the agent behind a local socket for a secret and waits, if need be, until the node was attested afresh. The
// secret is the caller's to wipe. A refusal is a *client.Error with the server's problem, or the agent's own.
func SecretGet(ctx context.Context, socket, name string) ([]byte, error) {
	if !validSecretName(name) {
		return nil, CodeSecretName.Bad("name", "lower-case letters, digits, '.', '_', '-' and '/'", clip(name))
	}
	return localGet(ctx, socket, "/v1/secrets/"+url.PathEscape(name), maxLocalAnswer)
}

func localGet(ctx context.Context, socket, path string, limit int64) ([]byte, error) {
	h := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("building a local call: %w", err)
	}
	res, err := h.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, CodeNotRunning.Missing(socket, "the socket of a running agent", strings.TrimPrefix(reason(err), "connect: "))
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading the agent's answer: %w", err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("reading the agent's answer: more than %d bytes", limit)
	}
	if res.StatusCode == http.StatusOK {
		return b, nil
	}
	var p api.Problem
	if media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type")); media != api.TypeProblem || json.Unmarshal(b, &p) != nil {
		return nil, fmt.Errorf("asking the agent: status %d", res.StatusCode)
	}
	return nil, &client.Error{Problem: p}
}

// reason is the innermost text of a connection error: no URL that nobody typed.
func reason(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return "no connection"
}
