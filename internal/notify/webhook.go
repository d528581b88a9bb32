package notify

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// Kinds of items on the shelf.
const (
	itemHook   = "webhook"
	itemDead   = "dead-letter" // WEBHOOK/SEQ
	itemLease  = "lease"
	itemCursor = "cursor"
)

// Bounds of webhooks.
const (
	maxHooks   = 100
	maxURL     = 2048
	minSecret  = 16
	maxSecret  = 256
	madeSecret = 32
	// maxDead is how many dead letters a webhook may have; when it has as many, its head is tried until it succeeds.
	maxDead  = 1000
	pageSize = 200
)

// Keys encrypts the secrets of webhooks for storage; internal/keyring has it.
type Keys interface {
	SealSecret(context string, plaintext []byte) ([]byte, error)
	OpenSecret(context string, env []byte) ([]byte, error)
}

// hook is a webhook as it is stored.
type hook struct {
	ID        string    `json:"id"`
	URL       string    `json:"url"`
	Filter    Filter    `json:"filter"`
	JWS       bool      `json:"jws,omitempty"`
	Sealed    []byte    `json:"sealed,omitempty"` // its secret
	CreatedAt time.Time `json:"created_at"`
	After     int64     `json:"after"`
	Failing   time.Time `json:"failing,omitzero"`
	Problem   rats.Code `json:"problem,omitempty"`
	Seen      string    `json:"seen,omitempty"`
}

// letter is a dead letter as it is stored.
type letter struct {
	Event    store.Event `json:"event"`
	Given    time.Time   `json:"given"`
	Attempts int         `json:"attempts"`
	Problem  rats.Code   `json:"problem"`
	Seen     string      `json:"seen,omitempty"`
	Due      bool        `json:"due,omitempty"`
}

func secretPlace(namespace, id string) string { return "webhook/" + namespace + "/" + id }

func deadID(hook string, seq int64) string { return fmt.Sprintf("%s/%020d", hook, seq) }

func putItem(tx store.Tx, kind, id string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding a %s: %w", kind, err)
	}
	return tx.Shelf().Put(store.Item{Kind: kind, ID: id, Doc: b})
}

func getItem[T any](tx store.Tx, kind, id string) (v T, err error) {
	i, err := tx.Shelf().Get(kind, id)
	if err != nil {
		return v, err
	}
	return decodeItem[T](i)
}

func decodeItem[T any](i store.Item) (v T, err error) {
	if err := json.Unmarshal(i.Doc, &v); err != nil {
		return v, fmt.Errorf("decoding stored %s %s: %w", i.Kind, i.ID, err)
	}
	return v, nil
}

func getHook(tx store.Tx, id string) (hook, error) {
	h, err := getItem[hook](tx, itemHook, id)
	if errors.Is(err, store.ErrNotFound) {
		return h, CodeUnknown.Bad("id", "a webhook of this namespace", clip(id))
	}
	return h, err
}

// checkURL refuses addresses that no webhook may have. Where the host's addresses lead is judged at every connection.
func (s Settings) checkURL(text string) error {
	u, err := url.Parse(text)
	schemes := "https"
	if s.AllowHTTP {
		schemes = "https or http"
	}
	switch {
	case len(text) > maxURL:
		return CodeURL.Bad("url", fmt.Sprintf("at most %d bytes", maxURL), fmt.Sprint(len(text)))
	case err != nil:
		return CodeURL.Bad("url", "an absolute URL", "one that doesn't parse")
	case u.Scheme != "https" && (u.Scheme != "http" || !s.AllowHTTP):
		return CodeURL.Bad("url", schemes, clip(u.Scheme))
	case u.Hostname() == "" || u.Opaque != "":
		return CodeURL.Bad("url", "a host", "none")
	case u.User != nil || u.Fragment != "":
		return CodeURL.Bad("url", "no user, password or fragment", "one of them")
	}
	return nil
}

