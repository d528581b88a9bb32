// Command app runs the counter vault under a software root key that exists for this run alone: it fills the vault, shows
// the secret until it may not, and lets two vaults attest one another. Give it the image and the SIGSTRUCT that `assay
// enclave build` and `assay enclave sign` made of examples/vault/enclave. With the address of examples/vault/server and the
// launch configuration that it prints, the vault is filled from there instead (sign it with KSS).
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/examples/vault"
	"github.com/assay-attest/assay/examples/vault/untrusted"
	"github.com/assay-attest/assay/internal/monitor"
)

func main() {
	if len(os.Args) != 3 && len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: app IMAGE SIGSTRUCT [ADDRESS KEYID]")
		os.Exit(1)
	}
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, imageFile, sigFile string, server []string) error {
	image, err := os.ReadFile(imageFile)
	if err != nil {
		return err
	}
	sigstruct, err := os.ReadFile(sigFile)
	if err != nil {
		return err
	}
	s, err := abi.ParseSigstruct(sigstruct)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vault")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	// A root key of this run: what is sealed now opens never again. A real monitor gets its key from the root keeper.
	root, err := enclave.NewRoot(rand.Reader)
	if err != nil {
		return err
	}
	key, err := root.Monitor(1)
	if err != nil {
		return err
	}
	p := abi.Platform{Launch: abi.LaunchUserspace, Root: abi.RootSimulated, SVN: 1}
	attestation, err := key.AttestationKey(p, "")
	if err != nil {
		return err
	}
	m, err := monitor.New(ctx, monitor.Config{
		Key: key, Platform: p, Policy: monitor.Policy{Own: [][32]byte{s.MRSIGNER()}}, Rand: rand.Reader, Now: time.Now,
		Quote: func(_ context.Context, body abi.ReportBody) ([]byte, error) {
			q, err := enclave.Quote(rand.Reader, body, attestation)
			return q.Bytes(), err
		},
	})
	if err != nil {
		return err
	}
	defer m.Close(ctx)

	if len(server) == 2 {
		return provision(ctx, m, image, sigstruct, filepath.Join(dir, "p"), server[0], server[1])
	}
	return demonstrate(ctx, m, image, sigstruct, dir)
}

// demonstrate fills a vault, empties it, and lets two of them meet.
func demonstrate(ctx context.Context, m *monitor.Monitor, image, sigstruct []byte, dir string) error {
	a, err := untrusted.Start(ctx, m, image, sigstruct, filepath.Join(dir, "a"))
	if err != nil {
		return err
	}
	defer a.Destroy()
	fmt.Printf("started %s, mode %s\n", a, a.Platform().Mode)
	if err := a.Fill(ctx, vault.Contents{Secret: []byte("the treasure lies under the oak"), Times: 2}); err != nil {
		return err
	}
	show(ctx, a)
	b, err := untrusted.Start(ctx, m, image, sigstruct, filepath.Join(dir, "b"))
	if err != nil {
		return err
	}
	defer b.Destroy()
	var challenge [32]byte
	if _, err := rand.Read(challenge[:]); err != nil {
		return err
	}
	peer, err := a.Introduce(ctx, b, challenge)
	if err != nil {
		return err
	}
	fmt.Printf("a has met %x, product %d, version %d\n", peer.MRENCLAVE, peer.Product, peer.SVN)
	return nil
}

// show shows the secret until the vault refuses.
func show(ctx context.Context, v *untrusted.Vault) {
	for {
		shown, err := v.Show(ctx)
		if err != nil {
			fmt.Println("refused:", err)
			return
		}
		fmt.Printf("%s (%d times left)\n", shown.Secret, shown.Times)
	}
}
