package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"

	"github.com/assay-attest/assay/examples/vault/provisioner"
	"github.com/assay-attest/assay/examples/vault/untrusted"
	"github.com/assay-attest/assay/internal/attesters"
	"github.com/assay-attest/assay/internal/monitor"
)

// provision starts a vault that trusts one server, and has it filled from there. All that goes by here is encrypted.
func provision(ctx context.Context, m *monitor.Monitor, image, sigstruct []byte, file, address, keyID string) error {
	id, err := hex.DecodeString(keyID)
	if err != nil || len(id) != 32 {
		return fmt.Errorf("reading the server's key id: %q is not 64 hex digits", keyID)
	}
	v, err := untrusted.StartBy(func(o monitor.Options) (monitor.Running, error) {
		copy(o.Start.ConfigID[:], id)
		return m.Load(ctx, image, sigstruct, o)
	}, file)
	if err != nil {
		return err
	}
	defer v.Destroy()
	v.Completes(attesters.Complete(attesters.Deps{}, sigstruct, nil))
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	err = v.Provision(ctx, func(_ context.Context, message []byte) ([]byte, error) {
		if err := provisioner.Send(conn, message); err != nil {
			return nil, err
		}
		return provisioner.Receive(conn)
	})
	if err != nil {
		return err
	}
	show(ctx, v)
	return nil
}
