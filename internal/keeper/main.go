package keeper

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/rats"
)

// Env is what the program takes from its process.
type Env struct {
	Args       []string // without the program's name
	Name       string   // argv[0]
	Executable string
	Err        io.Writer
	Now        func() time.Time
	Rand       io.Reader
}

// Exit codes of the program.
const (
	ExitOK    = 0
	ExitError = 1
	// ExitCap says that the PCRs may be uncapped: the machine must not go on to user space.
	ExitCap = 5
)

// CappedName is a file in the runtime directory that tells the initramfs scripts that the cap is done.
const CappedName = "capped"

// Main is the program assay-keeper: `run` opens the root and serves until ctx ends, `cap` only caps.
//
//	run [--config FILE] [--state DIR] [--survive] [--owner-key FILE]
//	cap [--tpm DEVICE]
func Main(ctx context.Context, env Env) int {
	err := errors.New("expected run or cap")
	if len(env.Args) > 0 {
		switch env.Args[0] {
		case "run":
			err = run(ctx, env)
		case "cap":
			flags := flag.NewFlagSet("cap", flag.ContinueOnError)
			flags.SetOutput(env.Err)
			device := flags.String("tpm", "", "the TPM; found by itself if empty")
			if err = flags.Parse(env.Args[1:]); err == nil {
				err = Cap(ctx, *device, nil)
			}
		}
	}
	if err == nil {
		return ExitOK
	}
	fmt.Fprintf(env.Err, "assay-keeper: %v\n", err)
	if r, ok := rats.ReasonOf(err); ok && r.Code == CodeCap.Code {
		return ExitCap
	}
	return ExitError
}

func run(ctx context.Context, env Env) error {
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	flags.SetOutput(env.Err)
	file := flags.String("config", DefaultConfig, "configuration")
	state := flags.String("state", "", "state directory, instead of the configuration's: the root file system is elsewhere in the initrd")
	survive := flags.Bool("survive", false, "stay when systemd ends the initrd's processes")
	signer := flags.String("owner-key", "", "owner's policy key (PEM): authorises a new root at once; launch userspace only")
	if err := flags.Parse(env.Args[1:]); err != nil {
		return err
	}
	// systemd spares processes whose name begins with @ (Root Storage Daemons for the Root File System).
	if *survive && env.Name != "@assay-keeper" {
		return fmt.Errorf("starting again: %w", unix.Exec(env.Executable, append([]string{"@assay-keeper"}, env.Args...), os.Environ()))
	}
	text, err := os.ReadFile(*file)
	if err != nil {
		return errors.Join(CodeConfig.Bad(*file, "a readable file", "none"), err)
	}
	o := Options{Rand: env.Rand, Now: env.Now}
	if o.Config, err = ParseConfig(text); err != nil {
		return err
	}
	if *state != "" {
		if !filepath.IsAbs(*state) {
			return CodeConfig.Bad("--state", "an absolute path", clip(*state))
		}
		o.Config.State = *state
	}
	if o.Hardened, err = Harden(); err != nil {
		return err
	}
	if o.Image, err = measureFile(env.Executable); err != nil {
		return err
	}
	if *signer != "" {
		if o.Signer, err = readSigner(*signer); err != nil {
			return err
		}
	}
	return serve(ctx, env, o)
}

func serve(ctx context.Context, env Env, o Options) error {
	k, err := Start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { _ = k.Close() }()
	ln, err := k.Listen(ctx)
	if err != nil {
		return err
	}
	// After the socket: the scripts go on to switch the root file system, and then its path leads elsewhere.
	if o.Config.Launch == LaunchInitrd {
		if err := k.runtime.write(CappedName, nil); err != nil {
			return errors.Join(err, ln.Close())
		}
	}
	if k.reason != nil {
		fmt.Fprintf(env.Err, "assay-keeper: locked: %v\n", k.reason)
	} else {
		fmt.Fprintf(env.Err, "assay-keeper: ready: root %s, %s, launch %s\n", k.root.Root, k.class(), k.cfg.Launch)
	}
	return k.Serve(ctx, ln)
}

func measureFile(path string) (rats.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return rats.Digest{}, fmt.Errorf("measuring the keeper: %w", err)
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return rats.Digest{}, fmt.Errorf("measuring the keeper: %w", err)
	}
	return rats.Digest{Alg: "sha256", Sum: h.Sum(nil)}, nil
}

func readSigner(path string) (crypto.Signer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading the owner's key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, CodeConfig.Bad(path, "mode 0600", fmt.Sprintf("%04o", info.Mode().Perm()))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the owner's key: %w", err)
	}
	defer clear(text)
	return ParseSigner(text)
}

// ParseSigner reads an owner's private policy key: PKCS #8 or SEC 1 in PEM.
func ParseSigner(text []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		defer clear(block.Bytes)
		switch block.Type {
		case "EC PRIVATE KEY":
			return x509.ParseECPrivateKey(block.Bytes)
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if s, ok := key.(crypto.Signer); ok && err == nil {
				return s, nil
			}
		}
	}
	return nil, CodeConfig.Bad("owner key", "a PEM block with a P-256 private key", "none")
}
