// Package notify tells others what happened to nodes, and does what policies say about it: webhooks with retries and dead
// letters, actions with debounce, commands on the server's side, and the notice that a node went silent.
//
// It guarantees: an event of the outbox reaches every webhook that wants it at least once, in the order of the outbox for
// each webhook, or becomes a dead letter that an owner sees and can send again; of several servers one delivers for a
// namespace, under a lease in the database; an endpoint is spoken to over https at addresses the server's settings permit,
// never by way of a redirect or proxy; nothing of a policy's text reaches a command line.
//
// It does not guarantee that a receiver sees an event once: after a crash, or when an answer was lost, it comes again with
// the same delivery id. A dead letter that is sent again comes late, out of order. Events that were purged before they
// could be delivered are lost; the time they are kept must be longer than an outage may last.
package notify

import (
	"errors"

	"github.com/assay-attest/assay/rats"
)

// Codes of webhooks.
var (
	CodeURL = rats.CodeInfo{
		Code: "webhook.url.refused", Title: "the address of a webhook can't be used",
		Hint: "use https://host/path without user, password and fragment; http and private addresses need the server's settings", Slot: rats.Configuration,
	}
	CodeFilter = rats.CodeInfo{
		Code: "webhook.filter.invalid", Title: "the filter of a webhook can't be used",
		Hint: "kinds are names such as node.state or patterns such as node.*; severities are info, warning and critical", Slot: rats.Configuration,
	}
	CodeSecret = rats.CodeInfo{
		Code: "webhook.secret.invalid", Title: "the secret of a webhook is too short or too long",
		Hint: "give 16 to 256 bytes, or none to have one made, or let the server sign with its own key", Slot: rats.Configuration,
	}
	CodeUnknown = rats.CodeInfo{
		Code: "webhook.id.unknown", Title: "there is no such webhook or dead letter",
		Hint: "list them: assay webhook list, assay webhook dead ID", Slot: rats.Configuration,
	}
	CodeTooMany = rats.CodeInfo{
		Code: "webhook.count.exceeded", Title: "the namespace has as many webhooks as it may have",
		Hint: "delete one that isn't used, or fan out behind one", Slot: rats.Configuration,
	}
)

// Codes of deliveries.
var (
	CodeAddress = rats.CodeInfo{
		Code: "webhook.address.refused", Title: "the webhook's host has an address that the server may not speak to",
		Hint: "private, loopback and link-local addresses must be listed in the server's settings (notify.allow_networks)", Slot: rats.Configuration,
	}
	CodeUnreachable = rats.CodeInfo{
		Code: "webhook.delivery.unreachable", Title: "the webhook's host can't be reached",
		Hint: "see whether it runs, and whether its certificate is good for its name; delivery is tried again", Slot: rats.Configuration,
	}
	CodeTimeout = rats.CodeInfo{
		Code: "webhook.delivery.timeout", Title: "the webhook's host didn't answer in time",
		Hint: "answer first and work later; delivery is tried again", Slot: rats.Configuration,
	}
	CodeRedirect = rats.CodeInfo{
		Code: "webhook.delivery.redirected", Title: "the webhook's host sent the event elsewhere",
		Hint: "redirects are not followed: register the final address", Slot: rats.Configuration,
	}
	CodeStatus = rats.CodeInfo{
		Code: "webhook.delivery.refused", Title: "the webhook's host didn't accept the event",
		Hint: "it must answer with a status of 200 to 299; server errors are tried again for longer than refusals", Slot: rats.Configuration,
	}
)

// Codes of actions.
var (
	CodeCommandUnknown = rats.CodeInfo{
		Code: "action.command.unknown", Title: "the server's settings have no command of this name",
		Hint: "add it to notify.commands of server.json on every server, or correct the policy", Slot: rats.Configuration,
	}
	CodeCommandFailed = rats.CodeInfo{
		Code: "action.command.failed", Title: "a command of an action failed",
		Hint: "the event action.ran holds its exit status and the beginning of its output", Slot: rats.Configuration,
	}
	CodeCommandTimeout = rats.CodeInfo{
		Code: "action.command.timeout", Title: "a command of an action took too long and was ended",
		Hint: "raise its timeout in the server's settings, or let it start its work and end", Slot: rats.Configuration,
	}
	CodeSettings = rats.CodeInfo{
		Code: "action.settings.invalid", Title: "the settings of webhooks and commands can't be used",
		Hint: "see docs/events.md for notify in server.json", Slot: rats.Configuration,
	}
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{
	CodeURL, CodeFilter, CodeSecret, CodeUnknown, CodeTooMany, CodeAddress, CodeUnreachable, CodeTimeout, CodeRedirect, CodeStatus,
	CodeCommandUnknown, CodeCommandFailed, CodeCommandTimeout, CodeSettings,
}

// errLost ends what a server does under a lease that it no longer holds.
var errLost = errors.New("another server holds the lease")

func clip(s string) string {
	const most = 300
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
