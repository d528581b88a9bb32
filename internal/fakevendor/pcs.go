package fakevendor

import (
	"encoding/binary"
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
		mux.HandleFunc(base+"qe/identity", func(w http.ResponseWriter, r *http.Request) {
			send(w, "application/json", "SGX-Enclave-Identity-Issuer-Chain", i.TCBChain(), i.Identity(qe, func(d *Identity) { d.EvaluationNumber = number(r) }))
		})
		mux.HandleFunc(base+"tcbevaluationdatanumbers", func(w http.ResponseWriter, _ *http.Request) {
			send(w, "application/json", "TCB-Evaluation-Data-Numbers-Issuer-Chain", i.TCBChain(), i.EvaluationNumbers(strings.ToUpper(tee)))
		})
	}
	mux.HandleFunc("GET /sgx/certification/v4/qve/identity", func(w http.ResponseWriter, r *http.Request) {
		send(w, "application/json", "SGX-Enclave-Identity-Issuer-Chain", i.TCBChain(), i.Identity("QVE", func(d *Identity) { d.EvaluationNumber = number(r) }))
	})
	mux.HandleFunc("GET /sgx/certification/v4/pckcert", i.servePCK)
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
	send(w, "application/json", "TCB-Info-Issuer-Chain", i.TCBChain(), i.TCBInfo(p, id, func(t *TCBInfo) { t.EvaluationNumber = number(r) }))
}

// number is the evaluation data number of the channel that is asked for.
func number(r *http.Request) int {
	if r.URL.Query().Get("update") == "early" {
		return EvaluationNumber + 1
	}
	return EvaluationNumber
}

// servePCK answers with the certificate of a platform's key. Intel's service knows platforms by their encrypted PPID, a
// caching one by the id of the quoting enclave; for a TCB without certificate the answer is that of another TCB, as
// Intel's is.
func (i *Intel) servePCK(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	for _, name := range []string{"cpusvn", "pcesvn", "pceid"} {
		if _, err := hex.DecodeString(q.Get(name)); err != nil || q.Get(name) == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, p := range i.known {
		if q.Get("encrypted_ppid") == hex.EncodeToString(p.EncryptedPPID()) || q.Get("qeid") == hex.EncodeToString(p.PPID[:]) {
			w.Header().Set("SGX-TCBm", hex.EncodeToString(binary.LittleEndian.AppendUint16(p.CPUSVN[:], p.PCESVN)))
			w.Header().Set("SGX-FMSPC", hex.EncodeToString(p.FMSPC[:]))
			w.Header().Set("SGX-PCK-Certificate-CA-Type", p.CA)
			send(w, "application/x-pem-file", "SGX-PCK-Certificate-Issuer-Chain", i.PCKChain(p.CA), PEM(p.PCK.Cert))
			return
		}
	}
	w.WriteHeader(http.StatusNotFound)
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
