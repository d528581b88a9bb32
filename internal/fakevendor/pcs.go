package fakevendor

import (
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"net/url"
	"strings"
)

// PCS returns Intel's provisioning certification service, version 4, as far as verifiers need it, together with the
// distribution point of the root's revocation list and the paths that only a caching service (PCCS) has. Documents are
// issued at the time of the request.
func (i *Intel) PCS() http.Handler {
	mux := http.NewServeMux()
	for tee, qe := range map[string]string{"sgx": "QE", "tdx": "TD_QE"} {
		base := "GET /" + tee + "/certification/v4/"
		mux.HandleFunc(base+"tcb", func(w http.ResponseWriter, r *http.Request) { i.serveTCB(w, r, strings.ToUpper(tee)) })
		mux.HandleFunc(base+"qe/identity", func(w http.ResponseWriter, _ *http.Request) {
			send(w, "application/json", "SGX-Enclave-Identity-Issuer-Chain", i.TCBChain(), i.Identity(qe))
		})
		mux.HandleFunc(base+"tcbevaluationdatanumbers", func(w http.ResponseWriter, _ *http.Request) {
			send(w, "application/json", "TCB-Evaluation-Data-Numbers-Issuer-Chain", i.TCBChain(), i.EvaluationNumbers(strings.ToUpper(tee)))
		})
	}
	mux.HandleFunc("GET /sgx/certification/v4/pckcrl", i.servePCKCRL)
	mux.HandleFunc("GET /sgx/certification/v4/rootcacrl", func(w http.ResponseWriter, _ *http.Request) {
		send(w, "application/x-pem-file", "", nil, []byte(hex.EncodeToString(i.Root.CRL(i.now()))))
	})
	mux.HandleFunc("GET /IntelSGXRootCA.der", func(w http.ResponseWriter, _ *http.Request) {
		send(w, "application/pkix-crl", "", nil, i.Root.CRL(i.now()))
	})
	return mux
}

// send answers with a document and its issuer chain, URL-encoded PEM in a header.
func send(w http.ResponseWriter, kind, header string, chain, body []byte) {
	w.Header().Set("Content-Type", kind)
	if header != "" {
		w.Header().Set(header, strings.ReplaceAll(url.QueryEscape(string(chain)), "+", "%20"))
	}
	_, _ = w.Write(body) // a client that went away
}

func (i *Intel) serveTCB(w http.ResponseWriter, r *http.Request, id string) {
	b, err := hex.DecodeString(r.URL.Query().Get("fmspc"))
	if err != nil || len(b) != 6 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	i.mu.Lock()
	p := i.known[[6]byte(b)]
	i.mu.Unlock()
	if p == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	send(w, "application/json", "TCB-Info-Issuer-Chain", i.TCBChain(), i.TCBInfo(p, id))
}

func (i *Intel) servePCKCRL(w http.ResponseWriter, r *http.Request) {
	ca := r.URL.Query().Get("ca")
	if ca != PlatformCA && ca != ProcessorCA {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	body, kind := i.CA(ca).CRL(i.now()), "application/pkix-crl"
	if r.URL.Query().Get("encoding") != "der" {
		body, kind = pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: body}), "application/x-pem-file"
	}
	send(w, kind, "SGX-PCK-CRL-Issuer-Chain", i.PCKChain(ca), body)
}
