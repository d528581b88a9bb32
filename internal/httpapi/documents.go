package httpapi

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// CodeDocumentName refuses a document stored under another name than its own.
var CodeDocumentName = rats.CodeInfo{
	Code: "api.document.name", Title: "the document calls itself by another name", Slot: rats.Configuration,
	Hint: "put it under its own name, or change metadata.name (policies) or name (reference sets)",
}

func (a *API) policyLint(r *request) (any, error) {
	doc, err := r.body()
	if err != nil {
		return nil, err
	}
	p, reasons := policy.Compile(doc, a.cfg.Appraiser.Descriptors())
	if reasons == nil {
		reasons = []rats.Reason{}
	}
	return api.Lint{OK: p != nil, Reasons: reasons}, nil
}

// policyPut puts a policy in force. Its transaction bumps the epoch, so nothing judged by older values commits after it
// returned (R038, S40); connected nodes are attested anew at once.
func (a *API) policyPut(r *request) (any, error) {
	doc, err := r.body()
	if err != nil {
		return nil, err
	}
	p, reasons := policy.Compile(doc, a.cfg.Appraiser.Descriptors())
	if p == nil {
		return nil, fail(reasons)
	}
	stored, err := a.putDocument(r, store.DocPolicy, p.Name(), doc)
	if err != nil {
		return nil, err
	}
	v := policyView(p, stored)
	v.Warnings = reasons
	return v, nil
}

func (a *API) putDocument(r *request, kind, own string, doc []byte) (store.Document, error) {
	name := r.PathValue("name")
	if own != name {
		return store.Document{}, CodeDocumentName.Bad("name", own, clip(name))
	}
	var stored store.Document
	err := r.space.Update(r.Context(), func(tx store.Tx) (err error) {
		now := a.cfg.Now()
		stored, err = tx.Documents().Put(store.Document{
			Kind: kind, Name: name, Body: doc, Digest: rats.SHA256(doc), Author: r.principal.Actor(), At: now,
		})
		if err != nil {
			return err
		}
		return a.note(tx, r, kind+".put", kind+"/"+name, map[string]any{"version": stored.Version, "digest": stored.Digest})
	})
	if err != nil {
		return stored, err
	}
	a.cfg.Appraiser.KickAll(r.namespace, kind)
	return stored, nil
}

func (a *API) deleteDocument(r *request, kind string) error {
	name := r.PathValue("name")
	err := r.space.Update(r.Context(), func(tx store.Tx) error {
		if err := tx.Documents().Delete(kind, name, r.principal.Actor(), a.cfg.Now()); err != nil {
			return err
		}
		return a.note(tx, r, kind+".delete", kind+"/"+name, nil)
	})
	if err != nil {
		return err
	}
	a.cfg.Appraiser.KickAll(r.namespace, kind)
	return nil
}

func policyView(p *policy.Policy, d store.Document) api.Policy {
	return api.Policy{
		Ref: d.Ref(), Selector: p.Selector(), Priority: p.Priority(), Formats: p.Formats(), Every: p.Every().String(),
		ValidFor: p.ValidFor().String(), Allow: p.Allow(), Author: d.Author, At: d.At.UTC(),
	}
}

func (a *API) policyList(r *request) (any, error) {
	out := api.PolicyList{Policies: []api.Policy{}}
	err := r.view(func(tx store.Tx) error {
		docs, err := tx.Documents().List(store.DocPolicy)
		if err != nil {
			return err
		}
		for _, d := range docs {
			v, err := a.readPolicy(tx, d.Name)
			if err != nil {
				return err
			}
			out.Policies = append(out.Policies, v)
		}
		return nil
	})
	return out, err
}

func (a *API) readPolicy(tx store.Tx, name string) (api.Policy, error) {
	d, err := tx.Documents().Get(store.DocPolicy, name, 0)
	if err != nil {
		return api.Policy{}, err
	}
	p, reasons := policy.Compile(d.Body, a.cfg.Appraiser.Descriptors())
	if p == nil {
		return api.Policy{Ref: d.Ref(), Author: d.Author, At: d.At.UTC(), Warnings: reasons}, nil
	}
	v := policyView(p, d)
	v.Warnings = reasons
	return v, nil
}

