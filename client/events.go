package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/url"
	"strconv"
	"time"

	"github.com/assay-attest/assay/api"
)

// The pause before a broken stream of events is opened again: doubled at every vain try.
const (
	eventsPause    = 500 * time.Millisecond
	eventsPauseMax = 30 * time.Second
)

// Events yields the namespace's events after a sequence number, then waits for more until ctx ends or the caller stops.
// A stream that breaks is opened again after the last event that was yielded, so none is missed or doubled; every break
// is yielded as an error with a zero Event: go on ranging to wait, stop to give up. A refusal of the server (*Error below
// 500) ends it.
func (c *Client) Events(ctx context.Context, after int64) iter.Seq2[api.Event, error] {
	return c.events(ctx, after, EventFilter{})
}

func (c *Client) events(ctx context.Context, after int64, f EventFilter) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		pause := eventsPause
		for ctx.Err() == nil {
			last := after
			more, err := c.eventsOnce(ctx, &after, f, yield)
			if !more || ctx.Err() != nil {
				return
			}
			if !yield(api.Event{}, err) || final(err) {
				return
			}
			if after > last {
				pause = eventsPause
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, eventsPauseMax)
		}
	}
}

func final(err error) bool {
	var refused *Error
	return errors.As(err, &refused) && refused.Problem.Status < 500
}

// eventsOnce holds one stream. More is false if the caller stopped.
func (c *Client) eventsOnce(ctx context.Context, after *int64, f EventFilter, yield func(api.Event, error) bool) (more bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from := strconv.FormatInt(*after, 10)
	res, err := c.stream(ctx, c.path("events")+"?"+f.query(url.Values{"after": {from}}).Encode(), map[string]string{"Last-Event-ID": from})
	if err != nil {
		return true, err
	}
	defer res.Body.Close()
	for m := newMessages(res.Body); ; {
		msg, err := m.next()
		if err != nil {
			if err = c.ended(err); err == io.EOF {
				err = c.unreachable(CodeLost, "", io.EOF)
			}
			return true, err
		}
		var e api.Event
		if err := json.Unmarshal(msg.data, &e); err != nil {
			return true, CodeAnswer.Bad("event", "JSON of the API", clip(err.Error()))
		}
		if e.Seq <= *after {
			continue
		}
		if !yield(e, nil) {
			return false, nil
		}
		*after = e.Seq
	}
}
