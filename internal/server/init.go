package server

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/assay-attest/assay/internal/httpapi"
	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/internal/keyring"
	"github.com/assay-attest/assay/internal/store/sqlite"
	"github.com/assay-attest/assay/rats"
)

// InitOptions say how to make a server. Dir, Rand and Now are required.
type InitOptions struct {
	Dir    string
	Listen string   // DefaultListen if empty
	Names  []string // host names and addresses clients will use; loopback and the listening host are added
	URL    string   // under which others reach the server; derived if empty
	Rand   io.Reader
	Now    func() time.Time
}

// InitResult is what the owner needs; AdminToken is told here only.
type InitResult struct {
	AdminToken string      `json:"admin_token"`
	CAFile     string      `json:"ca_file"`
	CAHash     rats.Digest `json:"ca_hash"`
	URL        string      `json:"url"`
	Dir        string      `json:"dir"`
	Verifier   rats.Digest `json:"verifier"`
}

// Init makes a data directory: keys, CA, database with the namespace "default", and one admin token. It refuses a
// directory that holds a server already.
func Init(ctx context.Context, o InitOptions) (InitResult, error) {
	if _, err := os.Stat(filepath.Join(o.Dir, configFile)); err == nil {
		return InitResult{}, fmt.Errorf("%s holds a server already; choose another --data, or start it: assay server run --data %s", o.Dir, o.Dir)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return InitResult{}, fmt.Errorf("making the data directory: %w", err)
	}
	settings, err := o.settings()
	if err != nil {
		return InitResult{}, err
	}
	keys, err := keyring.Init(filepath.Join(o.Dir, keysDir), o.Rand)
	if err != nil {
		return InitResult{}, fmt.Errorf("making the server's keys: %w", err)
	}
	defer keys.Close()
	ca, err := identity.NewCA(keys.CA(), identity.CAConfig{VerifierID: keys.VerifierID(), Now: o.Now, Rand: o.Rand})
	if err != nil {
		return InitResult{}, fmt.Errorf("making the CA: %w", err)
	}
	caPath := filepath.Join(o.Dir, caFile)
	if err := os.WriteFile(caPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.DER()}), 0o644); err != nil {
		return InitResult{}, fmt.Errorf("writing the CA certificate: %w", err)
	}
	if err := initDatabase(ctx, o); err != nil {
		return InitResult{}, err
	}
	token, err := Access(o.Dir).Add("admin", httpapi.Admin, []string{"*"}, o.Rand)
	if err != nil {
		return InitResult{}, err
	}
	b, err := json.MarshalIndent(settings, "", "  ")
	if err != nil {
		return InitResult{}, err
	}
	// Last, so that a directory with settings is whole.
	if err := os.WriteFile(filepath.Join(o.Dir, configFile), append(b, '\n'), 0o600); err != nil {
		return InitResult{}, fmt.Errorf("writing the settings: %w", err)
	}
	return InitResult{
		AdminToken: token, CAFile: caPath, CAHash: ca.Digest(), URL: settings.URL, Dir: o.Dir, Verifier: keys.VerifierID(),
	}, nil
}

func initDatabase(ctx context.Context, o InitOptions) (err error) {
	db, err := sqlite.Open(ctx, filepath.Join(o.Dir, dbFile), sqlite.Options{Now: o.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fmt.Errorf("making the database: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.Migrate(ctx); err != nil {
		return fmt.Errorf("making the database's tables: %w", err)
	}
	return db.Create(ctx, DefaultNamespace)
}

func (o InitOptions) settings() (Settings, error) {
	s := Settings{Listen: o.Listen, Names: slices.Clone(o.Names), URL: o.URL}
	if s.Listen == "" {
		s.Listen = DefaultListen
	}
	host, port, err := net.SplitHostPort(s.Listen)
	if err != nil {
		return s, fmt.Errorf("--listen %q is not host:port: %w", s.Listen, err)
	}
	for _, n := range []string{host, "localhost", "127.0.0.1", "::1"} {
		if n != "" && n != "0.0.0.0" && n != "::" && !slices.Contains(s.Names, n) {
			s.Names = append(s.Names, n)
		}
	}
	if s.URL == "" {
		s.URL = "https://" + net.JoinHostPort(s.Names[0], port)
	}
	return s, nil
}
