package client

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"github.com/assay-attest/assay/api"
)

// EventFilter says which events are wanted; what is empty wants all.
type EventFilter struct {
	Kinds    []string // node.state, or node.*
	Nodes    []string // ids or names
	Severity string   // at least: info, warning, critical
}

func (f EventFilter) query(q url.Values) url.Values {
	for _, k := range f.Kinds {
		q.Add("kind", k)
	}
	for _, n := range f.Nodes {
		q.Add("node", n)
	}
	if f.Severity != "" {
		q.Set("severity", f.Severity)
	}
	return q
}

// EventsWhere is Events of those that a filter wants.
func (c *Client) EventsWhere(ctx context.Context, after int64, f EventFilter) iter.Seq2[api.Event, error] {
	return c.events(ctx, after, f)
}

// AddWebhook registers a webhook. A secret that the server made is told only in this answer.
func (c *Client) AddWebhook(ctx context.Context, r api.WebhookRequest) (api.Webhook, error) {
	return call[api.Webhook](ctx, c, http.MethodPost, c.path("webhooks"), nil, r)
}

// ListWebhooks lists webhooks, without their secrets.
func (c *Client) ListWebhooks(ctx context.Context) ([]api.Webhook, error) {
	l, err := call[api.WebhookList](ctx, c, http.MethodGet, c.path("webhooks"), nil, nil)
	return l.Webhooks, err
}

// DeleteWebhook deletes a webhook and its dead letters.
func (c *Client) DeleteWebhook(ctx context.Context, id string) error {
	return c.drop(ctx, http.MethodDelete, c.path("webhooks", id))
}

// TestWebhook makes a delivery now and says what came of it.
func (c *Client) TestWebhook(ctx context.Context, id string) (api.WebhookTest, error) {
	return call[api.WebhookTest](ctx, c, http.MethodPost, c.path("webhooks", id, "test"), nil, struct{}{})
}

// DeadLetters lists events that could not be delivered, after a sequence number.
func (c *Client) DeadLetters(ctx context.Context, id string, after int64) (api.DeadLetterList, error) {
	q := url.Values{"after": {strconv.FormatInt(after, 10)}}
	return call[api.DeadLetterList](ctx, c, http.MethodGet, c.path("webhooks", id, "dead"), q, nil)
}

// Redeliver has dead letters sent again, all of them if none is named. It returns how many are due now.
func (c *Client) Redeliver(ctx context.Context, id string, seqs ...int64) (int, error) {
	r, err := call[api.Redelivered](ctx, c, http.MethodPost, c.path("webhooks", id, "redeliver"), nil, api.Redeliver{Seq: seqs})
	return r.Due, err
}

// QuarantineNode puts a node into quarantine: not trusted and without secrets until it is lifted.
func (c *Client) QuarantineNode(ctx context.Context, node, why string) (api.Node, error) {
	return call[api.Node](ctx, c, http.MethodPut, c.path("nodes", node, "quarantine"), nil, api.Quarantine{Why: why})
}

// LiftQuarantine ends a node's quarantine.
func (c *Client) LiftQuarantine(ctx context.Context, node, why string) error {
	_, err := c.bytes(ctx, request{
		method: http.MethodDelete, path: c.path("nodes", node, "quarantine"), query: url.Values{"why": {why}}, accept: "application/json",
	}, maxAnswer)
	return err
}

// Wish tells the server that something happened on the node, for which its policy may want an attestation at once.
func (c *Client) Wish(ctx context.Context, node, event string) error {
	b, err := json.Marshal(api.Wish{Event: event})
	if err != nil {
		return err
	}
	_, err = c.bytes(ctx, request{
		method: http.MethodPost, path: c.path("nodes", node, "wish"), body: b, media: "application/json", accept: "application/json",
	}, maxAnswer)
	return err
}
