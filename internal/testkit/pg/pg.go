// Package pg gives tests a PostgreSQL server, one for each test binary, reached by a Unix socket.
//
// It needs the Debian package postgresql. Without it a test is skipped, so that go test works on a fresh clone; where CI
// is set it fails instead: a test that is skipped proves nothing. The server ends with the test binary, whichever way
// that ends.
package pg

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// instance is a running server.
type instance struct {
	dir string
	err error
}

var (
	started = sync.OnceValue(start)
	schemas atomic.Int64
)

// errAbsent is why tests are skipped.
var errAbsent = errors.New("PostgreSQL is not installed: run make tools, or apt-get install postgresql")

// URL returns the address of an empty schema of its own on the test binary's server.
func URL(tb testing.TB) string {
	tb.Helper()
	in := started()
	switch {
	case errors.Is(in.err, errAbsent) && os.Getenv("CI") == "":
		tb.Skip(in.err)
	case in.err != nil:
		tb.Fatal(in.err)
	}
	name := fmt.Sprintf("t%d", schemas.Add(1))
	base := url.URL{Scheme: "postgres", User: url.User("assay"), Path: "/postgres"}
	base.RawQuery = url.Values{"host": {in.dir}, "sslmode": {"disable"}}.Encode()
	c, err := pgx.Connect(context.Background(), base.String())
	if err != nil {
		tb.Fatalf("connecting to the test database: %v", err)
	}
	defer c.Close(context.Background())
	if _, err := c.Exec(context.Background(), "CREATE SCHEMA "+name); err != nil {
		tb.Fatalf("making a schema: %v", err)
	}
	base.RawQuery = url.Values{"host": {in.dir}, "sslmode": {"disable"}, "search_path": {name}}.Encode()
	return base.String()
}

// Socket returns the path of the server's socket, for a test that puts something in between.
func Socket(tb testing.TB, address string) string {
	tb.Helper()
	u, err := url.Parse(address)
	if err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432")
}

func start() instance {
	bin, err := binaries()
	if err != nil {
		return instance{err: err}
	}
	dir, err := os.MkdirTemp("", "pg-") // short: a socket's path has 107 bytes
	if err != nil {
		return instance{err: err}
	}
	attr, err := credential(dir)
	if err != nil {
		return instance{err: err}
	}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "assay", "-A", "trust", "-N", "-E", "UTF8", "--locale=C")
	initdb.SysProcAttr, initdb.Dir = attr, dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return instance{err: fmt.Errorf("initdb: %w: %s", err, out)}
	}
	// The shell ends the server when this process, which holds the other end of its standard input, is gone.
	cmd := exec.Command("/bin/sh", "-c", `"$@" & pid=$!; cat >/dev/null; kill -INT $pid; wait $pid; rm -rf "$0"`, dir,
		filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "max_connections=200",
		"-c", "shared_buffers=64MB", "-c", "log_min_messages=warning", "-c", "autovacuum=off")
	cmd.SysProcAttr, cmd.Dir, cmd.Stdout = attr, dir, nil
	if _, err := cmd.StdinPipe(); err != nil {
		return instance{err: err}
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return instance{err: err}
	}
	if err := cmd.Start(); err != nil {
		return instance{err: err}
	}
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			if os.Getenv("ASSAY_PG_LOG") != "" {
				fmt.Fprintln(os.Stderr, lines.Text())
			}
		}
		_ = cmd.Wait()
	}()
	address := (&url.URL{Scheme: "postgres", User: url.User("assay"), Path: "/postgres", RawQuery: url.Values{"host": {dir}}.Encode()}).String()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		c, err := pgx.Connect(ctx, address)
		if err == nil {
			_ = c.Close(ctx)
		}
		cancel()
		if err == nil {
			return instance{dir: dir}
		}
		if time.Now().After(end) {
			return instance{err: fmt.Errorf("starting PostgreSQL: %w", err)}
		}
	}
}

// binaries finds the newest installed server.
func binaries() (string, error) {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	sort.Strings(dirs)
	if len(dirs) > 0 {
		return filepath.Dir(dirs[len(dirs)-1]), nil
	}
	if p, err := exec.LookPath("postgres"); err == nil {
		return filepath.Dir(p), nil
	}
	return "", errAbsent
}

// credential is another user than root, whom PostgreSQL refuses, and gives that user the directory.
func credential(dir string) (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{}
	if os.Getuid() != 0 {
		return attr, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return nil, err
		}
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2, os.Chown(dir, uid, gid)); err != nil {
		return nil, err
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attr, nil
}
