package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/evidence/all"
	"github.com/assay-attest/assay/internal/endorse"
	"github.com/assay-attest/assay/rats"
)

// collateral is what every verb of the noun is told.
type collateral struct {
	dir, roots         string
	pcs, kds           string
	serviceCA, update  string
	fmspcs, keys       []string
	refresh            bool
	out, key           string
	newKey             bool
	signers            []string
	within             time.Duration
	maxAge, maxKeeping time.Duration
}

func (a *app) collateralCmd() *cobra.Command {
	o := &collateral{}
	c := group("collateral", "what makers of hardware publish about their machines: fetch it, keep it, carry it to machines without network",
		`Collateral is certificates, revocation lists and TCB information, which judging hardware evidence takes. It is kept in a directory of
this machine; no server of Assay is needed. Nothing is fetched but from the services that are named.`,
		a.collateralFetchCmd(o), a.collateralShowCmd(o), a.collateralExportCmd(o), a.collateralImportCmd(o), a.collateralAgeCmd(o))
	f := c.PersistentFlags()
	f.StringVar(&o.dir, "dir", "", "directory of the collateral; default ~/.cache/assay/collateral (ASSAY_COLLATERAL_DIR)")
	f.StringVar(&o.roots, "roots", "", "file with roots, PEM, that documents must lead to instead of the vendors' own: for test vendors")
	f.DurationVar(&o.maxAge, "max-age", 24*time.Hour, "age at which a document is due to be fetched again")
	f.DurationVar(&o.maxKeeping, "keep-for", 0, "age at which a document isn't used any more, however long it says it is valid; 0: no such limit")
	return c
}

// cache opens the cache. Without services nothing can be fetched.
func (a *app) cache(o *collateral) (*endorse.Cache, error) {
	cfg := endorse.Config{
		Now: a.env.Now, Rand: a.env.Rand, MaxAge: o.maxAge, KeepFor: o.maxKeeping, Services: make(map[string]string),
		Roots: all.Roots(), Update: cmp.Or(o.update, a.env.Getenv("ASSAY_PCS_UPDATE")),
	}
	cfg.Dir = cmp.Or(o.dir, a.env.Getenv("ASSAY_COLLATERAL_DIR"))
	if base := a.env.Getenv("XDG_CACHE_HOME"); cfg.Dir == "" && base != "" {
		cfg.Dir = filepath.Join(base, "assay", "collateral")
	}
	if cfg.Dir == "" && a.env.Home != "" {
		cfg.Dir = filepath.Join(a.env.Home, ".cache", "assay", "collateral")
	}
	if cfg.Dir == "" {
		return nil, CodeUsage.Bad("--dir", "a directory", "none, and no home directory")
	}
	if o.roots != "" {
		certs, err := certificates(o.roots)
		if err != nil {
			return nil, err
		}
		cfg.Roots = endorse.Roots{endorse.Intel: certs, endorse.AMD: certs}
	}
	for vendor, address := range map[string]string{
		endorse.Intel: cmp.Or(o.pcs, a.env.Getenv("ASSAY_PCS")), endorse.AMD: cmp.Or(o.kds, a.env.Getenv("ASSAY_KDS")),
	} {
		if address == "official" {
			address = endorse.Official[vendor]
		}
		if address != "" {
			cfg.Services[vendor] = address
		}
	}
	cfg.Hosts = endorse.HostsOf(cfg.Services)
	transport, err := o.transport()
	if err != nil {
		return nil, err
	}
	cfg.Transport = transport
	c, err := endorse.Open(cfg)
	if err != nil {
		return nil, err
	}
	for _, err := range c.Skipped() {
		a.done("warning: passed over %s", clean(err.Error()))
	}
	return c, nil
}

func (o *collateral) transport() (http.RoundTripper, error) {
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, MaxResponseHeaderBytes: 256 << 10, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if o.serviceCA != "" {
		certs, err := certificates(o.serviceCA)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		for _, c := range certs {
			t.TLSClientConfig.RootCAs.AddCert(c)
		}
	}
	return t, nil
}

