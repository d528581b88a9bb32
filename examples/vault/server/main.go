// Command server fills counter vaults: it listens, and gives the contents of a file to every vault that its policy affirms.
// The key is PKCS #8 in PEM, made for example by `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`.
package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/assay-attest/assay/examples/vault"
	"github.com/assay-attest/assay/examples/vault/provisioner"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: server ADDRESS KEY POLICY SECRET")
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, run(os.Args[1], os.Args[2], os.Args[3], os.Args[4])) // it serves until something ends it
	os.Exit(1)
}

func run(address, keyFile, policyFile, secretFile string) error {
	key, err := readKey(keyFile)
	if err != nil {
		return err
	}
	doc, err := os.ReadFile(policyFile)
	if err != nil {
		return err
	}
	secret, err := os.ReadFile(secretFile)
	if err != nil {
		return err
	}
	s, err := provisioner.New(provisioner.Config{Key: key, Policy: doc, Rand: rand.Reader, Now: time.Now})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Printf("listening on %s; start vaults with the launch configuration %x\n", l.Addr(), s.KeyID())
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				return
			}
			left, err := s.Serve(context.Background(), conn, vault.Contents{Secret: secret, Times: 3})
			fmt.Println(conn.RemoteAddr(), left.Times, err)
		}()
	}
}

func readKey(file string) (crypto.Signer, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("reading the server's key: it is not PEM")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the server's key: %w", err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, errors.New("reading the server's key: it can't sign")
	}
	return s, nil
}
