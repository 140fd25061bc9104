// Package bundle is the format in which a whole tree of dependencies travels: over one HTTP answer, or as
// a file to a place without a network.
//
// A bundle is a tar stream (ustar, and pax for the longest names; all times 0, mode 0644) of
//
//	packbase-bundle.json   a [Manifest], two spaces indented; also the proofs that packages are in a log
//	p/<hash>.tar.gz        each package, in the order of the manifest
//
// A package that several manifests know by different hashes, of the old and the new form, is one entry and hard
// links to it. The same packages give the same bytes, under the same checkpoint of the log. Unpacked into the global cache of Zig 0.16 and later,
// a bundle is what they look for; `packbase warm --from` does so for all of them, and checks every hash.
package bundle

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"time"

	"github.com/francescobianco/packbase/storage/strangejson"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// Limits of a bundle that is read.
const (
	MaxManifest = 64 << 20 // bytes of packbase-bundle.json
	maxProof    = 64 << 10 // bytes of a proof without its checkpoint: an entry has 2 KiB, and there are 63 hashes at most
	MaxPackage  = 4 << 30  // bytes of one tarball
)

// ManifestName is the first entry of a bundle.
const ManifestName = "packbase-bundle.json"

// ErrInvalid says that something is no bundle, or not whole.
var ErrInvalid = errors.New("not a bundle, or damaged")

// A Manifest lists what is in a bundle, and what is not.
type Manifest struct {
	Format   int       `json:"format"` // 1
	Packages []Package `json:"packages"`
	Holes    []Hole    `json:"holes"` // of the tree, and not in the bundle

	// Checkpoint is the log's that all proofs are under; "" if there are none.
	Checkpoint string `json:"checkpoint,omitempty"`
}

// A Package is one node of the tree.
type Package struct {
	Hash    string   `json:"hash"`              // as manifests pin it
	Aliases []string `json:"aliases,omitempty"` // other hashes of the same files that manifests pin
	Name    string   `json:"name,omitempty"`    // as its manifest says
	Version string   `json:"version,omitempty"`
	URLs    []string `json:"urls,omitempty"` // where manifests say that it is
	SHA256  string   `json:"sha256"`         // of the tarball: 64 lowercase hex digits
	Size    int64    `json:"size"`           // of the tarball, in bytes

	// Proof, with the checkpoint behind it, proves that the package is in the log (c2sp.org/tlog-proof, with the entry as extra
	// data); "" if it is not. Later has such proofs of what was logged of it since: that it was moved, is gone or was withdrawn.
	Proof string   `json:"proof,omitempty"`
	Later []string `json:"later,omitempty"`
}

// A Hole is a node that could not be had.
type Hole struct {
	Hash   string   `json:"hash"`
	URLs   []string `json:"urls,omitempty"`
	Code   string   `json:"code"`
	Reason string   `json:"reason"`
	Lazy   bool     `json:"lazy,omitempty"` // no build needs it that does not ask for it
}

// sort brings a manifest into the order that makes the bytes of a bundle.
func (m *Manifest) sort() {
	m.Format = 1
	slices.SortFunc(m.Packages, func(a, b Package) int { return cmp.Compare(a.Hash, b.Hash) })
	slices.SortFunc(m.Holes, func(a, b Hole) int { return cmp.Compare(a.Hash, b.Hash) })
	for i := range m.Packages {
		slices.Sort(m.Packages[i].Aliases)
		slices.Sort(m.Packages[i].URLs)
	}
}

// Write writes a bundle, sorting m. open returns a package's tarball.
func Write(w io.Writer, m Manifest, open func(Package) (io.ReadCloser, error)) error {
	if m.sort(); m.Packages == nil {
		m.Packages = []Package{}
	}
	if m.Holes == nil {
		m.Holes = []Hole{}
	}
	list, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	t := tar.NewWriter(w)
	if err := put(t, ManifestName, int64(len(list)+1), bytes.NewReader(append(list, '\n'))); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	for _, p := range m.Packages {
		if err := writePackage(t, p, open); err != nil {
			return fmt.Errorf("write bundle: %s: %w", p.Hash, err)
		}
	}
	if err := t.Close(); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}

// Size returns the length of the bundle that Write makes of m, in bytes.
func Size(m Manifest) (int64, error) {
	var n counter
	err := Write(&n, m, func(p Package) (io.ReadCloser, error) { return io.NopCloser(zeros{}), nil })
	return int64(n), err
}

