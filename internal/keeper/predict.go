package keeper

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"github.com/assay-attest/assay/rats"
)

// MeasuredEvents are the texts that a keeper of this image and configuration extends into PCR 11 before it unseals.
func MeasuredEvents(c Config, image rats.Digest) []string {
	if c.Launch != LaunchInitrd {
		return nil
	}
	events := []string{"assay:keeper:" + image.String()}
	for _, cl := range c.Clients {
		events = append(events, fmt.Sprintf("assay:client:%s:%d:%s", rats.EscapePath([]byte(cl.Name)), cl.SVN, cl.Image))
	}
	return events
}

// Extend is what a SHA-256 PCR becomes by an event's text.
func Extend(value rats.Digest, text string) rats.Digest {
	sum := sha256.Sum256([]byte(text))
	next := sha256.Sum256(append(bytes.Clone(value.Sum), sum[:]...))
	return rats.Digest{Alg: "sha256", Sum: next[:]}
}

// Predict takes PCR values as they will be before the keeper starts and returns them as they will be when it unseals.
func Predict(pcrs map[int]rats.Digest, c Config, image rats.Digest) (map[int]rats.Digest, error) {
	out := make(map[int]rats.Digest, len(pcrs))
	for p, v := range pcrs {
		out[p] = v
	}
	events := MeasuredEvents(c, image)
	if len(events) == 0 {
		return out, nil
	}
	v, ok := out[measuredPCR]
	if !ok {
		return nil, CodeSet.Missing(fmt.Sprintf("pcrs.%d", measuredPCR), "its value before the keeper starts", "none")
	}
	for _, e := range events {
		v = Extend(v, e)
	}
	out[measuredPCR] = v
	return out, nil
}

// ParsePCRs reads predicted values: {"7": "sha256:…", …}.
func ParsePCRs(b []byte) (map[int]rats.Digest, error) {
	pcrs := make(map[int]rats.Digest)
	if len(b) > maxSet {
		return nil, CodeSet.Bad("pcrs", fmt.Sprintf("at most %d bytes", maxSet), fmt.Sprint(len(b)))
	}
	if err := json.Unmarshal(b, &pcrs); err != nil {
		return nil, CodeSet.Bad("pcrs", `{"7": "sha256:…"}`, err.Error())
	}
	for p, v := range pcrs {
		if v.Alg != "sha256" || v.Check() != nil || p < 0 || p > 15 {
			return nil, CodeSet.Bad(fmt.Sprintf("pcrs.%d", p), "a SHA-256 value of PCR 0 to 15", clip(v.String()))
		}
	}
	return pcrs, nil
}

// MeasureFile returns the SHA-256 of a file, as the keeper measures itself and its clients.
func MeasureFile(path string) (rats.Digest, error) { return measureFile(path) }