func certificates(file string) ([]*x509.Certificate, error) {
	ders, err := readCAs(file)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, CodeFile.Bad(file, "PEM certificates", err.Error())
		}
		out = append(out, c)
	}
	return out, nil
}

func (a *app) collateralFetchCmd(o *collateral) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fetch [EVIDENCE]...",
		Short: "fetch the collateral that evidence takes, or whatever is due",
		Long: `Fetches what judging the given pieces of evidence takes: they are read for the platform they name, not verified. Without
evidence, --fmspc or --key, everything at hand that is due is fetched again. Documents that are young enough are not fetched.`,
		Example: "  assay collateral fetch --pcs official quote.bin\n" +
			"  assay collateral fetch --pcs https://pccs.example:8081 --service-ca pccs.pem --fmspc 00606a000000\n" +
			"  assay collateral fetch --kds official report.bin\n" +
			"  assay collateral fetch --pcs official --kds official --refresh",
		RunE: func(cmd *cobra.Command, args []string) error { return a.fetchCollateral(cmd.Context(), o, args) },
	}
	f := cmd.Flags()
	f.StringVar(&o.pcs, "pcs", "", "address of Intel's PCS or of a PCCS; \"official\" is "+endorse.Official[endorse.Intel]+" (ASSAY_PCS)")
	f.StringVar(&o.kds, "kds", "", "address of AMD's KDS or of a cache of it; \"official\" is "+endorse.Official[endorse.AMD]+" (ASSAY_KDS)")
	f.StringVar(&o.update, "update", "", "channel of Intel's TCB info and identities: standard, or early, which knows TCB recoveries when they are disclosed; default standard (ASSAY_PCS_UPDATE)")
	f.StringVar(&o.serviceCA, "service-ca", "", "file with the CA certificates of the services, PEM; default: those of this system")
	f.StringArrayVar(&o.fmspcs, "fmspc", nil, "kind of Intel platform, 12 hex digits; may be repeated")
	f.StringArrayVar(&o.keys, "key", nil, "document by its key, as `assay collateral show` lists them; may be repeated")
	f.BoolVar(&o.refresh, "refresh", false, "fetch even what is young enough")
	return cmd
}

