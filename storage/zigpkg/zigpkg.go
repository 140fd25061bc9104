// Package zigpkg reads build.zig.zon and computes package hashes as Zig does.
//
// # Hash
//
// The digest of a package is the same in every Zig since 0.12. Each entry that
// is not a directory and that the manifest's .paths include is hashed by itself:
//
//	regular file  SHA-256(path, 00 00, content)
//	symlink       SHA-256(path, target)
//
// where path is relative to the root, with slashes. The digest is the SHA-256 of
// these hashes in the bytewise order of the paths. Modes and directories do not
// count. Zig writes the digest in one of two forms:
//
//	legacy  "1220" hex(digest)               by 0.13 and earlier; 0.15 still reads it
//	new     NAME "-" VERSION "-" base64url(id, size, digest[:25])    by 0.14 and later
//
// id and size are 32 bits little endian; id is the low half of the manifest's
// fingerprint, or 0 without one; size is the sum of the content lengths, saturated.
// A tree without build.zig.zon has the name N, the version V and the id 0xffff.
// Source: lib/compiler/Maker/{Package,Fetch}.zig of Zig 0.17, src/Package/Fetch.zig before.
//
// # Manifest
//
// Zig releases differ in what they accept. [ParseManifest] reads for all of them
// at once, and says in [Manifest.UsableWith] which ones accept the file.
// Fields that Zig ignores are not held to Zig's expression grammar: their tokens
// must be legal and their brackets must match. Zig may still refuse such a file.
package zigpkg

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Lengths of package hashes, in bytes.
const (
	legacyLen  = 68
	tailLen    = 44 // of the base64 text that ends the new form
	maxHashLen = maxNameLen + 1 + maxVersionLen + 1 + tailLen
)

// A FileHash is the hash of one file or symlink of a package, its path included.
type FileHash [sha256.Size]byte

// An Entry is a file or symlink of a package.
type Entry struct {
	Path string   // relative to the package's root, slashes, as stored: no "./", never normalised
	Hash FileHash // from HashFile or HashSymlink with the same path
	Size int64    // bytes of content; 0 for a symlink
}

// Hashes is what Zig computes for a package.
type Hashes struct {
	Hash   string            // new form; "" if no release that writes it accepts the manifest: see its Refusals
	Legacy string            // legacy form, 68 bytes
	Digest [sha256.Size]byte // what both forms are made of
	Size   uint64            // sum of the content of all included files, in bytes
}

// HashFile hashes a regular file whose content is r, and returns the length of r.
func HashFile(path string, r io.Reader) (FileHash, int64, error) {
	h := sha256.New()
	io.WriteString(h, path)
	// Zig once hashed the executable bit here; now it is always "not executable".
	h.Write([]byte{0, 0})
	n, err := io.Copy(h, r)
	if err != nil {
		return FileHash{}, n, fmt.Errorf("hash %q: %w", path, err)
	}
	return FileHash(h.Sum(nil)), n, nil
}

// HashSymlink hashes a symlink. The target is taken as stored, not resolved.
func HashSymlink(path, target string) FileHash {
	return sha256.Sum256([]byte(path + target))
}

// Sum computes the hashes of a package from all entries of its tree, in any order.
// It drops those that m.Paths exclude; m is nil if the tree has no build.zig.zon.
// A tree whose build.zig.zon ParseManifest refuses has no hashes: no Zig fetches it.
func Sum(m *Manifest, entries []Entry) Hashes {
	included := make([]Entry, 0, len(entries))
	for _, e := range entries {
		if m.Includes(e.Path) {
			included = append(included, e)
		}
	}
	slices.SortFunc(included, func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })

	var sum Hashes
	h := sha256.New()
	for _, e := range included {
		h.Write(e.Hash[:])
		sum.Size += uint64(e.Size)
	}
	h.Sum(sum.Digest[:0])
	sum.Legacy = "1220" + hex.EncodeToString(sum.Digest[:])
	switch {
	case m == nil:
		sum.Hash = newForm("N", "V", 0xffff, sum.Size, sum.Digest)
	case m.usable&from014 != 0:
		sum.Hash = newForm(m.Name, m.Version, uint32(m.Fingerprint), sum.Size, sum.Digest)
	}
	return sum
}

func newForm(name, version string, id uint32, size uint64, digest [sha256.Size]byte) string {
	tail := make([]byte, 0, 33)
	tail = binary.LittleEndian.AppendUint32(tail, id)
	tail = binary.LittleEndian.AppendUint32(tail, uint32(min(size, math.MaxUint32)))
	tail = append(tail, digest[:25]...)
	return name + "-" + version + "-" + base64.RawURLEncoding.EncodeToString(tail)
}

// ValidHash reports what keeps s from being a package hash that some Zig writes.
// It is stricter than Zig, which never decodes most of a hash.
func ValidHash(s string) error {
	if digits, ok := strings.CutPrefix(s, "1220"); ok && len(s) == legacyLen {
		if strings.Trim(digits, "0123456789abcdef") != "" {
			return errors.New("package hash has other than lowercase hex digits after 1220")
		}
		return nil
	}
	if len(s) > maxHashLen {
		return fmt.Errorf("package hash is longer than %d bytes", maxHashLen)
	}
	// The tail may hold dashes, and so may the version: cut from both ends.
	cut := max(0, len(s)-tailLen)
	head, hasTail := strings.CutSuffix(s[:cut], "-")
	name, version, hasVersion := strings.Cut(head, "-")
	if !hasTail || !hasVersion {
		return errors.New("package hash is neither NAME-VERSION-DIGEST nor 1220 and 64 hex digits")
	}
	// 33 bytes fill 44 digits exactly, so every text has one meaning.
	// The decoder skips line ends, which then make the text too short.
	if b, err := base64.RawURLEncoding.DecodeString(s[cut:]); err != nil || len(b) != 33 {
		return errors.New("package hash does not end in 44 digits of base64url")
	}
	if name == "N" && version == "V" {
		return nil
	}
	if !isIdentifier(name) || len(name) > maxNameLen {
		return fmt.Errorf("package hash has no valid name: %q", name)
	}
	if v, err := parseVersion(version); err != nil || v != version || len(v) > maxVersionLen {
		return fmt.Errorf("package hash has no valid version: %q", version)
	}
	return nil
}