type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func writePackage(t *tar.Writer, p Package, open func(Package) (io.ReadCloser, error)) error {
	body, err := open(p)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := put(t, entryName(p.Hash), p.Size, body); err != nil {
		return err
	}
	for _, alias := range p.Aliases {
		h := header(entryName(alias))
		h.Typeflag, h.Linkname = tar.TypeLink, entryName(p.Hash)
		if err := t.WriteHeader(h); err != nil {
			return err
		}
	}
	return nil
}

func entryName(hash string) string { return "p/" + hash + ".tar.gz" }

func header(name string) *tar.Header {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if len(path.Base(name)) > 100 {
		h.Format = tar.FormatPAX // ustar has no place for it
	}
	return h
}

func put(t *tar.Writer, name string, size int64, body io.Reader) error {
	h := header(name)
	h.Size = size
	if size >= 8<<30 {
		h.Format = tar.FormatUnknown // ustar ends there
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(t, io.LimitReader(body, size))
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes, not %d", n, size)
	}
	return err
}

// Read reads a bundle and calls fn for each package. It has compared a tarball's digest with the manifest only
// when body ends: fn reads all of body, and believes it if Read returns no error. listed is called before the
// first package. Read returns ErrInvalid unless the bundle is whole.
func Read(r io.Reader, listed func(Manifest) error, fn func(p Package, body io.Reader) error) error {
	t := tar.NewReader(r)
	m, err := readManifest(t)
	if err != nil {
		return err
	}
	if err := listed(m); err != nil {
		return err
	}
	for _, p := range m.Packages {
		if err := readPackage(t, p, fn); err != nil {
			return err
		}
		for _, alias := range p.Aliases {
			h, err := t.Next()
			if err != nil || h.Typeflag != tar.TypeLink || h.Name != entryName(alias) || h.Linkname != entryName(p.Hash) {
				return fmt.Errorf("%w: %s is missing", ErrInvalid, entryName(alias))
			}
		}
	}
	if _, err := t.Next(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows the last package", ErrInvalid)
	}
	switch _, err := io.ReadFull(r, make([]byte, 1)); err {
	case io.EOF:
		return nil
	case nil:
		return fmt.Errorf("%w: something follows its end", ErrInvalid)
	default:
		return err
	}
}

func readManifest(t *tar.Reader) (m Manifest, err error) {
	h, err := t.Next()
	if err != nil || h.Name != ManifestName {
		return m, fmt.Errorf("%w: it does not begin with %s", ErrInvalid, ManifestName)
	}
	if h.Size > MaxManifest {
		return m, fmt.Errorf("%w: its list has %d bytes, at most %d are read", ErrInvalid, h.Size, MaxManifest)
	}
	raw := make([]byte, h.Size)
	if _, err = io.ReadFull(t, raw); err == nil {
		err = strangejson.Unmarshal(raw, &m)
	}
	if err != nil {
		return m, fmt.Errorf("%w: its list cannot be read: %v", ErrInvalid, err)
	}
	if m.Format != 1 {
		return m, fmt.Errorf("%w: format %d; this packbase reads format 1", ErrInvalid, m.Format)
	}
	for _, p := range m.Packages {
		for _, hash := range append([]string{p.Hash}, p.Aliases...) {
			if err := zigpkg.ValidHash(hash); err != nil {
				return m, fmt.Errorf("%w: %v", ErrInvalid, err)
			}
		}
		for _, proof := range append([]string{p.Proof, m.Checkpoint}, p.Later...) {
			if len(proof) > maxProof {
				return m, fmt.Errorf("%w: what should prove %s has %d bytes", ErrInvalid, p.Hash, len(proof))
			}
		}
		if p.Size < 0 || p.Size > MaxPackage {
			return m, fmt.Errorf("%w: %s has %d bytes", ErrInvalid, p.Hash, p.Size)
		}
	}
	return m, nil
}

func readPackage(t *tar.Reader, p Package, fn func(Package, io.Reader) error) error {
	h, err := t.Next()
	if err != nil || h.Typeflag != tar.TypeReg || h.Name != entryName(p.Hash) || h.Size != p.Size {
		return fmt.Errorf("%w: %s is missing", ErrInvalid, entryName(p.Hash))
	}
	sum := sha256.New()
	body := io.TeeReader(t, sum)
	if err := fn(p, body); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return fmt.Errorf("%w: it ends inside %s: %v", ErrInvalid, entryName(p.Hash), err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != p.SHA256 {
		return fmt.Errorf("%w: %s has the digest %s, its list says %s", ErrInvalid, entryName(p.Hash), got, p.SHA256)
	}
	return nil
}
