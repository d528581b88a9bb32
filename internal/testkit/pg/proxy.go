package pg

import (
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Proxy stands between servers and the database and can cut them off from it.
type Proxy struct {
	// Address is the database's as seen through the proxy.
	Address string

	mu   sync.Mutex
	open *sync.Cond
	cut  bool
	gone bool
}

// NewProxy returns a proxy in front of the database of an address that URL returned.
func NewProxy(tb testing.TB, address string) *Proxy {
	tb.Helper()
	dir, err := os.MkdirTemp("", "pgx-")
	if err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{}
	p.open = sync.NewCond(&p.mu)
	tb.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		p.gone = true
		p.open.Broadcast()
		p.mu.Unlock()
		os.RemoveAll(dir)
	})
	u, err := url.Parse(address)
	if err != nil {
		tb.Fatal(err)
	}
	target := Socket(tb, address)
	q := u.Query()
	q.Set("host", dir)
	u.RawQuery = q.Encode()
	p.Address = u.String()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c, target)
		}
	}()
	return p
}

// Cut stops all traffic without closing anything, as a network does that drops packets.
func (p *Proxy) Cut() { p.set(true) }

// Restore lets the traffic flow again.
func (p *Proxy) Restore() { p.set(false) }

func (p *Proxy) set(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	p.open.Broadcast()
}

// pass waits while the traffic is stopped; false means for good.
func (p *Proxy) pass() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.cut && !p.gone {
		p.open.Wait()
	}
	return !p.gone
}

func (p *Proxy) serve(c net.Conn, target string) {
	defer c.Close()
	if !p.pass() {
		return
	}
	d, err := net.Dial("unix", target)
	if err != nil {
		return
	}
	defer d.Close()
	var wg sync.WaitGroup
	copyTo := func(to, from net.Conn) {
		b := make([]byte, 64<<10)
		for {
			n, err := from.Read(b)
			if n > 0 && p.pass() {
				if _, err := to.Write(b[:n]); err != nil {
					break
				}
			}
			if err == io.EOF || err != nil || !p.pass() {
				break
			}
		}
		_ = to.Close()
		_ = from.Close()
	}
	wg.Go(func() { copyTo(d, c) })
	wg.Go(func() { copyTo(c, d) })
	wg.Wait()
}
