package postgres

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
)

// CheckURL refuses a database address that can't be kept in a settings file or given on a command line: one that isn't
// postgres://, or that holds a password.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return errors.New("the database's address must have the form postgres://user@host/database?sslrootcert=FILE")
	}
	if _, has := u.User.Password(); has || u.Query().Has("password") || u.Query().Has("sslpassword") {
		return errors.New("the database's address holds a password, which others would see: keep it in the file that PGPASSFILE names (mode 0600), or use a client certificate (sslcert, sslkey)")
	}
	return nil
}

// parse reads an address, with what libpq's environment variables add. Over a network the server's certificate is
// verified: that is the default here, and nothing weaker is accepted; loopback and Unix sockets need no TLS.
func parse(raw string) (*pgxpool.Config, error) {
	if err := CheckURL(raw); err != nil {
		return nil, err
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("reading the database's address")
	}
	q := u.Query()
	if !q.Has("sslmode") && os.Getenv("PGSSLMODE") == "" {
		q.Set("sslmode", "verify-full")
		if host := firstHost(u, q); local(host) {
			q.Set("sslmode", "disable")
		}
		u.RawQuery = q.Encode()
	}
	cfg, err := pgxpool.ParseConfig(u.String())
	if err != nil {
		return nil, fmt.Errorf("reading the database's address: %w", err) // pgx leaves passwords out of it
	}
	c := &cfg.ConnConfig.Config
	if err := encrypted(c.Host, c.TLSConfig); err != nil {
		return nil, err
	}
	for _, f := range c.Fallbacks {
		if err := encrypted(f.Host, f.TLSConfig); err != nil {
			return nil, err
		}
	}
	return cfg, nil
}

func firstHost(u *url.URL, q url.Values) string {
	switch {
	case q.Has("host"):
		return q.Get("host")
	case u.Hostname() != "":
		return u.Hostname()
	case os.Getenv("PGHOST") != "":
		return os.Getenv("PGHOST")
	}
	return "/"
}

// encrypted refuses a connection over a network that doesn't verify who answers.
func encrypted(host string, cfg *tls.Config) error {
	if local(host) {
		return nil
	}
	if cfg == nil || cfg.InsecureSkipVerify && cfg.VerifyPeerCertificate == nil && cfg.VerifyConnection == nil {
		return fmt.Errorf("the connection to the database at %s would not be verified: leave sslmode out, or use verify-full with sslrootcert", host)
	}
	return nil
}

// local says whether a host is a Unix socket or loopback.
func local(host string) bool {
	if strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") || host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
