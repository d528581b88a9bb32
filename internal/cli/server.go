package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/assay-attest/assay/internal/server"
	"github.com/assay-attest/assay/rats"
)

// serverDir is where a server keeps everything unless told otherwise.
const serverDir = "/var/lib/assay"

func (a *app) serverCmd() *cobra.Command {
	return group("server", "the server: judges evidence, keeps results, releases secrets", "",
		a.serverInitCmd(), a.serverRunCmd(), a.serverExportCmd(), a.serverAccessCmd())
}

// initialised is what `server init` prints.
type initialised struct {
	URL          string      `json:"url"`
	CAFile       string      `json:"ca_file"`
	CAHash       rats.Digest `json:"ca_hash"`
	AdminToken   string      `json:"admin_token,omitempty"` // unless it was written to TokenFile
	TokenFile    string      `json:"token_file,omitempty"`
	ClientConfig string      `json:"client_config,omitempty"`
}

func (a *app) serverInitCmd() *cobra.Command {
	var o server.InitOptions
	var clientConfig string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "make a server's keys, CA and database, and its administrator's token",
		Long: `Makes everything a server needs in one directory and the token of its first administrator. The token and how to reach the
server are written for you, so that commands work without flags; with --client-config "" the token is printed instead, once.

With --db several servers share one PostgreSQL database. The first is made with --db, every other with --join and the two files
that ` + "`assay server export`" + ` wrote on a server that is there. The database's password is never given here: it stands in the
file that PGPASSFILE names, or a client certificate takes its place.`,
		Example: "  assay server init --name attest.example.org\n  assay server init --data ./server --listen 127.0.0.1:8443 --client-config \"\"\n  assay server init --db postgres://assay@db.example.org/assay\n  assay server init --join bundle --join-key bundle.key --name second.example.org",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (o.Join == "") != (o.JoinKey == "") {
				return CodeUsage.Bad("--join", "--join and --join-key together", "one of them")
			}
			if o.Join != "" && !cmd.Flags().Changed("client-config") {
				clientConfig = ""
			} else if !cmd.Flags().Changed("client-config") {
				clientConfig = a.userConfig()
				if a.env.UID == 0 {
					clientConfig = systemConfig
				}
			}
			if clientConfig != "" {
				if _, err := os.Lstat(clientConfig); !errors.Is(err, fs.ErrNotExist) {
					return CodeFile.Bad(clientConfig, "no file yet", "a file is there: name another with --client-config")
				}
			}
			o.Rand, o.Now = a.env.Rand, a.env.Now
			r, err := server.Init(cmd.Context(), o)
			if err != nil {
				return err
			}
			res := initialised{URL: r.URL, CAFile: r.CAFile, CAHash: r.CAHash, AdminToken: r.AdminToken, ClientConfig: clientConfig}
			if clientConfig != "" && r.AdminToken != "" {
				if res.TokenFile, err = writeClientConfig(clientConfig, r); err != nil {
					// The token exists nowhere else: losing it here would lock its owner out.
					fmt.Fprintf(a.env.Out, "%s\n", r.AdminToken)
					return fmt.Errorf("writing the client configuration (the administrator's token stands on standard output): %w", err)
				}
				res.AdminToken = ""
			}
			return a.show(res, func(w io.Writer) {
				row(w, "server", res.URL)
				row(w, "CA", res.CAFile)
				row(w, "CA hash", res.CAHash.String())
				switch {
				case o.Join != "":
				case res.AdminToken != "":
					row(w, "admin token", res.AdminToken+"   (shown once: keep it in a file of mode 0600)")
				default:
					row(w, "admin token", "in "+res.TokenFile)
					row(w, "client config", res.ClientConfig)
				}
				row(w, "next", "assay server run --data "+o.Dir)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Dir, "data", serverDir, "directory for keys and database; must be empty or not exist")
	f.StringVar(&o.Listen, "listen", "", "address to listen on; default :8443")
	f.StringSliceVar(&o.Names, "name", nil, "names and addresses the server is reached by; loopback and the listening host are added")
	f.StringVar(&o.URL, "url", "", "address under which others reach the server; default: made of name and port")
	f.StringVar(&o.Database, "db", "", "postgres:// address of a database that servers share, without password; default: a file in the directory")
	f.StringVar(&o.Join, "join", "", "bundle of a server that is there: share its keys, access tokens and database")
	f.StringVar(&o.JoinKey, "join-key", "", "the bundle's key")
	f.StringVar(&clientConfig, "client-config", "", "where to write your client configuration; default "+systemConfig+" for root, else ~/.config/assay/config.yaml")
	return cmd
}

// writeClientConfig writes the configuration and, beside it, the token and a copy of the CA, so that it needs no access to the
// server's directory.
func writeClientConfig(file string, r server.InitResult) (tokenFile string, err error) {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	ca, err := os.ReadFile(r.CAFile)
	if err != nil {
		return "", err
	}
	tokenFile = filepath.Join(dir, "admin-token")
	if err := create(tokenFile, []byte(r.AdminToken+"\n"), 0o600); err != nil {
		return "", err
	}
	if err := create(filepath.Join(dir, "ca.pem"), ca, 0o644); err != nil {
		return "", err
	}
	b, err := yaml.Marshal(config{Server: r.URL, CA: "ca.pem", TokenFile: "admin-token"})
	if err != nil {
		return "", err
	}
	return tokenFile, create(file, b, 0o644)
}

// create writes a file that must not exist.
func create(file string, b []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func (a *app) serverRunCmd() *cobra.Command {
	var o server.RunOptions
	var addressFile string
	var verbose bool
	cmd := &cobra.Command{
		Use:     "run",
		Short:   "run the server until it is told to stop",
		Example: "  assay server run\n  assay server run --data ./server --listen 127.0.0.1:0 --address-file ./address",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Rand, o.Now, o.Log, o.Version = a.env.Rand, a.env.Now, a.logger(verbose), Version
			o.Ready = func(addr string) {
				if addressFile == "" {
					return
				}
				if err := replace(addressFile, []byte(addr+"\n")); err != nil {
					o.Log.Error("address not written", "file", addressFile, "error", err)
				}
			}
			return server.Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Dir, "data", serverDir, "directory that `assay server init` made")
	f.StringVar(&o.Listen, "listen", "", "address to listen on; default: as said at init")
	f.StringVar(&o.Database, "db", "", "address of the shared database, if it has changed since init")
	f.StringVar(&addressFile, "address-file", "", "write the address to this file once the server answers")
	f.BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}

// exported is what `server export` prints.
type exported struct {
	File string `json:"file"`
	Key  string `json:"key"`
}

func (a *app) serverExportCmd() *cobra.Command {
	var dir string
	var out exported
	cmd := &cobra.Command{
		Use:   "export",
		Short: "write what one more server of the same database needs: keys, CA and access tokens, sealed",
		Long: `Writes two files for ` + "`assay server init --join`" + ` on another machine: a sealed bundle, and the key that opens it. Whoever has both
is the server: send them by different ways, and delete them afterwards. They are good for a day.`,
		Example: "  assay server export --to bundle --key bundle.key",
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			if err := server.Export(dir, out.File, out.Key, a.env.Rand, a.env.Now()); err != nil {
				return err
			}
			return a.show(out, func(w io.Writer) {
				row(w, "bundle", out.File)
				row(w, "its key", out.Key+"   (send it another way)")
				row(w, "next", "on the new machine: assay server init --join "+filepath.Base(out.File)+" --join-key "+filepath.Base(out.Key)+" --name NAME")
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "data", serverDir, "directory that `assay server init` made")
	f.StringVar(&out.File, "to", "assay-server.bundle", "file for the bundle")
	f.StringVar(&out.Key, "key", "assay-server.key", "file for its key")
	return cmd
}

// replace writes a file so that whoever waits for it never reads half of it.
func replace(file string, b []byte) error {
	tmp := file + ".new"
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

// logger logs to standard error: text on a terminal, else JSON.
func (a *app) logger(verbose bool) *slog.Logger {
	o := &slog.HandlerOptions{Level: slog.LevelInfo}
	if verbose {
		o.Level = slog.LevelDebug
	}
	if a.env.Terminal {
		return slog.New(slog.NewTextHandler(a.env.Err, o))
	}
	return slog.New(slog.NewJSONHandler(a.env.Err, o))
}
