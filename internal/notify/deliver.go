package notify

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/result"
)

// TypeDelivery is the typ of the JWS over a delivery: no result has it, so that neither passes for the other.
const TypeDelivery = "assay-delivery+jws"

// refusals is how often a receiver may refuse one event before it is given up.
const refusals = 3

// hooks runs one worker for each webhook of the namespace.
func (u *duty) hooks(ctx context.Context, b *bell) {
	poke := b.add("")
	defer b.remove(poke)
	var workers sync.WaitGroup
	defer workers.Wait()
	running := map[string]context.CancelFunc{}
	defer func() {
		for _, end := range running {
			end()
		}
	}()
	for ctx.Err() == nil {
		ids := map[string]bool{}
		err := u.space.View(ctx, func(tx store.Tx) error {
			items, err := tx.Shelf().List(itemHook, "", "", 0)
			clear(ids)
			for _, i := range items {
				ids[i.ID] = true
			}
			return err
		})
		if err == nil {
			for id, end := range running {
				if !ids[id] {
					end()
					delete(running, id)
				}
			}
			for id := range ids {
				if running[id] == nil {
					own, end := context.WithCancel(ctx)
					running[id] = end
					workers.Go(func() { (&worker{duty: u, id: id, bell: b}).run(own) })
				}
			}
		}
		pause(ctx, u.pace.look, poke)
		pause(ctx, 50*time.Millisecond, nil) // many events ring often
	}
}

// worker delivers to one webhook, one event at a time.
type worker struct {
	*duty
	id     string
	bell   *bell
	poke   chan struct{} // events of the namespace
	own    chan struct{} // the webhook itself was changed
	hook   hook
	secret []byte
}

func (w *worker) run(ctx context.Context) {
	w.poke, w.own = w.bell.add(""), w.bell.add("webhook/"+w.id)
	defer w.bell.remove(w.poke)
	defer w.bell.remove(w.own)
	defer func() { clear(w.secret) }()
	for ctx.Err() == nil {
		more, err := w.round(ctx)
		switch {
		case errors.Is(err, errLost), errors.Is(err, store.ErrNotFound):
			return // another server delivers, or the webhook was deleted
		case err != nil && ctx.Err() == nil:
			w.cfg.Log.Error("delivering to a webhook", "namespace", w.namespace, "webhook", w.id, "error", err)
			pause(ctx, time.Second, nil)
		case !more:
			pause(ctx, w.pace.look, w.poke)
		}
	}
}

// round sends dead letters that are due again, then delivers one page of events. It says whether there may be more.
func (w *worker) round(ctx context.Context) (more bool, err error) {
	var page []store.Event
	var due []letter
	err = w.space.View(ctx, func(tx store.Tx) error {
		due = due[:0]
		h, err := getItem[hook](tx, itemHook, w.id)
		if err != nil {
			return err
		}
		h.After = max(h.After, w.hook.After) // what was passed over may not be written yet
		w.hook = h
		letters, err := tx.Shelf().List(itemDead, w.id+"/", "", maxDead+1)
		if err != nil {
			return err
		}
		for _, i := range letters {
			l, err := decodeItem[letter](i)
			if err != nil {
				return err
			}
			if l.Due {
				due = append(due, l)
			}
		}
		page, err = tx.Events().After(w.hook.After, pageSize)
		return err
	})
	if err != nil {
		return false, err
	}
	if w.secret == nil && !w.hook.JWS {
		if w.secret, err = w.cfg.Keys.OpenSecret(secretPlace(w.namespace, w.id), w.hook.Sealed); err != nil {
			return false, fmt.Errorf("opening the secret of a webhook: %w", err)
		}
	}
	for _, l := range due {
		if err := w.resend(ctx, l); err != nil {
			return false, err
		}
	}
	written := w.hook.After
	for _, e := range page {
		if w.hook.Filter.Wants(e) && e.Subject != "webhook/"+w.id {
			if err := w.deliver(ctx, e); err != nil {
				return false, err
			}
			written = e.Seq
		}
		w.hook.After = e.Seq
	}
	if w.hook.After > written {
		err = w.save(ctx, func(h *hook) {})
	}
	return len(page) == pageSize, err
}

// save writes the webhook's progress, under the lease.
func (w *worker) save(ctx context.Context, change func(*hook)) error {
	return w.update(ctx, func(tx store.Tx) error { return w.saveIn(tx, change) })
}

