package archive

import (
	"archive/tar"
	"fmt"
	"io"
	"strings"
	"time"
)

// WriteTar writes the package as a flat tar stream that every Zig since 0.13 unpacks to the same files.
// Its bytes depend on nothing but the files.
//
// A package whose files lie in one directory, or are one, gets an empty directory beside it: Zig neither
// creates nor hashes that, and it keeps Zig from cutting the other one off.
func (p *Package) WriteTar(w io.Writer) error {
	t := tar.NewWriter(w)
	if guard := p.guard(); guard != "" {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: guard + "/", Mode: 0o775, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}); err != nil {
			return fmt.Errorf("write tar: %w", err)
		}
	}
	for _, f := range p.Files {
		if err := p.writeFile(t, f); err != nil {
			return fmt.Errorf("write tar: %.200q: %w", f.Path, err)
		}
	}
	if err := t.Close(); err != nil {
		return fmt.Errorf("write tar: %w", err)
	}
	return nil
}

func (p *Package) writeFile(t *tar.Writer, f File) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Size: f.Size, Mode: 0o664, ModTime: time.Unix(0, 0)}
	if f.Link {
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Target, 0o777
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(t, p.Open(f))
	return err
}

// guard returns the name of the empty directory that the package needs, "" if it needs none.
func (p *Package) guard() string {
	root, taken := "", map[string]bool{}
	for _, f := range p.Files {
		root, _, _ = strings.Cut(f.Path, "/")
		taken[root] = true
	}
	if len(taken) != 1 {
		return ""
	}
	if root == "z" {
		return "y"
	}
	return "z"
}
