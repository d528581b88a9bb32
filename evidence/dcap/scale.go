package dcap

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
)

// maxScale bounds the fields of collateral in SCALE.
const maxScale = 16

// scaleParts splits collateral in SCALE, the encoding of Substrate, as tools around dcap-qvl store it: byte strings one
// after another, each behind its length, the last perhaps an option. It returns nil for other bytes.
func scaleParts(b []byte) (parts [][]byte) {
	for len(b) > 0 {
		if len(parts) > 0 && len(b) == 1 && b[0] == 0 { // an option that is none
			break
		}
		n, used := scaleLength(b)
		if used == 0 && len(parts) > 0 && b[0] == 1 { // an option, whose value follows
			b = b[1:]
			n, used = scaleLength(b)
		}
		if used == 0 || len(parts) == maxScale {
			return nil
		}
		parts, b = append(parts, b[used:used+n]), b[used+n:]
	}
	if len(parts) < 2 {
		return nil
	}
	return parts
}

// scaleLength reads a compact length of what must follow, in its shortest form; used is 0 if it is none.
func scaleLength(b []byte) (n, used int) {
	switch {
	case len(b) == 0:
	case b[0]&3 == 0:
		n, used = int(b[0]>>2), 1
	case b[0]&3 == 1 && len(b) >= 2:
		n, used = int(binary.LittleEndian.Uint16(b)>>2), 2
	case b[0]&3 == 2 && len(b) >= 4:
		n, used = int(binary.LittleEndian.Uint32(b)>>2), 4
	}
	if short := []int{0, 0, 1 << 6, 0, 1 << 14}[used]; used == 0 || n < short || n > len(b)-used {
		return 0, 0
	}
	return n, used
}

// readScale reads parts of SCALE: a signed document's bare bytes stand before its signature, which has 64 bytes. All
// else is recognised by its content.
func (c *Collateral) readScale(parts [][]byte, depth int) error {
	for i := 0; i < len(parts); i++ {
		p := parts[i]
		if len(p) > 0 && p[0] == '{' && i+1 < len(parts) && len(parts[i+1]) == quoteSignatureLen {
			if err := c.readBare(p, parts[i+1]); err != nil {
				return err
			}
			i++
			continue
		}
		if err := c.readAll([][]byte{p}, depth); err != nil {
			return err
		}
	}
	return nil
}

// readBare reads a document without its name, which its fields tell.
func (c *Collateral) readBare(raw, signature []byte) error {
	fields, err := splitObject(raw)
	if err != nil {
		return CodeCollateralMalformed.Bad("document", "a JSON object", err.Error())
	}
	sig, err := json.Marshal(hex.EncodeToString(signature))
	if err != nil {
		return err
	}
	for _, d := range []struct{ field, kind, name string }{
		{"fmspc", "tcb", "tcbInfo"}, {"mrsigner", "identity", "enclaveIdentity"}, {"tcbEvalNumbers", "numbers", "tcbEvaluationDataNumbers"},
	} {
		if _, ok := fields[d.field]; ok {
			return c.readDocument(d.kind, d.name, json.RawMessage(bytes.Clone(raw)), sig)
		}
	}
	return CodeCollateralMalformed.Bad("document", "TCB info, an identity or evaluation numbers", "another object")
}
