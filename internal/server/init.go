package server

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/assay-attest/assay/internal/httpapi"
	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/internal/keyring"
	"github.com/assay-attest/assay/internal/store/postgres"
	"github.com/assay-attest/assay/rats"
)

// InitOptions say how to make a server. Dir, Rand and Now are required.
type InitOptions struct {
	Dir    string
	Listen string   // DefaultListen if empty
	Names  []string // host names and addresses clients will use; loopback and the listening host are added
	URL    string   // under which others reach the server; derived if empty
	// Database is the address of a PostgreSQL database, which other servers may share; empty: a file in Dir.
	Database string
	// Join and JoinKey are files that Export wrote: this server shares keys, access and database with the one they are of.
	Join, JoinKey string
	Rand          io.Reader
	Now           func() time.Time
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

// Init makes a data directory: keys, CA, database with the namespace "default", and one admin token; with Join everything
// but the database's address is another server's, and there is no new token. It refuses a directory that holds a server
// already.
func Init(ctx context.Context, o InitOptions) (InitResult, error) {
	if _, err := os.Stat(filepath.Join(o.Dir, configFile)); err == nil {
		return InitResult{}, fmt.Errorf("%s holds a server already; choose another --data, or start it: assay server run --data %s", o.Dir, o.Dir)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return InitResult{}, fmt.Errorf("making the data directory: %w", err)
	}
	var shared bundle
	if o.Join != "" {
		var err error
		if shared, err = openBundle(o.Join, o.JoinKey, o.Now()); err != nil {
			return InitResult{}, err
		}
		defer shared.wipe()
		o.inherit(shared)
	}
	settings, err := o.settings()
	if err != nil {
		return InitResult{}, err
	}
	settings.Retention, settings.Collateral, settings.Update = shared.Retention, shared.Collateral, shared.Update
	if o.Join != "" {
		return o.join(ctx, settings, shared)
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
	if err := settings.write(o.Dir); err != nil {
		return InitResult{}, err
	}
	return InitResult{
		AdminToken: token, CAFile: caPath, CAHash: ca.Digest(), URL: settings.URL, Dir: o.Dir, Verifier: keys.VerifierID(),
	}, nil
}

// write comes last, so that a directory with settings is whole.
func (s Settings) write(dir string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, configFile), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing the settings: %w", err)
	}
	return nil
}

// inherit takes from the bundle what wasn't said. All servers are one issuer: the address in results is the first one's.
func (o *InitOptions) inherit(b bundle) {
	if o.URL == "" {
		o.URL = b.URL
	}
	if o.Database == "" {
		o.Database = b.Database
	}
}

// join makes the data directory of one more server of a database.
func (o InitOptions) join(ctx context.Context, settings Settings, b bundle) (InitResult, error) {
	if err := b.unpack(o.Dir); err != nil {
		return InitResult{}, err
	}
	keys, err := keyring.Open(filepath.Join(o.Dir, keysDir))
	if err != nil {
		return InitResult{}, fmt.Errorf("opening the keys of the bundle: %w", err)
	}
	defer keys.Close()
	der, err := readCA(o.Dir)
	if err != nil {
		return InitResult{}, err
	}
	ca, err := identity.LoadCA(der, keys.CA(), identity.CAConfig{VerifierID: keys.VerifierID(), Now: o.Now, Rand: o.Rand})
	if err != nil {
		return InitResult{}, fmt.Errorf("loading the CA: %w", err)
	}
	if err := initDatabase(ctx, o); err != nil {
		return InitResult{}, err
	}
	if err := settings.write(o.Dir); err != nil {
		return InitResult{}, err
	}
	return InitResult{
		CAFile: filepath.Join(o.Dir, caFile), CAHash: ca.Digest(), URL: settings.URL, Dir: o.Dir, Verifier: keys.VerifierID(),
	}, nil
}

func (o InitOptions) settings() (Settings, error) {
	s := Settings{Listen: o.Listen, Names: slices.Clone(o.Names), URL: o.URL, Database: o.Database}
	if s.Database != "" {
		if err := postgres.CheckURL(s.Database); err != nil {
			return s, err
		}
	}
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
