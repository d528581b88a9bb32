// Package server puts the parts of a Verifier together: keys, database, appraiser, API. It is the composition root of
// assay server; it decides nothing itself.
package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/evidence/all"
	"github.com/assay-attest/assay/internal/appraiser"
	"github.com/assay-attest/assay/internal/endorse"
	"github.com/assay-attest/assay/internal/httpapi"
	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/internal/keyring"
	"github.com/assay-attest/assay/internal/notify"
	"github.com/assay-attest/assay/internal/refs"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// DefaultListen is where a server listens unless told otherwise.
const DefaultListen = "127.0.0.1:8443"

// DefaultNamespace exists from the first start on.
const DefaultNamespace = "default"

// Files in the data directory.
const (
	keysDir    = "keys"
	caFile     = "ca.pem"
	dbFile     = "assay.db"
	accessFile = "access.json"
	configFile = "server.json"

	collateralDir = "collateral"
)

// Settings are kept in server.json.
type Settings struct {
	Listen string   `json:"listen"`
	Names  []string `json:"names"` // host names and addresses in the server's certificate
	URL    string   `json:"url"`   // under which others reach the server; issuer of its results
	// Collateral names the services that collateral may be fetched from: vendor ("intel", "amd") → base address, or
	// "official". None, the default: nothing is fetched, and what was imported into the directory collateral/ is used.
	Collateral map[string]string `json:"collateral,omitempty"`
	// Database is the address of the database that several servers share, without password; empty: a file of this server's.
	Database  string    `json:"database,omitempty"`
	Retention Retention `json:"retention,omitzero"`
	// Notify is what webhooks and actions may do.
	Notify notify.Settings `json:"notify,omitzero"`
	// Update is the channel of Intel's documents: endorse.Standard, the default, or endorse.Early.
	Update string `json:"collateral_update,omitempty"`
}

// RunOptions say how to run a server. Dir, Rand, Now and Log are required.
type RunOptions struct {
	Dir    string
	Listen string // overrides the settings
	// Database overrides the settings' address, where there is one.
	Database string
	Version  string
	Rand     io.Reader
	Now      func() time.Time
	Log      *slog.Logger
	Ready    func(addr string) // called once it listens
	// ChallengeTTL bounds the life of a challenge; zero: 30 s, at most 60 s (S02).
	ChallengeTTL time.Duration
	// Lease is for how long a shared database counts this server as alive when it hears nothing of it; zero: 6 s.
	Lease time.Duration
}

// shutdownGrace is how long requests in flight may take when the server stops.
const shutdownGrace = 10 * time.Second

// Run serves until ctx ends, then stops in order: streams are ended, requests finish, the database is closed.
func Run(ctx context.Context, o RunOptions) error {
	settings, err := ReadSettings(o.Dir)
	if err != nil {
		return err
	}
	if o.Listen != "" {
		settings.Listen = o.Listen
	}
	keys, err := keyring.Open(filepath.Join(o.Dir, keysDir))
	if err != nil {
		return fmt.Errorf("opening the server's keys: %w", err)
	}
	defer keys.Close()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if o.Database != "" {
		if settings.Database == "" {
			return errors.New("this server keeps its state in a file of its own: a shared database is chosen at init")
		}
		settings.Database = o.Database
	}
	if o.Lease <= 0 {
		o.Lease = lease
	}
	db, err := openDatabase(ctx, o.Dir, settings.Database, o.Rand, o.Now, o.Log, o.Lease)
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	defer db.Close()
	if cluster, ok := db.(store.Cluster); ok {
		o.Now = cluster.Now // all servers go by the database's clock
	}
	if err := db.Migrate(ctx); err != nil {
		return fmt.Errorf("bringing the database up to date: %w", err)
	}
	vendors, err := collateral(o, settings)
	if err != nil {
		return fmt.Errorf("opening the collateral: %w", err)
	}
	defer vendors.Close()
	views := refs.NewCache(all.Descriptors())
	telling, err := newDispatcher(o, settings, keys, db, views)
	if err != nil {
		return fmt.Errorf("reading the settings of webhooks and actions: %w", err)
	}
	handler, ap, tlsConfig, err := assemble(o, settings, keys, db, vendors, views, telling)
	if err != nil {
		return err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	defer tasks.Wait() // before the database is closed
	defer stop()
	tasks.Go(func() { ap.Watch(background) })
	tasks.Go(func() { telling.Run(background) })
	tasks.Go(func() { purge(background, db, settings.Retention, o.Now, o.Log) })
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", settings.Listen)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", settings.Listen, err)
	}
	return serve(ctx, o, handler, tlsConfig, l)
}

// gcPercent trades memory for time: what a server keeps is small against what passes through it. GOGC overrides it.
const gcPercent = 300

func serve(ctx context.Context, o RunOptions, handler *httpapi.API, tlsConfig *tls.Config, l net.Listener) error {
	srv := &http.Server{
		Handler: handler, TLSConfig: tlsConfig, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.ServeTLS(l, "", "") }()
	o.Log.Info("serving", "address", l.Addr().String(), "version", o.Version)
	if o.Ready != nil {
		o.Ready(l.Addr().String())
	}
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	o.Log.Info("stopping")
	handler.EndStreams()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		return errors.Join(fmt.Errorf("waiting for requests to finish: %w", err), srv.Close())
	}
	return nil
}

