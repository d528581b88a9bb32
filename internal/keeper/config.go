package keeper

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/assay-attest/assay/rats"
)

// Launch is when the keeper was started: the launch class of everything derived.
type Launch string

// The launch classes.
const (
	// LaunchInitrd is before user space: root is created, opened and capped by measured early code.
	LaunchInitrd Launch = "initrd"
	// LaunchUserspace is after it: the operating system, its administrator included, is all that protects the root.
	LaunchUserspace Launch = "userspace"
)

// The root classes.
const (
	RootInitrdSealed = "initrd-sealed" // opens only for authorised early code on this TPM
	RootOSProtected  = "os-protected"  // sealed to the TPM, open to this machine's administrator
	RootSimulated    = "simulated"     // a file
)

// Paths and the NV index of a keeper that is told none. The directories are not below those of server and agent, which
// belong to other users and end with their services.
const (
	DefaultConfig  = "/etc/assay/keeper.json"
	DefaultState   = "/var/lib/assay-keeper"
	DefaultRuntime = "/run/assay-keeper"
	DefaultNVIndex = 0x01a55a70
)

// NoTPM as Config.TPM asks for a simulated root.
const NoTPM = "none"

// measuredPCR takes the keeper's own events: with systemd it holds the boot's phases too, so their order can be proven in
// this one PCR (S13).
const measuredPCR = 11

var (
	initrdPCRs = []int{0, 2, 4, 7, 9, 11, 12}
	grubPCRs   = []int{8, 14}
)

// Config is the keeper's configuration. For launch initrd it lies in the initramfs and is thereby measured: it pins the
// owner's policy key and the clients.
type Config struct {
	Version int    `json:"version"` // 1
	Launch  Launch `json:"launch"`
	TPM     string `json:"tpm,omitempty"` // device or unix:SOCKET; empty: found; "none": simulated
	// State and Runtime are absolute directories; State must survive a reboot, Runtime must not.
	State   string `json:"state,omitempty"`
	Runtime string `json:"runtime,omitempty"`
	// PCRs of the seal. For launch initrd they are added to 0, 2, 4, 7, 9, 11 and 12; for userspace the default is 7.
	PCRs []int `json:"pcrs,omitempty"`
	GRUB bool  `json:"grub,omitempty"` // the machine boots by GRUB and shim: PCRs 8 and 14 too
	// NVIndex of the revision counter; 0 is DefaultNVIndex.
	NVIndex  uint32   `json:"nv_index,omitempty"`
	Owner    string   `json:"owner"`              // the owner's P-256 policy key, PEM
	Recovery []byte   `json:"recovery,omitempty"` // the owner's X25519 recovery key; empty: no recovery
	UID      *uint32  `json:"uid,omitempty"`      // user of the clients, beside root
	Clients  []Client `json:"clients,omitempty"`  // empty: nobody gets anything

	owner *ecdsa.PublicKey
}

// Client is a program that may ask for derivations.
type Client struct {
	Name  string      `json:"name"`  // separates the keys of clients; an update keeps it
	Image rats.Digest `json:"image"` // SHA-256 of the executable
	SVN   uint16      `json:"svn"`   // security version; it gets keys of this and older ones
}

const (
	maxConfig  = 64 << 10
	maxClients = 16
	maxName    = 64
)

// ParseConfig reads a configuration strictly and fills in the defaults.
func ParseConfig(b []byte) (Config, error) {
	var c Config
	if len(b) > maxConfig {
		return c, CodeConfig.Bad("", fmt.Sprintf("at most %d bytes", maxConfig), fmt.Sprint(len(b)))
	}
	if err := strictJSON(b, &c); err != nil {
		return Config{}, CodeConfig.Bad("", "JSON of known fields", err.Error())
	}
	if err := c.complete(); err != nil {
		return Config{}, err
	}
	return c, nil
}

func strictJSON(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more after the end")
	}
	return nil
}