func (w *worker) saveIn(tx store.Tx, change func(*hook)) error {
	h, err := getItem[hook](tx, itemHook, w.id)
	if err != nil {
		return err
	}
	h.After = max(h.After, w.hook.After)
	h.Failing, h.Problem, h.Seen = w.hook.Failing, w.hook.Problem, w.hook.Seen
	change(&h)
	return putItem(tx, itemHook, w.id, h)
}

// deliver tries until the event was taken or is given up, and writes which.
func (w *worker) deliver(ctx context.Context, e store.Event) error {
	for attempt := 1; ; attempt++ {
		refused, err := w.attempt(ctx, e)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		reason, coded := rats.ReasonOf(err)
		switch {
		case err == nil:
			w.hook.Failing, w.hook.Problem, w.hook.Seen = time.Time{}, "", ""
			w.hook.After = e.Seq
			return w.save(ctx, func(*hook) {})
		case !coded:
			return err
		}
		if refused && attempt >= refusals || !refused && w.cfg.Now().Sub(e.At) >= w.limits.giveUp {
			buried, err := w.bury(ctx, e, attempt, reason)
			if buried || err != nil {
				return err
			}
		}
		if w.hook.Failing.IsZero() || w.hook.Problem != reason.Code {
			if w.hook.Failing.IsZero() {
				w.hook.Failing = w.cfg.Now().UTC()
			}
			w.hook.Problem, w.hook.Seen = reason.Code, clip(reason.Seen)
			if err := w.save(ctx, func(*hook) {}); err != nil {
				return err
			}
			w.cfg.Log.Warn("a webhook fails", "namespace", w.namespace, "webhook", w.id, "code", reason.Code, "seen", reason.Seen)
		}
		pause(ctx, w.backoff(attempt), w.own)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// backoff is the pause after an attempt: doubled each time, half of it at random so that receivers are not hit by all at
// once.
func (d *Dispatcher) backoff(attempt int) time.Duration {
	p := d.pace.first << min(attempt-1, 20)
	p = min(p, d.pace.most)
	b, err := d.random(4)
	if err != nil {
		return p
	}
	return p/2 + time.Duration(float64(p/2)*float64(binary.BigEndian.Uint32(b))/(1<<32))
}

// bury makes an event a dead letter and passes on. It is false if the webhook has as many as it may have.
func (w *worker) bury(ctx context.Context, e store.Event, attempts int, why rats.Reason) (bool, error) {
	full := false
	err := w.update(ctx, func(tx store.Tx) error {
		letters, err := tx.Shelf().List(itemDead, w.id+"/", "", maxDead)
		if err != nil {
			return err
		}
		if full = len(letters) >= maxDead; full {
			return nil
		}
		now := w.cfg.Now().UTC()
		l := letter{Event: e, Given: now, Attempts: attempts, Problem: why.Code, Seen: clip(why.Seen)}
		if err := putItem(tx, itemDead, deadID(w.id, e.Seq), l); err != nil {
			return err
		}
		if len(letters) == 0 { // the first only: else two webhooks that fail would tell each other for ever
			data, err := json.Marshal(map[string]any{"webhook": w.id, "seq": e.Seq, "code": why.Code})
			if err != nil {
				return err
			}
			if _, err := tx.Events().Append(store.Event{At: now, Kind: EventDead, Subject: "webhook/" + w.id, Data: data}); err != nil {
				return err
			}
		}
		return w.saveIn(tx, func(h *hook) {
			h.After = e.Seq
			h.Problem, h.Seen = why.Code, clip(why.Seen)
			if h.Failing.IsZero() {
				h.Failing = now
			}
		})
	})
	if err != nil || full {
		return false, err
	}
	w.hook.After, w.hook.Problem, w.hook.Seen = e.Seq, why.Code, clip(why.Seen)
	if w.hook.Failing.IsZero() {
		w.hook.Failing = w.cfg.Now().UTC()
	}
	w.cfg.Log.Warn("an event was given up", "namespace", w.namespace, "webhook", w.id, "seq", e.Seq, "code", why.Code)
	return true, nil
}

// resend tries a dead letter once more.
func (w *worker) resend(ctx context.Context, l letter) error {
	_, err := w.attempt(ctx, l.Event)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	id := deadID(w.id, l.Event.Seq)
	reason, coded := rats.ReasonOf(err)
	if err != nil && !coded {
		return err
	}
	return w.update(ctx, func(tx store.Tx) error {
		if err == nil {
			if derr := tx.Shelf().Delete(itemDead, id); !errors.Is(derr, store.ErrNotFound) {
				return derr
			}
			return nil
		}
		now, gerr := getItem[letter](tx, itemDead, id)
		if errors.Is(gerr, store.ErrNotFound) {
			return nil
		}
		if gerr != nil {
			return gerr
		}
		now.Due, now.Problem, now.Seen = false, reason.Code, clip(reason.Seen)
		now.Attempts++
		return putItem(tx, itemDead, id, now)
	})
}

// attempt makes one delivery.
func (w *worker) attempt(ctx context.Context, e store.Event) (refused bool, err error) {
	req, err := w.request(w.namespace, w.hook, w.secret, e)
	if err != nil {
		return false, err
	}
	_, refused, err = post(ctx, w.client, req)
	return refused, err
}

// request makes the signed request of a delivery.
func (d *Dispatcher) request(namespace string, h hook, secret []byte, e store.Event) (*http.Request, error) {
	id := namespace + "/" + strconv.FormatInt(e.Seq, 10)
	out := api.Delivery{
		ID: id, Namespace: namespace, Webhook: h.ID, Severity: Severity(e),
		Event: api.Event{Seq: e.Seq, At: e.At.UTC(), Kind: e.Kind, Subject: e.Subject},
	}
	if len(e.Data) > 0 {
		out.Data = e.Data
	}
	body, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encoding a delivery: %w", err)
	}
	if err := d.settings.checkURL(h.URL); err != nil {
		return nil, err // the settings have changed since it was registered
	}
	req, err := http.NewRequest(http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return nil, CodeURL.Bad("url", "an absolute URL", clip(err.Error()))
	}
	signature := ""
	if h.JWS {
		if signature, err = d.jws(body); err != nil {
			return nil, err
		}
	} else {
		signature = api.SignDelivery(secret, body, d.cfg.Now())
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "assay")
	req.Header.Set(api.HeaderDelivery, id)
	req.Header.Set(api.HeaderSignature, signature)
	return req, nil
}

// jws signs a body with the server's key: a JWS with detached payload (RFC 7515, appendix F), with the time in iat.
func (d *Dispatcher) jws(body []byte) (string, error) {
	kid, err := result.KeyID(d.cfg.Signer.Public())
	if err != nil {
		return "", fmt.Errorf("signing a delivery: %w", err)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: cryptosigner.Opaque(d.cfg.Signer)},
		(&jose.SignerOptions{}).WithType(TypeDelivery).WithHeader("kid", kid).WithHeader("iat", d.cfg.Now().Unix()))
	if err != nil {
		return "", fmt.Errorf("signing a delivery: %w", err)
	}
	signed, err := s.Sign(body)
	if err != nil {
		return "", fmt.Errorf("signing a delivery: %w", err)
	}
	text, err := signed.DetachedCompactSerialize()
	return "jws=" + text, err
}

// Test makes a delivery of a made-up event now, and says what came of it.
func (d *Dispatcher) Test(ctx context.Context, space store.Space, namespace, id string) (api.WebhookTest, error) {
	var h hook
	err := space.View(ctx, func(tx store.Tx) (err error) { h, err = getHook(tx, id); return err })
	if err != nil {
		return api.WebhookTest{}, err
	}
	var secret []byte
	if !h.JWS {
		if secret, err = d.cfg.Keys.OpenSecret(secretPlace(namespace, id), h.Sealed); err != nil {
			return api.WebhookTest{}, fmt.Errorf("opening the secret of a webhook: %w", err)
		}
		defer clear(secret)
	}
	begin := d.cfg.Now()
	req, err := d.request(namespace, h, secret, store.Event{At: begin.UTC(), Kind: "webhook.test", Subject: "webhook/" + id})
	out := api.WebhookTest{}
	if err == nil {
		out.Status, _, err = post(ctx, d.client, req)
	}
	out.Took = d.cfg.Now().Sub(begin).Round(time.Millisecond).String()
	if r, ok := rats.ReasonOf(err); ok {
		out.Reason = &r
		return out, nil
	}
	out.OK = err == nil
	return out, err
}
