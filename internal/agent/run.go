package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/rats"
)

// RunOptions say how to run a joined agent.
type RunOptions struct {
	Dir    string
	Config Config // of ReadConfig or ParseConfig

	Rand      io.Reader
	Now       func() time.Time
	Dialer    func(ctx context.Context, network, addr string) (net.Conn, error) // nil: net.Dialer
	Log       *slog.Logger                                                      // nil: none
	UserAgent string

	platform func(context.Context, State, Config) (*platform, error) // nil: openPlatform
}

// upstream is the server as the running agent sees it: a *client.Client.
type upstream interface {
	Stream(ctx context.Context, node string, instance []byte, boot rats.Digest) iter.Seq2[client.StreamEvent, error]
	Submit(ctx context.Context, node string, s api.Submission) (api.Answer, error)
	ReleaseSecret(ctx context.Context, node, name string) (api.Release, error)
	RenewCertificate(ctx context.Context, node string, r api.CertificateRequest) (api.Certificate, error)
	Close()
}

// agent is one run.
type agent struct {
	dir      string
	now      func() time.Time
	log      *slog.Logger
	plat     *platform
	backoff  backoff
	instance []byte // random, of this process (S07)
	spki     []byte // of the TLS key
	queue    chan job
	dial     func(State) (upstream, error)
	rounds   int // how many servers there are: the pause grows once all of them failed

	mu         sync.Mutex
	state      State
	up         upstream
	connected  bool
	told       *api.Told
	fresh      int           // results of this process's own submissions
	changed    chan struct{} // closed when fresh grows
	checkpoint api.Checkpoint
}

// Run runs the agent until ctx ends (nil) or it can't go on: its state or TPM is unusable, or the server speaks another
// protocol. A server that can't be reached is no reason to end.
func Run(ctx context.Context, o RunOptions) error {
	s, err := LoadState(o.Dir)
	if err != nil {
		return err
	}
	release, err := lock(o.Dir)
	if err != nil {
		return err
	}
	defer release()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	open := o.platform
	if open == nil {
		open = func(ctx context.Context, s State, c Config) (*platform, error) {
			return openPlatform(ctx, s, c, o.Rand, o.Now, o.Log)
		}
	}
	plat, err := open(ctx, s, o.Config)
	if err != nil {
		return err
	}
	defer plat.close()
	a, err := newAgent(o, s, plat)
	if err != nil {
		return err
	}
	ln, err := listenLocal(o.Config.SocketPath(o.Dir))
	if err != nil {
		return err
	}
	a.log.Info("agent started", "server", a.server(), "namespace", s.Namespace, "node", s.Node, "name", s.Name)
	return a.run(ctx, ln)
}

func newAgent(o RunOptions, s State, plat *platform) (*agent, error) {
	s.Server = addresses(o.Config, s)[0]
	spki, err := x509.MarshalPKIXPublicKey(plat.key.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding the TLS key: %w", err)
	}
	a := &agent{
		dir: o.Dir, now: o.Now, log: o.Log, plat: plat, backoff: backoff{rand: o.Rand}, state: s, spki: spki,
		instance: make([]byte, 32), queue: make(chan job, 1), changed: make(chan struct{}),
	}
	if _, err := io.ReadFull(o.Rand, a.instance); err != nil {
		return nil, fmt.Errorf("reading randomness: %w", err)
	}
	list := addresses(o.Config, s)
	dial := func(s State, server string) (upstream, error) {
		return client.New(client.Options{
			Server: server, CAs: s.CAs, Namespace: s.Namespace, Dialer: o.Dialer, Now: o.Now, UserAgent: o.UserAgent,
			Certificate: &tls.Certificate{Certificate: [][]byte{s.Certificate}, PrivateKey: plat.key},
		})
	}
	a.rounds = len(list)
	a.dial = func(s State) (upstream, error) {
		var ups []upstream
		for _, server := range list {
			up, err := dial(s, server)
			if err != nil {
				return nil, err
			}
			ups = append(ups, up)
		}
		return newServers(ups, o.Rand), nil
	}
	if a.up, err = a.dial(s); err != nil {
		return nil, err
	}
	a.checkpoint = a.loadCheckpoint()
	return a, nil
}

func (a *agent) run(ctx context.Context, ln net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	if ln != nil {
		srv := &http.Server{Handler: a.local(), ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
		g.Go(func() error {
			if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serving the local socket: %w", err)
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			return srv.Close()
		})
	}
	g.Go(func() error { return a.hold(ctx) })
	g.Go(func() error { return a.work(ctx) })
	g.Go(func() error { return a.renew(ctx) })
	g.Go(func() error { return a.watch(ctx, "/") })
	err := g.Wait()
	a.upstream().Close()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (a *agent) upstream() upstream {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.up
}

func (a *agent) server() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state.Server
}

// hold keeps a stream to the server open.
func (a *agent) hold(ctx context.Context) error {
	for failed := 1; ; failed++ {
		began := a.now()
		atLeast, err := a.stream(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := protocolError(err); rats.Code(codeOf(err)) == CodeProtocol.Code {
			return err
		}
		if a.now().Sub(began) >= steady {
			a.backoff.reset()
			failed = 1
		}
		pause := max(a.backoff.next(failed%max(a.rounds, 1) == 0), atLeast)
		a.log.Warn("stream lost", "code", codeOf(err), "error", text(err), "retry_in", pause.Round(time.Millisecond).String())
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// stream holds one stream until it ends. The server may say how long to stay away.
func (a *agent) stream(ctx context.Context) (atLeast time.Duration, err error) {
	boot, err := a.plat.boot(ctx)
	if err != nil {
		// It could only lower trust: the server asks the TPM itself.
		a.log.Warn("identifying the boot", "error", text(err))
	}
	defer a.setConnected(false)
	for e, err := range a.upstream().Stream(ctx, a.state.Node, a.instance, boot) {
		switch {
		case err != nil:
			return 0, err
		case e.Opened:
			a.setConnected(true)
			a.log.Info("stream open")
		case e.Challenge != nil:
			a.enqueue(*e.Challenge)
		case e.Result != nil:
			a.remember(*e.Result, false)
		case e.Bye != nil:
			return byePause(*e.Bye), &client.Error{Problem: *e.Bye}
		}
	}
	return 0, io.EOF
}

// byePause is how long the server asks to stay away, within reason.
func byePause(p api.Problem) time.Duration {
	d, err := time.ParseDuration(p.RetryIn)
	if err != nil || d < 0 {
		return 0
	}
	return min(d, 5*pauseMax)
}

func (a *agent) setConnected(b bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.connected = b
}

// sleep waits for d or the end of ctx, whose error it returns.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// protocolError gives the refusal of a protocol version this package's code, and says what to do.
func protocolError(err error) error {
	var refused *client.Error
	if errors.As(err, &refused) && refused.Problem.Status == http.StatusUpgradeRequired {
		seen := refused.Problem.Expected
		if seen == "" {
			seen = "another"
		}
		return CodeProtocol.Bad("protocol", api.Protocol, clip(seen))
	}
	return err
}

func codeOf(err error) string { return string(client.CodeOf(err)) }

// text is what the log gets of an error. What was looked at, expected and seen stays out: it can hold paths of a plan.
func text(err error) string {
	if err == nil {
		return ""
	}
	if r, ok := rats.ReasonOf(err); ok {
		return r.Title
	}
	var refused *client.Error
	if errors.As(err, &refused) {
		return refused.Problem.Title
	}
	return err.Error()
}