func (c *Config) complete() error {
	if c.State == "" {
		c.State = DefaultState
	}
	if c.Runtime == "" {
		c.Runtime = DefaultRuntime
	}
	if c.NVIndex == 0 {
		c.NVIndex = DefaultNVIndex
	}
	switch {
	case c.Version != 1:
		return CodeConfig.Bad("version", "1", fmt.Sprint(c.Version))
	case c.Launch != LaunchInitrd && c.Launch != LaunchUserspace:
		return CodeConfig.Bad("launch", "initrd or userspace", clip(string(c.Launch)))
	case c.Launch == LaunchInitrd && c.TPM == NoTPM:
		return CodeConfig.Bad("tpm", "a TPM with launch initrd", NoTPM)
	case !filepath.IsAbs(c.State) || !filepath.IsAbs(c.Runtime):
		return CodeConfig.Bad("state, runtime", "absolute paths", clip(c.State+", "+c.Runtime))
	case c.NVIndex < 0x01800000 || c.NVIndex > 0x01bfffff:
		return CodeConfig.Bad("nv_index", "0x01800000 to 0x01bfffff", fmt.Sprintf("%#x", c.NVIndex))
	case len(c.Recovery) != 0 && len(c.Recovery) != 32:
		return CodeConfig.Bad("recovery", "32 bytes", fmt.Sprint(len(c.Recovery)))
	}
	if c.Launch == LaunchInitrd {
		c.PCRs = append(slices.Clone(c.PCRs), initrdPCRs...)
	} else if len(c.PCRs) == 0 {
		c.PCRs = []int{7}
	}
	if c.GRUB {
		c.PCRs = append(c.PCRs, grubPCRs...)
	}
	slices.Sort(c.PCRs)
	c.PCRs = slices.Compact(c.PCRs)
	if c.PCRs[0] < 0 || c.PCRs[len(c.PCRs)-1] > 15 {
		return CodeConfig.Bad("pcrs", "0 to 15", fmt.Sprint(c.PCRs))
	}
	if slices.Contains(c.PCRs, 10) {
		return CodeConfig.Bad("pcrs", "no PCR that never repeats", "10, which IMA extends")
	}
	if c.Launch == LaunchUserspace && slices.Contains(c.PCRs, measuredPCR) {
		return CodeConfig.Bad("pcrs", "no PCR that the keeper extends while it may be started again", fmt.Sprint(measuredPCR))
	}
	var err error
	if c.owner, err = ParseOwner([]byte(c.Owner)); err != nil {
		return err
	}
	return c.checkClients()
}

func (c *Config) checkClients() error {
	if len(c.Clients) > maxClients {
		return CodeConfig.Bad("clients", fmt.Sprintf("at most %d", maxClients), fmt.Sprint(len(c.Clients)))
	}
	for i, cl := range c.Clients {
		path := fmt.Sprintf("clients[%d]", i)
		switch {
		case cl.Name == "" || len(cl.Name) > maxName:
			return CodeConfig.Bad(path+".name", fmt.Sprintf("1 to %d bytes", maxName), clip(cl.Name))
		case cl.Image.Alg != "sha256" || cl.Image.Check() != nil:
			return CodeConfig.Bad(path+".image", "sha256:…", clip(cl.Image.String()))
		case cl.SVN > MaxSVN:
			return CodeConfig.Bad(path+".svn", fmt.Sprintf("at most %d", MaxSVN), fmt.Sprint(cl.SVN))
		case slices.ContainsFunc(c.Clients[:i], func(o Client) bool { return o.Image.Equal(cl.Image) }):
			return CodeConfig.Bad(path+".image", "an image once", "twice")
		}
	}
	return nil
}

// ParseOwner reads an owner's policy key: a P-256 SubjectPublicKeyInfo in PEM.
func ParseOwner(text []byte) (*ecdsa.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, CodeConfig.Bad("owner", "a PEM block PUBLIC KEY", "none")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, CodeConfig.Bad("owner", "a public key", err.Error())
	}
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, CodeConfig.Bad("owner", "a key on P-256", fmt.Sprintf("%T", key))
	}
	return ec, nil
}

// clip shortens text from elsewhere for a message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