// Add registers a webhook from the newest event on, in a transaction of its own making. It returns the webhook with its
// secret if it was made here.
func (d *Dispatcher) Add(tx store.Tx, namespace, actor string, r api.WebhookRequest) (api.Webhook, error) {
	if err := d.settings.checkURL(r.URL); err != nil {
		return api.Webhook{}, err
	}
	f := Filter{Kinds: r.Kinds, Severity: r.Severity}
	for _, key := range r.Nodes {
		n, err := findNode(tx, key)
		if err != nil {
			return api.Webhook{}, err
		}
		f.Nodes = append(f.Nodes, n.ID)
	}
	if err := f.Check(); err != nil {
		return api.Webhook{}, err
	}
	all, err := tx.Shelf().List(itemHook, "", "", maxHooks)
	if err != nil {
		return api.Webhook{}, err
	}
	if len(all) >= maxHooks {
		return api.Webhook{}, CodeTooMany.Bad("webhooks", fmt.Sprintf("at most %d", maxHooks), "one more")
	}
	id, err := d.newID("wh_")
	if err != nil {
		return api.Webhook{}, err
	}
	h := hook{ID: id, URL: r.URL, Filter: f, JWS: r.SignJWS, CreatedAt: d.cfg.Now().UTC()}
	var made []byte
	if h.Sealed, made, err = d.secret(namespace, id, r); err != nil {
		return api.Webhook{}, err
	}
	if h.After, err = tx.Events().Last(); err != nil {
		return api.Webhook{}, err
	}
	if err := putItem(tx, itemHook, id, h); err != nil {
		return api.Webhook{}, err
	}
	if err := d.record(tx, actor, "webhook.add", id, map[string]any{"url": h.URL, "filter": h.Filter, "jws": h.JWS}); err != nil {
		return api.Webhook{}, err
	}
	out := described(h)
	out.Secret = made
	return out, nil
}

// secret returns the sealed secret of a webhook, and its text if it was made here.
func (d *Dispatcher) secret(namespace, id string, r api.WebhookRequest) (box, made []byte, err error) {
	switch {
	case r.SignJWS && len(r.Secret) > 0:
		return nil, nil, CodeSecret.Bad("secret", "a secret, or sign_jws", "both")
	case r.SignJWS:
		return nil, nil, nil
	case len(r.Secret) == 0:
		if made, err = d.random(madeSecret); err != nil {
			return nil, nil, err
		}
		r.Secret = made
	case len(r.Secret) < minSecret || len(r.Secret) > maxSecret:
		return nil, nil, CodeSecret.Bad("secret", fmt.Sprintf("%d to %d bytes", minSecret, maxSecret), fmt.Sprint(len(r.Secret)))
	}
	box, err = d.cfg.Keys.SealSecret(secretPlace(namespace, id), r.Secret)
	return box, made, err
}

func findNode(tx store.Tx, key string) (store.Node, error) {
	n, err := tx.Nodes().Get(key)
	if errors.Is(err, store.ErrNotFound) {
		n, err = tx.Nodes().ByName(key)
	}
	if errors.Is(err, store.ErrNotFound) {
		return n, CodeFilter.Bad("nodes", "ids or names of nodes", clip(key))
	}
	return n, err
}

func described(h hook) api.Webhook {
	out := api.Webhook{
		ID: h.ID, URL: h.URL, Kinds: h.Filter.Kinds, Nodes: h.Filter.Nodes, Severity: h.Filter.Severity, Signs: "secret",
		CreatedAt: h.CreatedAt, After: h.After, Failing: h.Failing, Problem: h.Problem, Seen: h.Seen,
	}
	if h.JWS {
		out.Signs = "jws"
	}
	return out
}

