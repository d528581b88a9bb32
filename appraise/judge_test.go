package appraise_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/rats"
)

// plainFile is a format whose evidence is any file that begins with "plain".
type plainFile struct{ marks []string }

type plainClaims struct {
	Text string `json:"text"`
}

func (*plainClaims) ClaimsOf() rats.Format { return "plain" }

func (p plainFile) Descriptor() *rats.Descriptor {
	return &rats.Descriptor{ID: "plain", NewClaims: func() rats.Claims { return new(plainClaims) }}
}

func (p plainFile) Detect(b []byte) bool { return bytes.HasPrefix(b, []byte("plain")) }

func (p plainFile) Prepare(g appraise.Given) (rats.Evidence, rats.Inputs, error) {
	e, in := g.Evidence(p.Descriptor())
	return e, in, nil
}

func (p plainFile) Verify(_ context.Context, e rats.Evidence, _ rats.Inputs) (rats.Verified, error) {
	return rats.Verified{Claims: &plainClaims{Text: string(e.Body)}, Marks: p.marks}, nil
}

// ruled is a plainFile with default rules that find nothing wrong.
type ruled struct{ plainFile }

type noRules struct{}

func (noRules) Lint() []rats.Reason                                     { return nil }
func (noRules) Slots() []rats.Slot                                      { return []rats.Slot{rats.Hardware} }
func (noRules) Check(rats.Claims, rats.Lookup, time.Time) []rats.Reason { return nil }
func (noRules) Params() []byte                                          { return nil }
func (ruled) DefaultRules() rats.Rules                                  { return noRules{} }

func TestFilesAreAcceptedOnlyIfRulesSaySo(t *testing.T) {
	for _, tt := range []struct {
		name              string
		format            appraise.Offline
		file              string
		genuine, accepted bool
		code              rats.Code
	}{
		{"a file of no format", ruled{}, "something else", false, false, appraise.CodeFileUnrecognised.Code},
		{"an empty file", ruled{}, "", false, false, appraise.CodeFileUnrecognised.Code},
		{"a format without rules", plainFile{}, "plain file", true, false, appraise.CodeFileUnjudged.Code},
		{"evidence with a mark", ruled{plainFile{marks: []string{rats.MarkSimulated}}}, "plain file", true, false, appraise.CodeFileMark.Code},
		{"evidence that rules accept", ruled{}, "plain file", true, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j, err := appraise.Judge(t.Context(), []appraise.Offline{tt.format}, appraise.Question{Given: appraise.Given{
				File: []byte(tt.file), Binding: rats.Binding{Profile: rats.ProfileNone}, Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
			}})
			if err != nil {
				t.Fatal(err)
			}
			if j.Genuine != tt.genuine || j.Accepted != tt.accepted {
				t.Errorf("genuine %v, accepted %v: %v", j.Genuine, j.Accepted, j.Reasons)
			}
			if tt.code == "" && len(j.Reasons) != 0 || tt.code != "" && (len(j.Reasons) == 0 || j.Reasons[0].Code != tt.code) {
				t.Errorf("reasons %v, want %s", j.Reasons, tt.code)
			}
		})
	}
}
