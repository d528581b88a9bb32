package fakevendor

import (
	"encoding/hex"
	"net/http"
	"strconv"
)

// KDS returns AMD's key distribution service: chains and revocation lists of every product, certificates of the chips
// that were made.
func (a *AMD) KDS() http.Handler {
	mux := http.NewServeMux()
	for kind, leased := range map[string]bool{"vcek": false, "vlek": true} {
		mux.HandleFunc("GET /"+kind+"/v1/{product}/cert_chain", func(w http.ResponseWriter, r *http.Request) {
			if line := a.lineOf(w, r); line != nil {
				send(w, "application/x-pem-file", "", nil, line.chain(leased))
			}
		})
		mux.HandleFunc("GET /"+kind+"/v1/{product}/crl", func(w http.ResponseWriter, r *http.Request) {
			if line := a.lineOf(w, r); line != nil {
				send(w, "application/pkix-crl", "", nil, line.ARK.CRL(a.now()))
			}
		})
	}
	mux.HandleFunc("GET /vcek/v1/{product}/{hwid}", a.serveVCEK)
	return mux
}

func (a *AMD) lineOf(w http.ResponseWriter, r *http.Request) *Line {
	product := r.PathValue("product")
	if _, ok := cpuid[product]; !ok {
		w.WriteHeader(http.StatusNotFound)
		return nil
	}
	return a.Line(product)
}

func (a *AMD) serveVCEK(w http.ResponseWriter, r *http.Request) {
	id, err := hex.DecodeString(r.PathValue("hwid"))
	a.mu.Lock()
	chip := a.chips[r.PathValue("product")+string(id)]
	a.mu.Unlock()
	if err != nil || chip == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	var t TCB
	fields := map[string]*uint8{"blSPL": &t.Bootloader, "teeSPL": &t.TEE, "snpSPL": &t.SNP, "ucodeSPL": &t.Microcode}
	if chip.Product == Turin {
		fields["fmcSPL"] = &t.FMC
	}
	for name, to := range fields {
		n, err := strconv.ParseUint(r.URL.Query().Get(name), 10, 8)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		*to = uint8(n)
	}
	send(w, "application/pkix-cert", "", nil, chip.VCEK(t).Cert.Raw)
}
