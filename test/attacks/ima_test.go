package attacks

import (
	"context"
	"crypto/sha1" //nolint:gosec // the list's first column is SHA-1 by its format
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/assay-attest/assay/api"
	evima "github.com/assay-attest/assay/evidence/ima"
	"github.com/assay-attest/assay/internal/attester/ima"
	"github.com/assay-attest/assay/internal/testkit/wire"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// kernel is a kernel that measures: every entry goes into the list and into PCR 10.
type kernel struct {
	m    *wire.Machine
	mu   sync.Mutex
	list []byte
}

func (k *kernel) Open(name string) (fs.File, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return fstest.MapFS{ima.Path: {Data: append([]byte(nil), k.list...)}}.Open(name)
}

// measure adds the entry of a program that was run.
func (k *kernel) measure(path string, content []byte) {
	sum := sha256.Sum256(content)
	k.entry(path, sum[:])
}

// entry adds an entry of template ima-ng.
func (k *kernel) entry(path string, sum []byte) {
	field := func(b []byte) []byte { return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...) }
	data := append(field(append([]byte("sha256:\x00"), sum...)), field(append([]byte(path), 0))...)
	first := sha1.Sum(data) //nolint:gosec // as above
	entry := binary.LittleEndian.AppendUint32(nil, 10)
	entry = append(entry, first[:]...)
	entry = append(entry, field([]byte("ima-ng"))...)
	entry = append(entry, field(data)...)
	digest := sha256.Sum256(data)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = append(k.list, entry...)
	k.m.TPM.ExtendDigest("sha256", 10, digest[:])
}

func (r *rig) imaPolicy() string {
	return strings.Replace(strings.Replace(r.defaultPolicy(), "quote: [0, 7]", "quote: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]", 1), "  plan:\n", `  ima:
    allow: [programs]
    data: [/var/log]
    coverage: {missing: warning}
  plan:
`, 1)
}

// S32, R141: the list is sent once and then continued; a program nobody knows is named when it ran.
func TestIMAListIsContinuedAndAnUnknownProgramIsNamed(t *testing.T) {
	r := newRig(t)
	m := r.machine("kernel")
	k := &kernel{m: m}
	m.Attesters = []rats.Attester{ima.New(k)}
	var entries []refvalue.Entry
	aggregate := sha256.New()
	for i := range 10 {
		aggregate.Write(m.TPM.PCR("sha256", i))
	}
	k.entry("boot_aggregate", aggregate.Sum(nil))
	for i := range 20 {
		content := fmt.Appendf(nil, "program %d", i)
		path := fmt.Sprintf("/usr/bin/p%02d", i)
		k.measure(path, content)
		entries = append(entries, refvalue.Entry{Name: path, Digests: []rats.Digest{rats.SHA256(content)}, Size: int64(len(content))})
	}
	set, err := refvalue.New(refvalue.Header{Name: "programs", Source: "test", Created: r.now()}, entries)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.admin.PutRefSet(t.Context(), "programs", set.Encode()); err != nil {
		t.Fatal(err)
	}
	r.apply(r.imaPolicy())

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	attest := make(chan struct{}, 1)
	go func() {
		for range attest {
			_, _ = r.admin.Attest(ctx, m.Joined.Node, 20*time.Second)
		}
	}()
	defer close(attest)
	step := 0
	for e, err := range m.Stream(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Challenge == nil {
			continue
		}
		offset := imaOffset(t, *e.Challenge)
		told, err := m.Attest(ctx, *e.Challenge)
		if err != nil {
			t.Fatalf("attestation %d: %v", step, err)
		}
		view, err := r.admin.Result(ctx, told.ID)
		if err != nil {
			t.Fatal(err)
		}
		switch step {
		case 0: // the whole list
			if offset != 0 || told.State != rats.StateTrusted && told.State != rats.StateWarning {
				t.Fatalf("offset %d, %s: %v", offset, told.Verdict, view.Reasons)
			}
			k.measure("/usr/bin/p03", []byte("program 3"))
		case 1: // what came since, all known
			if offset != 21 || told.State != rats.StateTrusted && told.State != rats.StateWarning {
				t.Fatalf("offset %d, %s: %v", offset, told.Verdict, view.Reasons)
			}
			k.measure("/tmp/dropper", []byte("not known to anybody"))
		case 2:
			if offset != 22 || told.State != rats.StateContraindicated || !names(view.Reasons, "/tmp/dropper") {
				t.Fatalf("offset %d, %s: %v", offset, told.Verdict, view.Reasons)
			}
			return
		}
		step++
		attest <- struct{}{}
	}
}

func imaOffset(t *testing.T, c api.Challenge) int64 {
	t.Helper()
	for _, a := range c.Asks {
		if a.Format == evima.Format {
			var p evima.Params
			if err := json.Unmarshal(a.Params, &p); err != nil {
				t.Fatal(err)
			}
			return p.Offset
		}
	}
	t.Fatal("the list is not asked for")
	return 0
}

func names(reasons []rats.Reason, path string) bool {
	for _, r := range reasons {
		if strings.Contains(r.Path, path) {
			return true
		}
	}
	return false
}