// wanted returns the keys that a fetch is about.
func (a *app) wanted(c *endorse.Cache, o *collateral, files []string) ([]endorse.Key, error) {
	var keys []endorse.Key
	for _, file := range files {
		b, err := a.readDocument(file)
		if err != nil {
			return nil, err
		}
		var found []endorse.Key
		for _, inner := range appraise.Unwrap(b) {
			found = append(found, endorse.WantedBy(inner)...)
		}
		if len(found) == 0 {
			return nil, CodeFile.Bad(file, "a quote or report that names its platform", "other bytes; with --fmspc or --key it can be said what to fetch")
		}
		keys = append(keys, found...)
	}
	for _, s := range o.fmspcs {
		b, err := hex.DecodeString(s)
		if err != nil || len(b) != 6 {
			return nil, CodeUsage.Bad("--fmspc", "12 hex digits", clean(s))
		}
		keys = append(keys, endorse.PlatformKeys([6]byte(b), "")...)
	}
	for _, s := range o.keys {
		k, err := endorse.ParseKey(s)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if len(files)+len(o.fmspcs)+len(o.keys) == 0 {
		for _, d := range c.Documents() {
			keys = append(keys, d.Key)
		}
	}
	if len(files)+len(o.fmspcs) > 0 {
		keys = endorse.Channel(cmp.Or(o.update, a.env.Getenv("ASSAY_PCS_UPDATE")), keys)
	}
	slices.Sort(keys)
	return slices.Compact(keys), nil
}

// fetched is the outcome for one document.
type fetched struct {
	Key     endorse.Key `json:"key"`
	OK      bool        `json:"ok"`
	Expires time.Time   `json:"expires,omitzero"`
	Problem *failure    `json:"problem,omitempty"`
}

func (a *app) fetchCollateral(ctx context.Context, o *collateral, files []string) error {
	c, err := a.cache(o)
	if err != nil {
		return err
	}
	defer c.Close()
	keys, err := a.wanted(c, o, files)
	if err != nil {
		return err
	}
	get := c.Get
	if o.refresh {
		get = c.Refresh
	}
	list := make([]fetched, 0, len(keys))
	var failures []error
	for i := 0; i < len(keys); i++ { // keys grow by what the documents name
		d, err := get(ctx, keys[i])
		row := fetched{Key: keys[i], OK: err == nil, Expires: d.Until}
		if err != nil {
			f := failureOf(err)
			row.Problem = &f
			failures = append(failures, err)
		} else {
			keys = append(keys, c.Further(keys, d)...)
		}
		list = append(list, row)
	}
	err = a.show(list, func(w io.Writer) {
		row(w, "KEY", "STATE", "EXPIRES")
		for _, f := range list {
			state := "ok"
			if f.Problem != nil {
				state = string(f.Problem.Code)
			}
			row(w, narrow(f.Key), state, at(f.Expires))
		}
	})
	if err != nil || len(failures) == 0 {
		return err
	}
	if a.flags.output == outputTable {
		for _, err := range failures {
			a.printError(err)
		}
	}
	return &verdictError{exit: rats.ExitError}
}

func (a *app) collateralShowCmd(o *collateral) *cobra.Command {
	return &cobra.Command{
		Use:     "show [KEY]",
		Short:   "list the documents at hand, or print one as it was received",
		Example: "  assay collateral show\n  assay collateral show 'intel:/sgx/certification/v4/qe/identity'",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.cache(o)
			if err != nil {
				return err
			}
			defer c.Close()
			if len(args) == 0 {
				list := c.Age()
				slices.SortFunc(list, func(x, y endorse.Age) int { return cmp.Compare(x.Key, y.Key) })
				return a.showAges(list)
			}
			k, err := endorse.ParseKey(args[0])
			if err != nil {
				return err
			}
			d, ok := c.Find(k)
			if !ok {
				return endorse.CodeService.Missing(string(k), "a document in the cache", "none; `assay collateral fetch --key` gets it")
			}
			if a.flags.output != outputTable {
				return a.show(d, nil)
			}
			_, err = a.env.Out.Write(d.Body)
			return err
		},
	}
}

func (a *app) showAges(list []endorse.Age) error {
	if list == nil {
		list = []endorse.Age{}
	}
	return a.show(list, func(w io.Writer) {
		row(w, "KEY", "STATE", "EXPIRES", "LEFT", "FETCHED", "ISSUED", "SIZE", "DIGEST")
		for _, d := range list {
			row(w, narrow(d.Key), d.State, at(d.Expires), a.ago(d.Expires), a.ago(d.Fetched), at(d.Issued), fmt.Sprint(d.Size), short(d.Digest))
		}
	})
}

// narrow shortens the one parameter of keys that would not fit into a table; -o json has it whole.
func narrow(k endorse.Key) string {
	const name, keep = "encrypted_ppid=", 12
	before, value, ok := strings.Cut(string(k), name)
	if !ok || len(value) < keep {
		return string(k)
	}
	_, after, _ := strings.Cut(value, "&")
	return before + name + value[:keep] + "…&" + after
}

func (a *app) collateralAgeCmd(o *collateral) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "age",
		Short: "say what expires when; exit code 3 if something has expired, or will within a time",
		Example: "  assay collateral age\n" +
			"  assay collateral age --within 168h || assay collateral fetch --pcs official --kds official",
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.cache(o)
			if err != nil {
				return err
			}
			defer c.Close()
			list := c.Age()
			if err := a.showAges(list); err != nil {
				return err
			}
			limit := a.env.Now().Add(o.within)
			for _, d := range list {
				if d.State == endorse.StateExpired || d.Expires.Before(limit) {
					return &verdictError{exit: rats.ExitUnknown}
				}
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&o.within, "within", 0, "count what expires within this time as expired")
	return cmd
}
