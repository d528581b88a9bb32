package snp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// The TCB statuses. AMD publishes no signed statement about them, so without a Minimum the status is unknown.
const (
	StatusUpToDate  = "UpToDate"
	StatusOutOfDate = "OutOfDate"
	StatusUnknown   = "unknown"
)

// MinimumType is the value of "type" in a Minimum.
const MinimumType = "assay-snp-minimum-tcb/1"

// Minimum is collateral that says from which TCB on a product counts as up to date, as somebody the operator trusts read it out
// of AMD's security bulletins. It is not signed: whoever hands it to a verification vouches for it.
type Minimum struct {
	Type       string          `json:"type"`
	Date       time.Time       `json:"date"`                 // as of when
	Next       time.Time       `json:"next,omitzero"`        // not to be used after; zero: no bound
	TCB        map[Product]TCB `json:"tcb"`                  // least numbers
	Advisories []string        `json:"advisories,omitempty"` // that a lower TCB leaves open
}

const maxAdvisories = 256

// ParseMinimum reads a Minimum strictly.
func ParseMinimum(b []byte) (Minimum, error) {
	var m Minimum
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return Minimum{}, fmt.Errorf("reading minimum TCBs: %w", err)
	}
	if m.Type != MinimumType || m.Date.IsZero() || len(m.TCB) == 0 || len(m.Advisories) > maxAdvisories || d.More() {
		return Minimum{}, fmt.Errorf("reading minimum TCBs: not a document of type %q with a date and numbers", MinimumType)
	}
	return m, nil
}

// TCBClaims is the state of the platform's firmware.
type TCBClaims struct {
	Status     string    `json:"status"` // UpToDate, OutOfDate, unknown
	Advisories []string  `json:"advisories"`
	Date       time.Time `json:"date,omitzero"` // of the collateral the status rests on
	Reported   TCB       `json:"reported"`      // what the key was made for
	Current    TCB       `json:"current"`       // what runs
	Committed  TCB       `json:"committed"`     // below which the platform can't fall back
	Launch     TCB       `json:"launch"`        // what was committed when the guest started
}

// all returns the four versions with their names.
func (t *TCBClaims) all() []namedTCB {
	return []namedTCB{{"reported", t.Reported}, {"current", t.Current}, {"committed", t.Committed}, {"launch", t.Launch}}
}

type namedTCB struct {
	name string
	tcb  TCB
}

// judge sets the status by the newest minimum that is valid at the time.
func (t *TCBClaims) judge(p Product, minima []Minimum, now time.Time) {
	t.Status, t.Advisories = StatusUnknown, []string{}
	for _, m := range minima {
		min, ok := m.TCB[p]
		if !ok || now.Before(m.Date) || !m.Next.IsZero() && now.After(m.Next) || !m.Date.After(t.Date) {
			continue
		}
		t.Status, t.Advisories, t.Date = StatusUpToDate, []string{}, m.Date.UTC()
		for _, v := range t.all() {
			if !v.tcb.AtLeast(min) {
				t.Status = StatusOutOfDate
			}
		}
		if t.Status == StatusOutOfDate {
			t.Advisories = append(t.Advisories, m.Advisories...)
		}
	}
}