// List returns the webhooks of a namespace.
func List(tx store.Tx) ([]api.Webhook, error) {
	items, err := tx.Shelf().List(itemHook, "", "", 0)
	if err != nil {
		return nil, err
	}
	last, err := tx.Events().Last()
	if err != nil {
		return nil, err
	}
	out := []api.Webhook{}
	for _, i := range items {
		h, err := decodeItem[hook](i)
		if err != nil {
			return nil, err
		}
		v := described(h)
		v.Behind = max(0, last-h.After)
		dead, err := tx.Shelf().List(itemDead, h.ID+"/", "", maxDead+1)
		if err != nil {
			return nil, err
		}
		v.Dead = len(dead)
		out = append(out, v)
	}
	return out, nil
}

// Remove deletes a webhook with its dead letters.
func (d *Dispatcher) Remove(tx store.Tx, actor, id string) error {
	h, err := getHook(tx, id)
	if err != nil {
		return err
	}
	dead, err := tx.Shelf().List(itemDead, id+"/", "", 0)
	if err != nil {
		return err
	}
	for _, i := range dead {
		if err := tx.Shelf().Delete(itemDead, i.ID); err != nil {
			return err
		}
	}
	if err := tx.Shelf().Delete(itemHook, id); err != nil {
		return err
	}
	return d.record(tx, actor, "webhook.delete", id, map[string]any{"url": h.URL, "dead": len(dead)})
}

// Dead lists the dead letters of a webhook after a sequence number.
func Dead(tx store.Tx, id string, after int64, limit int) (api.DeadLetterList, error) {
	out := api.DeadLetterList{Letters: []api.DeadLetter{}}
	if _, err := getHook(tx, id); err != nil {
		return out, err
	}
	items, err := tx.Shelf().List(itemDead, id+"/", deadID(id, after), limit+1)
	if err != nil {
		return out, err
	}
	for i, item := range items {
		if i == limit {
			out.Next = out.Letters[i-1].Seq
			break
		}
		l, err := decodeItem[letter](item)
		if err != nil {
			return out, err
		}
		out.Letters = append(out.Letters, api.DeadLetter{
			Seq: l.Event.Seq, Kind: l.Event.Kind, Subject: l.Event.Subject, At: l.Event.At, Given: l.Given,
			Attempts: l.Attempts, Problem: l.Problem, Seen: l.Seen, Due: l.Due,
		})
	}
	return out, nil
}

// Redeliver marks dead letters to be sent again; no sequence numbers mean all. Whichever server delivers does so.
func (d *Dispatcher) Redeliver(tx store.Tx, actor, id string, seqs []int64) (int, error) {
	if _, err := getHook(tx, id); err != nil {
		return 0, err
	}
	items, err := tx.Shelf().List(itemDead, id+"/", "", 0)
	if err != nil {
		return 0, err
	}
	due, found := 0, 0
	for _, i := range items {
		l, err := decodeItem[letter](i)
		if err != nil {
			return 0, err
		}
		if len(seqs) > 0 && !slices.Contains(seqs, l.Event.Seq) {
			continue
		}
		found++
		if l.Due {
			continue
		}
		l.Due = true
		due++
		if err := putItem(tx, itemDead, i.ID, l); err != nil {
			return 0, err
		}
	}
	if found < len(seqs) {
		return 0, CodeUnknown.Bad("seq", "dead letters of this webhook", strings.Trim(fmt.Sprint(seqs), "[]"))
	}
	return due, d.record(tx, actor, "webhook.redeliver", id, map[string]any{"due": due})
}

// record writes the audit leaf of a change, and the event by which the delivering server learns of it.
func (d *Dispatcher) record(tx store.Tx, actor, verb, id string, detail map[string]any) error {
	b, err := json.Marshal(detail)
	if err != nil {
		return fmt.Errorf("encoding an audit entry: %w", err)
	}
	at := d.cfg.Now().UTC()
	object := "webhook/" + id
	if _, err := tx.Audit().Append(store.AuditEntry{At: at, Actor: actor, Verb: verb, Object: object, Detail: b}); err != nil {
		return err
	}
	_, err = tx.Events().Append(store.Event{At: at, Kind: EventHook, Subject: object, Data: json.RawMessage(fmt.Sprintf(`{"verb":%q}`, verb))})
	return err
}
