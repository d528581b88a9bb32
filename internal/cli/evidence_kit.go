package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/evidence/all"
	"github.com/assay-attest/assay/internal/endorse"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// bundleVersion is the first field of a bundle, by which it is recognised.
const bundleVersion = "assay/evidence-bundle/1"

// Bounds of the files beside evidence.
const (
	maxKitFiles = 1024
	maxKitBytes = 64 << 20
	maxKitDepth = 3
)

// kit is evidence with everything that judging it depends on: what a bundle holds. Judging one kit gives one judgement,
// whenever it is done.
type kit struct {
	Bundle     string            `json:"bundle"`
	Format     string            `json:"format,omitempty"`
	At         time.Time         `json:"at"`
	Evidence   appraise.File     `json:"evidence"`
	Beside     map[string][]byte `json:"beside,omitempty"`
	Registers  []byte            `json:"registers,omitempty"` // the file as it was
	CA         []appraise.File   `json:"ca,omitempty"`
	Collateral []appraise.File   `json:"collateral,omitempty"`
	Nonce      string            `json:"nonce,omitempty"` // hex
	Policy     string            `json:"policy,omitempty"`
}

// evidenceKit gathers what the flags name. If file is a bundle, the flags replace what is in it.
func (a *app) evidenceKit(cmd *cobra.Command, file []byte, name string, f evidenceFlags) (*kit, error) {
	k := &kit{}
	if !k.open(file) {
		*k = kit{Evidence: appraise.File{Name: filepath.Base(name), Body: file}}
	}
	k.Bundle = bundleVersion
	var err error
	if f.at != "" || k.At.IsZero() {
		if k.At, err = a.moment(cmd, f.at); err != nil {
			return nil, err
		}
	}
	if f.nonce != "" && f.reportData != "" {
		return nil, usage(cmd, "--nonce and --report-data are the same: give one")
	}
	if bound := f.nonce + f.reportData; bound != "" {
		k.Nonce = strings.TrimPrefix(bound, "0x")
	}
	if f.format != "" {
		k.Format = f.format
	}
	if !known(k.Format) {
		return nil, usage(cmd, "--format "+clean(k.Format)+" is no format; `assay evidence formats` lists them")
	}
	for name, path := range map[string]string{appraise.BesideSignature: f.signature, appraise.BesideKey: f.ak, appraise.BesideLog: f.log} {
		if path == "" {
			continue
		}
		b, err := a.readDocument(path)
		if err != nil {
			return nil, err
		}
		if k.Beside == nil {
			k.Beside = make(map[string][]byte)
		}
		k.Beside[name] = b
	}
	if f.pcrs != "" {
		if k.Registers, err = a.readDocument(f.pcrs); err != nil {
			return nil, err
		}
	}
	if f.policy != "" {
		b, err := a.readDocument(f.policy)
		if err != nil {
			return nil, err
		}
		k.Policy = string(b)
	}
	for paths, to := range map[*[]string]*[]appraise.File{&f.collateral: &k.Collateral, &f.ca: &k.CA} {
		if len(*paths) == 0 {
			continue
		}
		if *to, err = a.readFiles(*paths); err != nil {
			return nil, err
		}
	}
	if k.Collateral, err = unpack(k.Collateral, a.env.Now()); err != nil {
		return nil, err
	}
	return k, k.check(cmd)
}

// unpack takes apart what collateral comes packed in: bundles and the files of a cache's directory. Nothing here has to be
// trusted: verifiers check every document's own signature.
func unpack(files []appraise.File, now time.Time) ([]appraise.File, error) {
	var out []appraise.File
	for _, f := range files {
		inside, err := endorse.Contents(f.Body, now)
		if err != nil {
			return nil, CodeFile.Bad(f.Name, "a whole bundle of collateral", err.Error())
		}
		for _, e := range inside {
			out = append(out, appraise.File{Name: f.Name, Body: e.Body})
		}
	}
	return out, nil
}

func known(format string) bool {
	if format == "" {
		return true
	}
	for _, o := range all.Offline() {
		if string(o.Descriptor().ID) == format {
			return true
		}
		if n, ok := o.(appraise.Named); ok {
			for _, also := range n.Names() {
				if also == format {
					return true
				}
			}
		}
	}
	return false
}

