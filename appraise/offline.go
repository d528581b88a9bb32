package appraise

import (
	"crypto/x509"
	"time"

	"github.com/assay-attest/assay/rats"
)

// Offline is a format whose evidence can be judged from files, without a server: a Verifier that recognises its
// evidence and says what its verification takes of what a person has at hand.
type Offline interface {
	rats.Verifier
	// Detect says, cheaply, whether b can be evidence of the format. It is given the file as it is and everything that
	// Unwrap finds in it.
	Detect(b []byte) bool
	// Prepare turns files into evidence and the inputs of its verification. Its errors are those of a Verifier.
	Prepare(Given) (rats.Evidence, rats.Inputs, error)
}

// Inspector is an Offline that decodes evidence without verifying it. What it returns has json tags, and nothing of it
// is proven.
type Inspector interface{ Inspect([]byte) (any, error) }

// Defaulter is an Offline with rules for where nobody gave a policy. They accept production, up-to-date evidence only.
// A format without them accepts nothing then.
type Defaulter interface{ DefaultRules() rats.Rules }

// Container is an Offline whose evidence can carry evidence of other formats in the same file: a log beside a quote.
// Each is judged with the registers of the evidence it came with.
type Container interface{ Inside([]byte) [][]byte }

// Named is an Offline that goes by further names.
type Named interface{ Names() []string }

// Leveled are claims about a platform whose maker publishes how current it is.
type Leveled interface {
	TCBStatus() (status string, advisories []string, date time.Time)
}

// Debuggable are claims about something that can be open to a debugger.
type Debuggable interface{ DebugEnabled() bool }

// Remarking is an Offline that finds in claims what must be told whether or not it speaks against them: entries of a list
// that no register covers.
type Remarking interface {
	Remarks(rats.Claims) []rats.Reason
}

// File is a file that was given, by name. The name decides nothing.
type File struct {
	Name string `json:"name"`
	Body []byte `json:"body"`
}

// Given is what a person hands over about one piece of evidence. CA, Registers and Binding are what that person trusts
// and expects; everything else is as untrusted as the evidence.
type Given struct {
	Body       []byte            // the evidence, as Unwrap found it
	File       []byte            // the file it was found in
	Beside     map[string][]byte // companions by name (BesideSignature, …)
	Registers  []rats.Registers  // the values that the evidence must match
	CA         []File            // trust anchors that replace the built-in roots
	Collateral []File            // certificates, revocation lists, TCB information; recognised by content
	Binding    rats.Binding      // profile raw or none
	Now        time.Time         // the moment to judge for
}

// The names of companions.
const (
	BesideSignature = "signature" // the evidence's signature, where it stands in a file of its own
	BesideKey       = "ak"        // the key that must have signed
	BesideLog       = "log"       // the log that goes on where the evidence, a log, ends
)

// MediaTypeFile is the media type of collateral that formats recognise by its content.
const MediaTypeFile = "application/octet-stream"

// Evidence returns the evidence of a format that takes Body as it is, and inputs with everything that was given.
func (g Given) Evidence(d *rats.Descriptor) (rats.Evidence, rats.Inputs) {
	e := rats.Evidence{Format: d.ID, Body: g.Body}
	if len(d.MediaTypes) > 0 {
		e.MediaType = d.MediaTypes[0]
	}
	in := rats.Inputs{Binding: g.Binding, Now: g.Now, Facts: rats.Facts{Registers: g.Registers}}
	for _, c := range g.Collateral {
		in.Endorsements = append(in.Endorsements, rats.Endorsement{MediaType: MediaTypeFile, Body: c.Body, Fetched: g.Now})
	}
	if len(g.CA) > 0 {
		in.Anchors = x509.NewCertPool()
		for _, der := range Certificates(g.CA) {
			if c, err := x509.ParseCertificate(der); err == nil {
				in.Anchors.AddCert(c)
			}
		}
	}
	return e, in
}

// Certificates returns the DER of every certificate in the files, which are PEM or DER.
func Certificates(files []File) [][]byte {
	var out [][]byte
	for _, f := range files {
		out = append(out, certificatesOf(f.Body)...)
	}
	return out
}

// Plain is an Offline made of a Verifier that takes the evidence as it is. Fields that are nil are not there.
type Plain struct {
	rats.Verifier
	Is      func([]byte) bool
	Decode  func([]byte) (any, error)
	Default func() rats.Rules
	Holds   func([]byte) [][]byte
	Remark  func(rats.Claims) []rats.Reason
	Also    []string                                        // further names
	Adapt   func(Given, *rats.Evidence, *rats.Inputs) error // changes what Given.Evidence made
}

var (
	_ Offline   = Plain{}
	_ Inspector = Plain{}
	_ Defaulter = Plain{}
	_ Container = Plain{}
	_ Named     = Plain{}
	_ Remarking = Plain{}
)

// Detect implements Offline.
func (p Plain) Detect(b []byte) bool { return p.Is != nil && p.Is(b) }

// Prepare implements Offline.
func (p Plain) Prepare(g Given) (rats.Evidence, rats.Inputs, error) {
	e, in := g.Evidence(p.Descriptor())
	if p.Adapt != nil {
		if err := p.Adapt(g, &e, &in); err != nil {
			return rats.Evidence{}, rats.Inputs{}, err
		}
	}
	return e, in, nil
}

// Inspect implements Inspector. Without Decode it returns nothing.
func (p Plain) Inspect(b []byte) (any, error) {
	if p.Decode == nil {
		return nil, nil
	}
	return p.Decode(b)
}

// DefaultRules implements Defaulter. Without Default they are the format's empty section, which permits nothing.
func (p Plain) DefaultRules() rats.Rules {
	if p.Default != nil {
		return p.Default()
	}
	return p.Descriptor().NewRules()
}

// Inside implements Container.
func (p Plain) Inside(b []byte) [][]byte {
	if p.Holds == nil {
		return nil
	}
	return p.Holds(b)
}

// Names implements Named.
func (p Plain) Names() []string { return p.Also }

// Remarks implements Remarking.
func (p Plain) Remarks(c rats.Claims) []rats.Reason {
	if p.Remark == nil {
		return nil
	}
	return p.Remark(c)
}
