package httpapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/rats"
)

// Kind is a kind of caller.
type Kind string

// The kinds of callers.
const (
	Anonymous Kind = "anonymous"
	NodeAgent Kind = "node"   // by client certificate
	Reader    Kind = "reader" // by access token: reads verdicts, policies, events
	Admin     Kind = "admin"  // by access token: everything
)

// Principal is who a request comes from.
type Principal struct {
	Kind       Kind
	Name       string   // for the audit log: admin:NAME, node:ID
	Namespaces []string // where an access token is good; "*" is everywhere
	Peer       identity.Peer
}

// Actor is the principal's name in the audit log.
func (p Principal) Actor() string { return string(p.Kind) + ":" + p.Name }

// Resource is what a request is about.
type Resource struct {
	Namespace string
	Node      string // id, for the routes of agents
}

// Why a caller is refused.
var (
	CodeAccessMissing = rats.CodeInfo{
		Code: "api.access.missing", Title: "this needs a credential", Slot: rats.InstanceIdentity,
		Hint: "give an access token (--token-file) or, for an agent, its client certificate",
	}
	CodeAccessToken = rats.CodeInfo{
		Code: "api.access.token", Title: "the access token is not valid here", Slot: rats.InstanceIdentity,
		Hint: "use the token printed by assay server init, or one made by assay server access add",
	}
	CodeAccessDenied = rats.CodeInfo{
		Code: "api.access.denied", Title: "the caller may not do this", Slot: rats.InstanceIdentity,
		Hint: "use a credential of the needed role and namespace",
	}
)

// authorize is the one place that says who may do what. A route not open to a kind is closed to it; a token is good in
// its namespaces only; a node may touch its own resources only.
func authorize(p Principal, r Route, res Resource) error {
	if !slices.Contains(r.Who, p.Kind) {
		if p.Kind == Anonymous {
			return CodeAccessMissing.Bad(r.Verb, fmt.Sprint(r.Who), "no credential")
		}
		return CodeAccessDenied.Bad(r.Verb, fmt.Sprint(r.Who), p.Actor())
	}
	switch p.Kind {
	case Anonymous:
		return nil
	case NodeAgent:
		if slices.Contains(r.Who, Anonymous) {
			return nil
		}
		if p.Peer.Namespace != res.Namespace || p.Peer.Node != res.Node || res.Node == "" {
			return CodeAccessDenied.Bad(r.Verb, "node "+p.Peer.Node+" of namespace "+p.Peer.Namespace, "another node's resource")
		}
		return nil
	case Reader, Admin:
		if res.Namespace == "" || slices.Contains(p.Namespaces, "*") || slices.Contains(p.Namespaces, res.Namespace) {
			return nil
		}
		return CodeAccessDenied.Bad(r.Verb, "a token for namespace "+res.Namespace, "one for "+strings.Join(p.Namespaces, ", "))
	}
	return CodeAccessDenied.Bad(r.Verb, "a known kind of caller", string(p.Kind))
}

// Access holds the access tokens: their hashes, in one file that is read again when it changes.
type Access struct {
	path string

	mu    sync.Mutex
	mtime int64
	list  []AccessEntry
}

// AccessEntry is one access token.
type AccessEntry struct {
	Name       string      `json:"name"`
	Role       Kind        `json:"role"`
	Namespaces []string    `json:"namespaces"`
	Hash       rats.Digest `json:"hash"` // of the token's text
}

const (
	accessPrefix = "asa1."
	maxAccess    = 1000
)

// OpenAccess returns the tokens kept in a file; a file that doesn't exist holds none.
func OpenAccess(path string) *Access { return &Access{path: path} }

// Add makes a token and returns its text, which is kept nowhere.
func (a *Access) Add(name string, role Kind, namespaces []string, rand io.Reader) (string, error) {
	if name == "" || role != Admin && role != Reader || len(namespaces) == 0 {
		return "", errors.New("an access token needs a name, the role admin or reader, and namespaces")
	}
	secret := make([]byte, 32)
	if _, err := io.ReadFull(rand, secret); err != nil {
		return "", fmt.Errorf("reading randomness: %w", err)
	}
	text := accessPrefix + base64.RawURLEncoding.EncodeToString(secret)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.load(); err != nil {
		return "", err
	}
	for _, e := range a.list {
		if e.Name == name {
			return "", fmt.Errorf("there is an access token called %q already; remove it first", name)
		}
	}
	if len(a.list) >= maxAccess {
		return "", fmt.Errorf("there are %d access tokens already; remove some", len(a.list))
	}
	list := append(slices.Clone(a.list), AccessEntry{Name: name, Role: role, Namespaces: namespaces, Hash: rats.SHA256([]byte(text))})
	return text, a.save(list)
}

// Remove deletes the token of a name.
func (a *Access) Remove(name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.load(); err != nil {
		return err
	}
	list := slices.DeleteFunc(slices.Clone(a.list), func(e AccessEntry) bool { return e.Name == name })
	if len(list) == len(a.list) {
		return fmt.Errorf("there is no access token called %q", name)
	}
	return a.save(list)
}

// List returns the tokens' names, roles and namespaces.
func (a *Access) List() ([]AccessEntry, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.load()
	return slices.Clone(a.list), err
}

// find returns the principal of a token's text.
func (a *Access) find(text string) (Principal, error) {
	a.mu.Lock()
	err := a.load()
	list := a.list
	a.mu.Unlock()
	if err != nil {
		return Principal{}, err
	}
	sum := sha256.Sum256([]byte(text))
	var found *AccessEntry
	for i, e := range list {
		if e.Hash.Alg == "sha256" && subtle.ConstantTimeCompare(e.Hash.Sum, sum[:]) == 1 {
			found = &list[i]
		}
	}
	if found == nil {
		return Principal{}, CodeAccessToken.Bad("authorization", "a token of this server", "an unknown one")
	}
	return Principal{Kind: found.Role, Name: found.Name, Namespaces: found.Namespaces}, nil
}

func (a *Access) load() error {
	info, err := os.Stat(a.path)
	if errors.Is(err, os.ErrNotExist) {
		a.list, a.mtime = nil, 0
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the access tokens: %w", err)
	}
	if info.ModTime().UnixNano() == a.mtime {
		return nil
	}
	b, err := os.ReadFile(a.path)
	if err != nil {
		return fmt.Errorf("reading the access tokens: %w", err)
	}
	var list []AccessEntry
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("reading the access tokens in %s: %w", a.path, err)
	}
	a.list, a.mtime = list, info.ModTime().UnixNano()
	return nil
}

func (a *Access) save(list []AccessEntry) error {
	b, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the access tokens: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(a.path), ".access-*")
	if err != nil {
		return fmt.Errorf("writing the access tokens: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing the access tokens: %w", err)
	}
	if err := os.Rename(f.Name(), a.path); err != nil {
		return fmt.Errorf("writing the access tokens: %w", err)
	}
	a.list, a.mtime = list, 0
	return nil
}
