package agent

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/rats"
)

// codeStale is the server's answer to a release for which the node's result is too old: a challenge is on its way (S42).
const codeStale rats.Code = "broker.result.stale"

// releaseTimeout bounds the wait for a fresh result.
const releaseTimeout = 30 * time.Second

const maxSecretName = 253

// release gets a secret and opens it with the enclave's key. If the server wants a fresher result, or the last one was
// sealed to keys of an earlier run, it waits for one. The secret is the caller's to wipe.
func (a *agent) release(ctx context.Context, name string) ([]byte, error) {
	if !validSecretName(name) {
		return nil, CodeSecretName.Bad("name", "lower-case letters, digits, '.', '_', '-' and '/'", clip(name))
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	for need := 1; ; {
		seen, err := a.waitFresh(ctx, need)
		if err != nil {
			return nil, err
		}
		rel, err := a.upstream().ReleaseSecret(ctx, a.state.Node, name)
		if staleResult(err) {
			a.log.Info("secret needs a fresh result", "secret", name)
			need = seen + 1
			continue
		}
		if err != nil {
			return nil, err
		}
		if rel.Name != name {
			return nil, CodeRelease.Bad("name", name, clip(rel.Name))
		}
		secret, err := a.plat.enclave.OpenRelease(ctx, rel)
		if err != nil {
			return nil, CodeRelease.Bad("sealed", "a box for this enclave's key", "another")
		}
		a.log.Info("secret released", "secret", name, "version", rel.Version, "result", clip(rel.Result))
		return secret, nil
	}
}

func staleResult(err error) bool {
	var refused *client.Error
	return errors.As(err, &refused) && refused.Problem.Status == http.StatusConflict && refused.Problem.Code == codeStale
}

// waitFresh waits until this process has need results of its own, and returns how many it has.
func (a *agent) waitFresh(ctx context.Context, need int) (int, error) {
	for {
		a.mu.Lock()
		fresh, changed := a.fresh, a.changed
		a.mu.Unlock()
		if fresh >= need {
			return fresh, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, CodeNoFreshResult.Missing("result", "a result within "+releaseTimeout.String(), "none")
		}
	}
}

// validSecretName is a first sieve; the server has the last word on names.
func validSecretName(s string) bool {
	if !fs.ValidPath(s) || s == "." || len(s) > maxSecretName {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789._-/") == ""
}