// open reads a bundle. It is false if the file is none.
func (k *kit) open(file []byte) bool {
	text := bytes.TrimSpace(file)
	if len(text) == 0 || text[0] != '{' || !bytes.Contains(text[:min(len(text), 256)], []byte(bundleVersion)) {
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(k); err != nil || k.Bundle != bundleVersion {
		return false
	}
	_, err := dec.Token()
	return errors.Is(err, io.EOF)
}

// check reads what must be readable before anything is judged: these are mistakes of the caller, not of the evidence.
func (k *kit) check(cmd *cobra.Command) error {
	if _, err := k.given(); err != nil {
		return usage(cmd, err.Error())
	}
	_, err := k.accept()
	return err
}

func (k *kit) given() (appraise.Given, error) {
	g := appraise.Given{
		File: k.Evidence.Body, Beside: k.Beside, CA: k.CA, Collateral: k.Collateral, Now: k.At,
		Binding: rats.Binding{Profile: rats.ProfileNone},
	}
	nonce, err := hex.DecodeString(k.Nonce)
	if err != nil {
		return g, fmt.Errorf("the nonce is not hex: %w", err)
	}
	if len(nonce) > 0 {
		g.Binding = rats.Binding{Profile: rats.ProfileRaw, UserData: nonce}
	}
	if len(k.Registers) > 0 {
		g.Registers, err = appraise.ParseRegisters(k.Registers)
	}
	return g, err
}

func (k *kit) judge(ctx context.Context) (*appraise.Judgement, error) {
	g, err := k.given()
	if err != nil {
		return nil, err
	}
	accept, err := k.accept()
	if err != nil {
		return nil, err
	}
	return appraise.Judge(ctx, all.Offline(), appraise.Question{Given: g, Format: k.Format, Accept: accept})
}

// accept returns the accepter of the policy, nil if there is none.
func (k *kit) accept() (appraise.Accepter, error) {
	if k.Policy == "" {
		return nil, nil
	}
	var doc map[string]yaml.Node
	if err := yaml.Unmarshal([]byte(k.Policy), &doc); err != nil {
		return nil, CodeFile.Bad("policy", "a policy, or sections of formats", err.Error())
	}
	if _, whole := doc["apiVersion"]; whole {
		return acceptByPolicy(k.Policy)
	}
	return acceptBySections(doc)
}

// acceptByPolicy judges as a server would, but for the age of the evidence, of which files say nothing.
func acceptByPolicy(text string) (appraise.Accepter, error) {
	var ds []*rats.Descriptor
	seen := make(map[rats.Format]bool)
	for _, o := range all.Offline() {
		if d := o.Descriptor(); !seen[d.ID] {
			seen[d.ID] = true
			ds = append(ds, d)
		}
	}
	p, reasons := policy.Compile([]byte(text), ds)
	if p == nil {
		return nil, CodeFile.Bad("policy", "a policy without mistakes", reasonLines(reasons))
	}
	return func(_ appraise.Offline, set rats.Set, now time.Time) (bool, []rats.Reason) {
		r := p.Appraise(policy.In{Set: set, Lookup: refvalue.NewIndex(nil), Now: now, Challenged: now, Received: now})
		return r.Tier == rats.Affirming || r.Tier == rats.Warning, r.Reasons
	}, nil
}

// acceptBySections judges by the format's own rules, with the fields of its section changed.
func acceptBySections(doc map[string]yaml.Node) (appraise.Accepter, error) {
	var allow []string
	if n, ok := doc["allow"]; ok {
		if err := n.Decode(&allow); err != nil {
			return nil, CodeFile.Bad("policy: allow", "a list of marks", err.Error())
		}
		delete(doc, "allow")
	}
	rules := make(map[rats.Format]rats.Rules)
	for _, o := range all.Offline() {
		d, ok := o.(appraise.Defaulter)
		if !ok {
			continue
		}
		id := o.Descriptor().ID
		n, named := doc[string(id)]
		if !named {
			continue
		}
		delete(doc, string(id))
		r := d.DefaultRules()
		if err := strictly(n, r); err != nil {
			return nil, CodeFile.Bad("policy: "+string(id), "fields of the section", err.Error())
		}
		if reasons := r.Lint(); len(reasons) > 0 && rats.Worst(reasons) != rats.Warning {
			return nil, CodeFile.Bad("policy: "+string(id), "a section without mistakes", reasonLines(reasons))
		}
		rules[id] = r
	}
	for name := range doc {
		return nil, CodeFile.Bad("policy", "sections of formats, or a whole policy", clean(name))
	}
	return func(o appraise.Offline, set rats.Set, now time.Time) (bool, []rats.Reason) {
		r, ok := rules[o.Descriptor().ID]
		if !ok {
			d, isDefault := o.(appraise.Defaulter)
			if !isDefault {
				return appraise.ByDefault(o, set, now)
			}
			r = d.DefaultRules()
		}
		return appraise.ByRules(r, allow)(o, set, now)
	}, nil
}

// strictly decodes a section and refuses fields that the rules don't have.
func strictly(n yaml.Node, rules rats.Rules) error {
	b, err := yaml.Marshal(&n)
	if err != nil {
		return err
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(rules); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func reasonLines(reasons []rats.Reason) string {
	var lines []string
	for _, r := range reasons {
		lines = append(lines, r.String())
	}
	return strings.Join(lines, "; ")
}

// readFiles reads files, and the files of folders, in the order of their names.
func (a *app) readFiles(paths []string) ([]appraise.File, error) {
	var out []appraise.File
	total := 0
	add := func(path string) error {
		b, err := a.readDocument(path)
		if err != nil {
			return err
		}
		total += len(b)
		if len(out) >= maxKitFiles || total > maxKitBytes {
			return CodeFile.Bad(path, fmt.Sprintf("at most %d files of %d MiB together", maxKitFiles, maxKitBytes>>20), "more")
		}
		out = append(out, appraise.File{Name: filepath.Base(path), Body: b})
		return nil
	}
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, CodeFile.Bad(p, "a file or folder", cause(err))
		}
		if !info.IsDir() {
			if err := add(p); err != nil {
				return nil, err
			}
			continue
		}
		err = filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return CodeFile.Bad(path, "a readable folder", cause(err))
			case d.IsDir() && strings.Count(strings.TrimPrefix(path, p), string(filepath.Separator)) > maxKitDepth:
				return fs.SkipDir
			case !d.Type().IsRegular():
				return nil
			}
			return add(path)
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// decodeToken returns header and payload of a JSON web token, which an attestation result is.
func decodeToken(b []byte) (any, bool) {
	parts := strings.Split(strings.TrimSpace(string(b[:min(len(b), maxToken)])), ".")
	if len(b) > maxToken || len(parts) != 3 {
		return nil, false
	}
	var out [2]map[string]any
	for i := range out {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Unmarshal(raw, &out[i]) != nil {
			return nil, false
		}
	}
	return map[string]any{"header": out[0], "payload": out[1]}, true
}

// maxToken bounds an attestation result.
const maxToken = 1 << 20
