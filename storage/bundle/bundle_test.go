package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

const (
	hashA = "N-V-__8AAAoAAADGp8bdIAdYHy8tIxQg98g-HkXCLpVMejYf"
	hashB = "N-V-__8AAAMAAABcr-E1sk8PMfTOvpi9Hds_wwtndnHnR26_"
)

// The longest that there may be.
var hashLong = strings.Repeat("A", 32) + "-" + "1.0.0-" + strings.Repeat("v", 26) + "-" + strings.Repeat("A", 44)

var legacyA = "1220" + strings.Repeat("c6", 32)

func sample() (Manifest, map[string]string) {
	bodies := map[string]string{hashLong: "body", hashA: "body of a", hashB: strings.Repeat("body of b", 1000)}
	m := Manifest{Holes: []Hole{{Hash: "1220" + strings.Repeat("00", 32), Code: "gone", Reason: "404"}}}
	for hash, body := range bodies {
		sum := sha256.Sum256([]byte(body))
		p := Package{Hash: hash, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(body)), URLs: []string{"https://b", "https://a"}}
		if hash == hashA {
			p.Aliases = []string{legacyA}
		}
		m.Packages = append(m.Packages, p)
	}
	return m, bodies
}

func write(t *testing.T, m Manifest, bodies map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	err := Write(&buf, m, func(p Package) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(bodies[p.Hash])), nil })
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func read(b []byte) (m Manifest, bodies map[string]string, err error) {
	bodies = map[string]string{}
	err = Read(bytes.NewReader(b), func(listed Manifest) error { m = listed; return nil }, func(p Package, body io.Reader) error {
		b, err := io.ReadAll(body)
		bodies[p.Hash] = string(b)
		return err
	})
	return m, bodies, err
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	m, bodies := sample()
	b := write(t, m, bodies)
	if n, err := Size(m); err != nil || n != int64(len(b)) {
		t.Errorf("Size = %d, %v, want %d", n, err, len(b))
	}
	slices.Reverse(m.Packages)
	if !bytes.Equal(write(t, m, bodies), b) {
		t.Error("the order of packages changes the bytes")
	}
	got, gotBodies, err := read(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Packages) != 3 || len(got.Holes) != 1 || got.Holes[0].Code != "gone" {
		t.Errorf("got %+v", got)
	}
	for hash, body := range bodies {
		if gotBodies[hash] != body {
			t.Errorf("body of %s: got %q", hash, gotBodies[hash])
		}
	}
}

// A bundle that is cut or changed anywhere is never read as whole.
func TestDamage(t *testing.T) {
	t.Parallel()
	m, bodies := sample()
	b := write(t, m, bodies)
	for n := 0; n < len(b)-1024; n += 97 { // the end of a tar stream is optional
		if _, _, err := read(b[:n]); err == nil {
			t.Errorf("cut at %d of %d: read as whole", n, len(b))
		}
	}
	at := bytes.Index(b, []byte("body of a"))
	changed := slices.Clone(b)
	changed[at] ^= 1
	if _, _, err := read(changed); !errors.Is(err, ErrInvalid) {
		t.Errorf("changed byte: err = %v, want ErrInvalid", err)
	}
	endless := bytes.NewReader(append(slices.Clone(b), make([]byte, 1<<20)...))
	if err := Read(endless, func(Manifest) error { return nil }, func(Package, io.Reader) error { return nil }); !errors.Is(err, ErrInvalid) || endless.Len() < 1<<20-1 {
		t.Errorf("bytes behind the end: err = %v, want ErrInvalid; %d of them were left", err, endless.Len())
	}
	evil := bytes.ReplaceAll(b, []byte(hashB), []byte("../"+hashB[3:]))
	if _, _, err := read(evil); !errors.Is(err, ErrInvalid) {
		t.Errorf("hash that is a path: err = %v, want ErrInvalid", err)
	}
	for name, change := range map[string]func(*Manifest){
		"a proof":          func(m *Manifest) { m.Packages[0].Proof = strings.Repeat("a", maxProof+1) },
		"a later proof":    func(m *Manifest) { m.Packages[0].Later = []string{"", strings.Repeat("a", maxProof+1)} },
		"their checkpoint": func(m *Manifest) { m.Checkpoint = strings.Repeat("a", maxProof+1) },
	} {
		m, bodies := sample()
		change(&m)
		if _, _, err := read(write(t, m, bodies)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s too large: err = %v, want ErrInvalid", name, err)
		}
	}
}
