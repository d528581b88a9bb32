package client

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// maxEvent bounds one event of a stream: a challenge with a sealed plan.
const maxEvent = 4 << 20

// message is one server-sent event (WHATWG HTML, 9.2).
type message struct {
	name string
	id   string
	data []byte
}

// errEventSize ends a stream whose event is larger than maxEvent.
var errEventSize = errors.New("event larger than it may be")

// messages reads server-sent events. Comments, retry and unknown fields are passed over; an event without data is none.
type messages struct {
	r     *bufio.Reader
	limit int
}

func newMessages(r io.Reader) *messages { return &messages{r: bufio.NewReader(r), limit: maxEvent} }

// next returns the next event. An event the stream ends in is incomplete and not returned.
func (m *messages) next() (message, error) {
	var out message
	size, lines := 0, 0
	for {
		line, err := m.line(m.limit - size)
		if err != nil {
			return message{}, err
		}
		size += len(line) + 1
		if len(line) == 0 {
			if lines > 0 {
				return out, nil
			}
			out, size = message{}, 0
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			out.name = string(value)
		case "id":
			out.id = string(value)
		case "data":
			if lines++; lines > 1 {
				out.data = append(out.data, '\n')
			}
			out.data = append(out.data, value...)
		case "": // a comment: the server's sign of life
			size -= len(line) + 1
		}
	}
}

// line returns one line without its end (LF or CRLF).
func (m *messages) line(limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := m.r.ReadSlice('\n')
		if len(line)+len(part) > limit+2 {
			return nil, fmt.Errorf("%w: more than %d bytes", errEventSize, m.limit)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			line = bytes.TrimSuffix(line, []byte("\n"))
			return bytes.TrimSuffix(line, []byte("\r")), nil
		case errors.Is(err, bufio.ErrBufferFull):
		default:
			return nil, err
		}
	}
}
