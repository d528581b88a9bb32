package keyring_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-attest/assay/internal/keyring"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

func made(t testing.TB) (*keyring.Keyring, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	k, err := keyring.Init(dir, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k, dir
}

func wantCode(t *testing.T, err error, want rats.CodeInfo) {
	t.Helper()
	r, ok := rats.ReasonOf(err)
	if !ok || r.Code != want.Code {
		t.Fatalf("got %v, expected %s", err, want.Code)
	}
}

func TestKeysAreTheSameAfterOpening(t *testing.T) {
	k, dir := made(t)
	again, err := keyring.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !k.VerifierID().Equal(again.VerifierID()) || !bytes.Equal(k.PlanSignerSPKI(), again.PlanSignerSPKI()) || !bytes.Equal(k.ResultsPublic(), again.ResultsPublic()) {
		t.Error("the public keys differ")
	}
	digest := sha256.Sum256([]byte("x"))
	sig, err := k.CA().Sign(rand.Reader, digest[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(again.CA().Public().(*ecdsa.PublicKey), digest[:], sig) {
		t.Error("the signature of the first doesn't verify with the second")
	}
	box, err := sealed.Seal(k.ResultsPublic(), []byte("info"), []byte("report"))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := again.Results().Open([]byte("info"), box); err != nil || string(p) != "report" {
		t.Errorf("opening a report: %q, %v", p, err)
	}
	if d := again.Describe(); d.KEK != keyring.KindFile || len(d.TokenIDs) != 1 || d.KEKID == "" || !d.Verifier.Equal(k.VerifierID()) {
		t.Errorf("described as %+v", d)
	}
}

func TestFilesAreReadableByTheirOwnerOnly(t *testing.T) {
	_, dir := made(t)
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if want := map[bool]os.FileMode{true: 0o700, false: 0o600}[info.IsDir()]; info.Mode().Perm() != want {
			t.Errorf("%s has mode %04o, expected %04o", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestExistingKeysAreNeverOverwritten(t *testing.T) {
	_, dir := made(t)
	before, err := os.ReadFile(filepath.Join(dir, "kek.key"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = keyring.Init(dir, rand.Reader)
	wantCode(t, err, keyring.CodeExists)
	if after, _ := os.ReadFile(filepath.Join(dir, "kek.key")); !bytes.Equal(before, after) {
		t.Error("the KEK changed")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = keyring.Init(file, rand.Reader)
	wantCode(t, err, keyring.CodeExists)
}

func TestAnEmptyDirectoryIsReplacedByAPrivateOne(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Init(dir, rand.Reader); err != nil {
		t.Fatal(err)
	}
}

func TestAFailedInitLeavesNothingBehind(t *testing.T) {
	parent := t.TempDir()
	if _, err := keyring.Init(filepath.Join(parent, "keys"), bytes.NewReader(make([]byte, 40))); err == nil {
		t.Fatal("no error with a random source of 40 zeros")
	}
	if left, _ := os.ReadDir(parent); len(left) != 0 {
		t.Errorf("%v was left behind", left)
	}
}

// TestDamagedDirectoriesAreRefused changes one thing of a good directory.
func TestDamagedDirectoriesAreRefused(t *testing.T) {
	read := func(dir, name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	write := func(dir, name string, b []byte) error { return os.WriteFile(filepath.Join(dir, name), b, 0o600) }
	for name, c := range map[string]struct {
		change func(dir string) error
		want   rats.CodeInfo
	}{
		"gone":                     {os.RemoveAll, keyring.CodeDir},
		"directory for the group":  {func(d string) error { return os.Chmod(d, 0o750) }, keyring.CodePermissions},
		"file for others":          {func(d string) error { return os.Chmod(filepath.Join(d, "tokens.key"), 0o604) }, keyring.CodePermissions},
		"writable by the group":    {func(d string) error { return os.Chmod(filepath.Join(d, "ca.key"), 0o620) }, keyring.CodePermissions},
		"no KEK":                   {func(d string) error { return os.Remove(filepath.Join(d, "kek.key")) }, keyring.CodeFileMissing},
		"no CA":                    {func(d string) error { return os.Remove(filepath.Join(d, "ca.key")) }, keyring.CodeFileMissing},
		"no results key":           {func(d string) error { return os.Remove(filepath.Join(d, "results.key")) }, keyring.CodeFileMissing},
		"CA and verifier swapped":  {func(d string) error { return write(d, "ca.key", read(d, "verifier.key")) }, keyring.CodeFile},
		"CA relabelled":            {func(d string) error { return relabel(d, "verifier.key", "ca.key", "VERIFIER", "CA") }, keyring.CodeShared},
		"KEK is the token key":     {func(d string) error { return relabel(d, "tokens.key", "kek.key", "TOKEN KEY", "KEK") }, keyring.CodeShared},
		"same token key twice":     {func(d string) error { return write(d, "tokens.key", bytes.Repeat(read(d, "tokens.key"), 2)) }, keyring.CodeShared},
		"three token keys":         {func(d string) error { return write(d, "tokens.key", bytes.Repeat(read(d, "tokens.key"), 3)) }, keyring.CodeFile},
		"two results keys":         {func(d string) error { return write(d, "results.key", bytes.Repeat(read(d, "results.key"), 2)) }, keyring.CodeFile},
		"two CA keys":              {func(d string) error { return write(d, "ca.key", bytes.Repeat(read(d, "ca.key"), 2)) }, keyring.CodeFile},
		"empty file":               {func(d string) error { return write(d, "plan-signer.key", nil) }, keyring.CodeFile},
		"cut file":                 {func(d string) error { return write(d, "plan-signer.key", read(d, "plan-signer.key")[:100]) }, keyring.CodeFile},
		"text after the key":       {func(d string) error { return write(d, "kek.key", append(read(d, "kek.key"), "x"...)) }, keyring.CodeFile},
		"text before the key":      {func(d string) error { return write(d, "kek.key", append([]byte("x\n"), read(d, "kek.key")...)) }, keyring.CodeFile},
		"too long":                 {func(d string) error { return write(d, "kek.key", bytes.Repeat([]byte("\n"), 9<<10)) }, keyring.CodeFile},
		"KEK of zeros":             {func(d string) error { return write(d, "kek.key", []byte(zeroKEK)) }, keyring.CodeFile},
		"short KEK":                {func(d string) error { return write(d, "kek.key", []byte(shortKEK)) }, keyring.CodeFile},
		"short results key":        {func(d string) error { return write(d, "results.key", []byte(shortResults)) }, keyring.CodeFile},
		"file is a symbolic link":  {func(d string) error { return link(d, "ca.key") }, keyring.CodeFile},
		"directory is a file":      {func(d string) error { return errors.Join(os.RemoveAll(d), os.WriteFile(d, nil, 0o600)) }, keyring.CodeDir},
		"directory is a link away": {func(d string) error { return errors.Join(os.Rename(d, d+"2"), os.Symlink(d+"2", d)) }, keyring.CodeDir},
	} {
		t.Run(name, func(t *testing.T) {
			_, dir := made(t)
			if err := c.change(dir); err != nil {
				t.Fatal(err)
			}
			_, err := keyring.Open(dir)
			wantCode(t, err, c.want)
		})
	}
}

const (
	zeroKEK      = "-----BEGIN ASSAY KEK-----\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n-----END ASSAY KEK-----\n"
	shortKEK     = "-----BEGIN ASSAY KEK-----\nAQIDBA==\n-----END ASSAY KEK-----\n"
	shortResults = "-----BEGIN ASSAY RESULTS KEY-----\nAQIDBA==\n-----END ASSAY RESULTS KEY-----\n"
)

func relabel(dir, from, to, was, is string) error {
	b, err := os.ReadFile(filepath.Join(dir, from))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, to), []byte(strings.ReplaceAll(string(b), was, is)), 0o600)
}

func link(dir, name string) error {
	path := filepath.Join(dir, name)
	return errors.Join(os.Rename(path, path+".real"), os.Symlink(name+".real", path))
}

func TestTokensOpenForTheirPurposeOnly(t *testing.T) {
	k, _ := made(t)
	tokens := k.Tokens()
	token := tokens.Seal([]byte("challenge"), []byte("state"))
	if p, err := tokens.Open([]byte("challenge"), token); err != nil || string(p) != "state" {
		t.Fatalf("%q, %v", p, err)
	}
	_, err := tokens.Open([]byte("continuation"), token)
	wantCode(t, err, keyring.CodeToken)
	for i := range token {
		bad := bytes.Clone(token)
		bad[i] ^= 1
		_, err := tokens.Open([]byte("challenge"), bad)
		wantCode(t, err, keyring.CodeToken)
	}
	for i := range len(token) {
		_, err := tokens.Open([]byte("challenge"), token[:i])
		wantCode(t, err, keyring.CodeToken)
	}
	other, _ := made(t)
	_, err = other.Tokens().Open([]byte("challenge"), token)
	wantCode(t, err, keyring.CodeToken)
	if bytes.Equal(token, tokens.Seal([]byte("challenge"), []byte("state"))) {
		t.Error("two tokens of one state are equal")
	}
}

func TestTokensSurviveOneRotationAndNotTwo(t *testing.T) {
	k, dir := made(t)
	tokens := k.Tokens()
	token := tokens.Seal(nil, []byte("state"))
	if err := tokens.Rotate(rand.Reader); err != nil {
		t.Fatal(err)
	}
	again, err := keyring.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, ring := range []*keyring.Keyring{k, again} {
		if _, err := ring.Tokens().Open(nil, token); err != nil {
			t.Errorf("after one rotation: %v", err)
		}
	}
	if _, err := again.Tokens().Open(nil, tokens.Seal(nil, []byte("new"))); err != nil {
		t.Errorf("a token of the stored new key: %v", err)
	}
	if err := tokens.Rotate(rand.Reader); err != nil {
		t.Fatal(err)
	}
	_, err = tokens.Open(nil, token)
	wantCode(t, err, keyring.CodeToken)
	if d := k.Describe(); len(d.TokenIDs) != 2 || d.TokenIDs[0] == d.TokenIDs[1] {
		t.Errorf("token keys %v", d.TokenIDs)
	}
}

// S44: a restored backup voids all tokens.
func TestVoidRefusesEveryTokenThatIsOut(t *testing.T) {
	k, _ := made(t)
	token := k.Tokens().Seal(nil, []byte("state"))
	if err := k.Tokens().Void(rand.Reader); err != nil {
		t.Fatal(err)
	}
	_, err := k.Tokens().Open(nil, token)
	wantCode(t, err, keyring.CodeToken)
}

func TestARotationThatCannotBeStoredChangesNothing(t *testing.T) {
	k, dir := made(t)
	token := k.Tokens().Seal(nil, []byte("state"))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := k.Tokens().Rotate(rand.Reader); err == nil {
			t.Fatal("rotated into a directory that is gone")
		}
	}
	if _, err := k.Tokens().Open(nil, token); err != nil {
		t.Error(err)
	}
}

// R012: secrets are encrypted at rest, each under a key of its own that the KEK wraps.
func TestSecretsOpenInTheirPlaceOnly(t *testing.T) {
	k, dir := made(t)
	secret := []byte("the launch code")
	env, err := k.SealSecret("prod/db/1", secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(env, secret) {
		t.Fatal("the secret stands in the envelope")
	}
	again, err := keyring.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := again.OpenSecret("prod/db/1", env); err != nil || !bytes.Equal(p, secret) {
		t.Fatalf("%q, %v", p, err)
	}
	for _, context := range []string{"prod/db/2", "test/db/1", "prod/other/1", "", strings.Repeat("x", 5<<10)} {
		_, err := k.OpenSecret(context, env)
		wantCode(t, err, keyring.CodeSecret)
	}
	other, _ := made(t)
	_, err = other.OpenSecret("prod/db/1", env)
	wantCode(t, err, keyring.CodeSecretKey)
	twin, err := k.SealSecret("prod/db/1", secret)
	if err != nil {
		t.Fatal(err)
	}
	mixed := append(bytes.Clone(env[:69]), twin[69:]...)
	_, err = k.OpenSecret("prod/db/1", mixed)
	wantCode(t, err, keyring.CodeSecret)
}

func TestDamagedSecretsAreRefused(t *testing.T) {
	k, _ := made(t)
	env, err := k.SealSecret("c", []byte("s"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range env {
		bad := bytes.Clone(env)
		bad[i] ^= 0x80
		_, err := k.OpenSecret("c", bad)
		switch {
		case i == 0:
			wantCode(t, err, keyring.CodeSecretVersion)
		case i < 9:
			wantCode(t, err, keyring.CodeSecretKey)
		default:
			wantCode(t, err, keyring.CodeSecret)
		}
	}
	for i := range len(env) {
		if _, err := k.OpenSecret("c", env[:i]); err == nil {
			t.Fatalf("opened %d of %d bytes", i, len(env))
		}
	}
	_, err = k.OpenSecret("c", env[:90])
	wantCode(t, err, keyring.CodeSecretForm)
	_, err = k.OpenSecret("c", make([]byte, keyring.MaxSecret+1000))
	wantCode(t, err, keyring.CodeSecretForm)
}

func TestSecretsHaveALimitAndAPlace(t *testing.T) {
	k, _ := made(t)
	if _, err := k.SealSecret("c", make([]byte, keyring.MaxSecret+1)); err == nil {
		t.Error("encrypted too much")
	}
	if _, err := k.SealSecret("", []byte("s")); err == nil {
		t.Error("encrypted for no place")
	}
}

func TestAClosedKeyringOpensAndSealsNothing(t *testing.T) {
	k, _ := made(t)
	env, _ := k.SealSecret("c", []byte("s"))
	token := k.Tokens().Seal(nil, nil)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.OpenSecret("c", env); err == nil {
		t.Error("opened a secret")
	}
	if _, err := k.SealSecret("c", nil); err == nil {
		t.Error("sealed a secret")
	}
	_, err := k.Tokens().Open(nil, token)
	wantCode(t, err, keyring.CodeToken)
	defer func() {
		if recover() == nil {
			t.Error("sealed a token")
		}
	}()
	k.Tokens().Seal(nil, nil)
}

func TestNoKeyIsEverPrinted(t *testing.T) {
	k, dir := made(t)
	if err := k.Tokens().Rotate(rand.Reader); err != nil {
		t.Fatal(err)
	}
	want := "keyring(" + dir + ")"
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if got := fmt.Sprintf(format, k); got != want {
			t.Errorf("%s prints %q", format, got)
		}
		for use, s := range map[string]any{"CA": k.CA(), "verifier": k.Verifier(), "plan-signer": k.PlanSigner()} {
			if got := fmt.Sprintf(format, s); got != "keyring("+use+" key)" {
				t.Errorf("%s prints %q", format, got)
			}
		}
		if got := fmt.Sprintf(format, k.Tokens()); got != "keyring("+dir+" tokens)" {
			t.Errorf("%s prints %q", format, got)
		}
	}
	var out bytes.Buffer
	for _, log := range []*slog.Logger{slog.New(slog.NewTextHandler(&out, nil)), slog.New(slog.NewJSONHandler(&out, nil))} {
		log.Info("x", "ring", k, "ca", k.CA(), "tokens", k.Tokens())
	}
	if lines := strings.Split(out.String(), "\n"); len(lines[0]) > 400 || len(lines[1]) > 400 {
		t.Errorf("logged %s", out.String())
	}
}

func FuzzOpenSecret(f *testing.F) {
	k, _ := made(f)
	env, _ := k.SealSecret("ns/name/1", []byte("secret"))
	f.Add("ns/name/1", env)
	f.Add("", []byte{})
	f.Add("ns/name/1", env[:97])
	f.Fuzz(func(t *testing.T, context string, b []byte) {
		p, err := k.OpenSecret(context, b)
		if err == nil && (context != "ns/name/1" || !bytes.Equal(b, env) || string(p) != "secret") {
			t.Fatalf("opened foreign bytes for %q", context)
		}
		if _, coded := rats.ReasonOf(err); err != nil && !coded {
			t.Fatalf("an error without a code: %v", err)
		}
	})
}

func FuzzOpenToken(f *testing.F) {
	k, _ := made(f)
	token := k.Tokens().Seal([]byte("aad"), []byte("state"))
	f.Add([]byte("aad"), token)
	f.Add([]byte(nil), token[:20])
	f.Fuzz(func(t *testing.T, aad, b []byte) {
		p, err := k.Tokens().Open(aad, b)
		if err == nil && (string(aad) != "aad" || !bytes.Equal(b, token) || string(p) != "state") {
			t.Fatal("opened a foreign token")
		}
		if _, coded := rats.ReasonOf(err); err != nil && !coded {
			t.Fatalf("an error without a code: %v", err)
		}
	})
}