// assemble builds the API over keys and database.
func assemble(o RunOptions, settings Settings, keys *keyring.Keyring, db store.Store, vendors *endorse.Cache,
	views *refs.Cache, telling *notify.Dispatcher) (*httpapi.API, *appraiser.Appraiser, *tls.Config, error) {
	caDER, err := readCA(o.Dir)
	if err != nil {
		return nil, nil, nil, err
	}
	ca, err := identity.LoadCA(caDER, keys.CA(), identity.CAConfig{VerifierID: keys.VerifierID(), Now: o.Now, Rand: o.Rand})
	if err != nil {
		return nil, nil, nil, fmt.Errorf("loading the CA: %w", err)
	}
	pins, err := identity.NewPins([][]byte{caDER}, o.Now)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("pinning the CA: %w", err)
	}
	engine := appraise.New(all.Verifiers()...)
	cfg := appraiser.Config{
		Store: db, Engine: engine, Refs: views, Tokens: keys.Tokens(), Results: keys.Results(),
		PlanSigner: keys.PlanSigner(), PlanSPKI: keys.PlanSignerSPKI(), Verifier: keys.VerifierID(), Collateral: vendors, Derive: keys.Derive,
		Now: o.Now, Rand: o.Rand, Log: o.Log, TTL: o.ChallengeTTL,
	}
	if c, ok := db.(store.Cluster); ok {
		cfg.Cluster, cfg.Takeover = c, takeover(o.Lease)
	}
	ap := appraiser.New(cfg)
	joiner, err := identity.NewJoiner(identity.Config{
		Keys: keys.Tokens(), CA: ca, Pins: pins, Now: o.Now, Rand: o.Rand, VerifierID: keys.VerifierID(), PlanSigner: keys.PlanSignerSPKI(),
		Vouch: vouch(db, views, o.Now),
	})
	if err != nil {
		return nil, nil, nil, err
	}
	secrets, err := newBroker(keys, engine.Descriptors(), o.Now)
	if err != nil {
		return nil, nil, nil, err
	}
	certs, err := ca.ServerCertificates(settings.Names)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("issuing the server's certificate: %w", err)
	}
	tlsConfig, err := identity.ServerTLS(pins, certs)
	if err != nil {
		return nil, nil, nil, err
	}
	handler := httpapi.New(httpapi.Config{
		Store: db, Appraiser: ap, Refs: views, Joiner: joiner, Pins: pins, Broker: secrets, Keys: keys, Notify: telling,
		Access: httpapi.OpenAccess(filepath.Join(o.Dir, accessFile)), Issuer: settings.URL, Version: o.Version,
		Now: o.Now, Rand: o.Rand, Log: o.Log,
	}, prometheus.NewRegistry())
	return handler, ap, tlsConfig, nil
}

// collateral opens the cache of what vendors say of their platforms.
func collateral(o RunOptions, s Settings) (*endorse.Cache, error) {
	cfg := endorse.Config{
		Now: o.Now, Rand: o.Rand, Dir: filepath.Join(o.Dir, collateralDir), Services: map[string]string{},
		Roots: all.Roots(), Update: s.Update,
	}
	for vendor, service := range s.Collateral {
		if service == "official" {
			service = endorse.Official[vendor]
		}
		cfg.Services[vendor] = service
	}
	if len(cfg.Services) > 0 {
		cfg.Hosts = endorse.HostsOf(cfg.Services)
		cfg.Transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxResponseHeaderBytes: 256 << 10, ForceAttemptHTTP2: true,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		}
	}
	return endorse.Open(cfg)
}

// vouch asks the policy that would judge the node whether its TPM is one the owner trusts (S07).
func vouch(db store.Store, views *refs.Cache, now func() time.Time) func(context.Context, string, store.Node, rats.Endorsement) []rats.Reason {
	return func(ctx context.Context, namespace string, n store.Node, e rats.Endorsement) []rats.Reason {
		view, err := views.Fresh(ctx, db.In(namespace), namespace)
		if err != nil {
			return []rats.Reason{httpapi.CodeUnavailable.At(rats.None, "database", "an answer", "none")}
		}
		active, why := view.Active(appraiser.NodeFacts(n))
		if len(why) > 0 {
			return why
		}
		return active.Vouch(e, now())
	}
}

func readCA(dir string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return nil, fmt.Errorf("reading the CA certificate: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("reading the CA certificate: %s holds no PEM certificate", caFile)
	}
	return block.Bytes, nil
}

// ReadSettings reads a data directory's settings.
func ReadSettings(dir string) (Settings, error) {
	var s Settings
	b, err := os.ReadFile(filepath.Join(dir, configFile))
	if errors.Is(err, os.ErrNotExist) {
		return s, fmt.Errorf("%s holds no server: run assay server init --data %s first", dir, dir)
	}
	if err != nil {
		return s, fmt.Errorf("reading the server's settings: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("reading the server's settings in %s: %w", configFile, err)
	}
	return s, nil
}

// Role is what an access token lets its holder do.
type Role = httpapi.Kind

// The roles.
const (
	Reader = httpapi.Reader
	Admin  = httpapi.Admin
)

// Access returns the access tokens kept in a data directory.
func Access(dir string) *httpapi.Access { return httpapi.OpenAccess(filepath.Join(dir, accessFile)) }
