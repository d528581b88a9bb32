package cli

import (
	"bytes"
	"cmp"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/assay-attest/assay/client"
)

// systemConfig is the configuration of whoever has none of their own.
const systemConfig = "/etc/assay/client.yaml"

// globals are the flags of every command.
type globals struct {
	server, ca, tokenFile, namespace string
	config, output                   string
}

func (g *globals) register(f *pflag.FlagSet) {
	f.StringVar(&g.server, "server", "", "address of the server, https://host:port (ASSAY_SERVER)")
	f.StringVar(&g.ca, "ca", "", "file with the server's CA certificates, PEM (ASSAY_CA)")
	f.StringVar(&g.tokenFile, "token-file", "", "file with your access token, mode 0600 (ASSAY_TOKEN_FILE)")
	f.StringVar(&g.namespace, "namespace", "", "namespace to work in; default \"default\" (ASSAY_NAMESPACE)")
	f.StringVar(&g.config, "config", "", "configuration file; default ~/.config/assay/config.yaml, then "+systemConfig+" (ASSAY_CONFIG)")
	f.StringVarP(&g.output, "output", "o", outputTable, "form of the result: table, json or yaml")
}

func (g *globals) check() error {
	if g.output != outputTable && g.output != outputJSON && g.output != outputYAML {
		return CodeUsage.Bad("--output", "table, json or yaml", clean(g.output))
	}
	return nil
}

// config is how to reach a server: the content of a configuration file.
type config struct {
	Server    string `yaml:"server"`
	CA        string `yaml:"ca"`
	TokenFile string `yaml:"token_file,omitempty"`
	Namespace string `yaml:"namespace,omitempty"`
}

// configFile returns the file to read and whether it must exist.
func (a *app) configFile() (string, bool) {
	if f := cmp.Or(a.flags.config, a.env.Getenv("ASSAY_CONFIG")); f != "" {
		return f, true
	}
	if f := a.userConfig(); f != "" {
		if _, err := os.Stat(f); err == nil {
			return f, false
		}
	}
	return systemConfig, false
}

func (a *app) userConfig() string {
	if dir := a.env.Getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "assay", "config.yaml")
	}
	if a.env.Home == "" {
		return ""
	}
	return filepath.Join(a.env.Home, ".config", "assay", "config.yaml")
}

// config puts together flags, environment and file, in this order.
func (a *app) config() (config, error) {
	var c config
	file, must := a.configFile()
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !must, errors.Is(err, fs.ErrPermission) && !must:
	case err != nil:
		return c, CodeFile.Bad(file, "a configuration file", cause(err))
	default:
		dec := yaml.NewDecoder(bytes.NewReader(b))
		dec.KnownFields(true)
		if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
			return c, CodeConfig.Bad(file, "YAML", strings.ReplaceAll(err.Error(), "\n", " "))
		}
		for _, p := range []*string{&c.CA, &c.TokenFile} {
			if *p != "" && !filepath.IsAbs(*p) {
				*p = filepath.Join(filepath.Dir(file), *p)
			}
		}
	}
	env := a.env.Getenv
	c.Server = cmp.Or(a.flags.server, env("ASSAY_SERVER"), c.Server)
	c.CA = cmp.Or(a.flags.ca, env("ASSAY_CA"), c.CA)
	c.TokenFile = cmp.Or(a.flags.tokenFile, env("ASSAY_TOKEN_FILE"), c.TokenFile)
	c.Namespace = cmp.Or(a.flags.namespace, env("ASSAY_NAMESPACE"), c.Namespace)
	return c, nil
}

// connect returns a client of the configured server. It makes no connection.
func (a *app) connect() (*client.Client, error) {
	c, err := a.config()
	if err != nil {
		return nil, err
	}
	if c.Server == "" {
		file, _ := a.configFile()
		return nil, CodeNoServer.Bad("--server", "https://host:port", "neither flag nor ASSAY_SERVER nor "+file)
	}
	o := client.Options{Server: c.Server, Namespace: c.Namespace, Now: a.env.Now, UserAgent: "assay/" + Version}
	if c.CA != "" {
		if o.CAs, err = readCAs(c.CA); err != nil {
			return nil, err
		}
	}
	if c.TokenFile != "" {
		token, err := a.readSecret(c.TokenFile, 4<<10)
		if err != nil {
			return nil, err
		}
		o.Token = string(bytes.TrimSpace(token))
		clear(token)
	}
	return client.New(o)
}

// readCAs reads PEM certificates and returns their DER.
func readCAs(file string) ([][]byte, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, CodeFile.Bad(file, "PEM certificates", cause(err))
	}
	var out [][]byte
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			out = append(out, block.Bytes)
		}
	}
	if len(out) == 0 {
		return nil, CodeFile.Bad(file, "PEM certificates", "none")
	}
	return out, nil
}

// readSecret reads a file with a secret of at most limit bytes; "-" is standard input. Others must not be able to read
// the file.
func (a *app) readSecret(file string, limit int64) ([]byte, error) {
	if file == "-" {
		return readBounded("standard input", a.env.In, limit)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, CodeFile.Bad(file, "a file with a secret", cause(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("looking at %s: %w", file, err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, CodeFileMode.Bad(file, "mode 0600", fmt.Sprintf("mode %04o", info.Mode().Perm()))
	}
	return readBounded(file, f, limit)
}

func readBounded(name string, r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		clear(b)
		return nil, CodeFile.Bad(name, fmt.Sprintf("at most %d bytes", limit), "more")
	}
	return b, nil
}

// readDocument reads a document that is no secret; "-" is standard input.
func (a *app) readDocument(file string) ([]byte, error) {
	const limit = 64 << 20
	if file == "-" {
		return readBounded("standard input", a.env.In, limit)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, CodeFile.Bad(file, "a readable file", cause(err))
	}
	defer f.Close()
	return readBounded(file, f, limit)
}

// cause is an error of the file system without the path, which is said beside it.
func cause(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