func (a *API) policyGet(r *request) (any, error) {
	var out api.Policy
	err := r.view(func(tx store.Tx) (err error) {
		out, err = a.readPolicy(tx, r.PathValue("name"))
		return err
	})
	return out, err
}

func (a *API) policyDocument(r *request) (any, error) {
	return a.document(r, store.DocPolicy, api.TypePolicy)
}

func (a *API) policyDelete(r *request) (any, error) { return nil, a.deleteDocument(r, store.DocPolicy) }

func (a *API) document(r *request, kind, media string) (any, error) {
	version, err := r.number("version", 0, math.MaxInt64, 0)
	if err != nil {
		return nil, err
	}
	var d store.Document
	err = r.view(func(tx store.Tx) (err error) {
		d, err = tx.Documents().Get(kind, r.PathValue("name"), version)
		return err
	})
	return raw{media: media, body: d.Body, tag: fmt.Sprintf("%d", d.Version)}, err
}

func (a *API) setPut(r *request) (any, error) {
	doc, err := r.body()
	if err != nil {
		return nil, err
	}
	s, err := refvalue.Parse(doc)
	if err != nil {
		return nil, err
	}
	stored, err := a.putDocument(r, store.DocSet, s.Header().Name, doc)
	if err != nil {
		return nil, err
	}
	return setView(s, stored), nil
}

func setView(s *refvalue.Set, d store.Document) api.RefSet {
	return api.RefSet{Ref: d.Ref(), Entries: s.Len(), Source: s.Header().Source, Expires: s.Header().Expires, Author: d.Author, At: d.At.UTC()}
}

func (a *API) setList(r *request) (any, error) {
	out := api.RefSetList{RefSets: []api.RefSet{}}
	err := r.view(func(tx store.Tx) error {
		docs, err := tx.Documents().List(store.DocSet)
		if err != nil {
			return err
		}
		for _, d := range docs {
			v, err := readSet(tx, d.Name)
			if err != nil {
				return err
			}
			out.RefSets = append(out.RefSets, v)
		}
		return nil
	})
	return out, err
}

func readSet(tx store.Tx, name string) (api.RefSet, error) {
	d, err := tx.Documents().Get(store.DocSet, name, 0)
	if err != nil {
		return api.RefSet{}, err
	}
	s, err := refvalue.Parse(d.Body)
	if err != nil {
		return api.RefSet{Ref: d.Ref(), Author: d.Author, At: d.At.UTC()}, nil //nolint:nilerr // listed with no entries
	}
	return setView(s, d), nil
}

func (a *API) setGet(r *request) (any, error) {
	var out api.RefSet
	err := r.view(func(tx store.Tx) (err error) {
		out, err = readSet(tx, r.PathValue("name"))
		return err
	})
	return out, err
}

func (a *API) setDocument(r *request) (any, error) {
	return a.document(r, store.DocSet, "application/json")
}

func (a *API) setDelete(r *request) (any, error) { return nil, a.deleteDocument(r, store.DocSet) }

// note writes the event and the audit leaf of an owner's change, in the transaction that makes it.
func (a *API) note(tx store.Tx, r *request, verb, object string, detail any) error {
	b, err := encode(detail)
	if err != nil {
		return err
	}
	now := a.cfg.Now()
	if _, err := tx.Events().Append(store.Event{At: now, Kind: verb, Subject: object, Data: b}); err != nil {
		return err
	}
	_, err = tx.Audit().Append(store.AuditEntry{At: now, Actor: r.principal.Actor(), Verb: verb, Object: object, Detail: b})
	return err
}

func encode(detail any) ([]byte, error) {
	if detail == nil {
		return nil, nil
	}
	b, err := json.Marshal(detail)
	if err != nil {
		return nil, fmt.Errorf("encoding an audit entry: %w", err)
	}
	return b, nil
}
