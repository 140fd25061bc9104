package tarball

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// An item is what Read passes to its function, with the content read.
type item struct {
	Path    string
	Mode    Mode
	Target  string
	Content string
}

func readItems(r io.Reader, prefix string, lim Limits) (Header, Info, []item, error) {
	var items []item
	h, info, err := Read(r, prefix, lim, func(e Entry, body io.Reader) error {
		b, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		if int64(len(b)) != e.Size {
			return fmt.Errorf("content has %d bytes, not %d", len(b), e.Size)
		}
		items = append(items, item{e.Path, e.Mode, e.Target, string(b)})
		return nil
	})
	return h, info, items, err
}

func TestReadReturnsWhatWasBuilt(t *testing.T) {
	t.Parallel()
	b := NewBuilder(scratch(t), Form2, Limits{})
	for name, tr := range fixtures() {
		for _, h := range []Header{{commitOID, when, ""}, {commitOID, time.Unix(maxOctal+1, 0).UTC(), "hello-v1/"}} {
			var want []item
			for _, e := range tr.entries() {
				i := item{e.Path, e.Mode, e.Target, ""}
				if e.Open != nil {
					i.Content = tr[e.Path].content
				}
				want = append(want, i)
			}
			targz, wantInfo := build(t, b, h, tr.entries())
			gotHeader, info, items, err := readItems(iotest.HalfReader(bytes.NewReader(targz)), h.Prefix, Limits{})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if gotHeader != h {
				t.Errorf("%s: header = %+v, want %+v", name, gotHeader, h)
			}
			if info != wantInfo {
				t.Errorf("%s: info = %+v, want %+v", name, info, wantInfo)
			}
			if diff := cmp.Diff(want, items); diff != "" {
				t.Errorf("%s: items (-want +got):\n%s", name, diff)
			}
		}
	}
}

func TestReadSkipsContent(t *testing.T) {
	t.Parallel()
	tr := fixtures()["big files"]
	targz, want := build(t, NewBuilder(scratch(t), Form2, Limits{}), Header{commitOID, when, ""}, tr.entries())
	n := 0
	_, info, err := Read(bytes.NewReader(targz), "", Limits{}, func(Entry, io.Reader) error { n++; return nil })
	if err != nil || info != want || n != len(tr) {
		t.Errorf("got %d entries, %+v, %v, want %d, %+v", n, info, err, len(tr), want)
	}
}

func TestReadEndsWithItsFunction(t *testing.T) {
	t.Parallel()
	targz, _ := build(t, NewBuilder(scratch(t), Form2, Limits{}), Header{commitOID, when, ""}, fixtures()["one file"].entries())
	want := errors.New("enough")
	if _, _, err := Read(bytes.NewReader(targz), "", Limits{}, func(Entry, io.Reader) error { return want }); !errors.Is(err, want) {
		t.Errorf("err = %v, want %v", err, want)
	}
	r := io.MultiReader(bytes.NewReader(targz[:100]), iotest.ErrReader(want))
	if _, _, _, err := readItems(r, "", Limits{}); !errors.Is(err, want) {
		t.Errorf("err = %v, want %v", err, want)
	}
}

// gzipAs compresses a tar stream as Build could have.
func gzipAs(tar []byte) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	z.Write(tar)
	z.Close()
	return buf.Bytes()
}

// patch writes s into a record of a tar stream and seals it.
func patch(tar []byte, n, at int, s string) []byte {
	tar = bytes.Clone(tar)
	r := (*record)(tar[n*recordSize:])
	copy(r[at:], s)
	r.seal()
	return tar
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	tr := tree{
		"a":                      {File, "content"},
		"b":                      {Symlink, "a"},
		"c/d":                    {Executable, "more"},
		"e":                      {Submodule, ""},
		strings.Repeat("l", 101): {File, ""},
	}
	targz, _ := build(t, NewBuilder(scratch(t), Form2, Limits{}), Header{commitOID, when, ""}, tr.entries())
	tar := gunzip(t, targz)
	// Records: 0 global, 1 its text, 2 a, 3 its content, 4 b, 5 c/, 6 c/d, 7 its content, 8 e/, 9 pax of l, 10 its text, 11 l, then zeros.
	if _, _, items, err := readItems(bytes.NewReader(gzipAs(tar)), "", Limits{}); err != nil || len(items) != 6 {
		t.Fatalf("got %v, %v, want 6 entries", items, err)
	}
	swap := func(a, b, n int) []byte { // exchanges n records
		t := bytes.Clone(tar)
		copy(t[a*recordSize:], tar[b*recordSize:(b+n)*recordSize])
		copy(t[b*recordSize:], tar[a*recordSize:(a+n)*recordSize])
		return t
	}
	without := func(a, b int) []byte { // and still whole blocks
		t := append(bytes.Clone(tar[:a*recordSize]), tar[b*recordSize:]...)
		return append(t, make([]byte, (b-a)*recordSize)...)
	}
	withText := func(text string) []byte {
		t := bytes.Clone(tar)
		copy(t[recordSize:], text)
		return t
	}
	raw := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(targz)) }
	tests := []struct {
		name  string
		targz []byte
		want  error
	}{
		{"nothing", nil, ErrInvalid},
		{"not gzip", tar, ErrInvalid},
		{"gzip with a time", raw(func(b []byte) []byte { b[4] = 1; return b }), ErrInvalid},
		{"gzip of another system", raw(func(b []byte) []byte { b[9] = 3; return b }), ErrInvalid},
		{"gzip with a name", raw(func(b []byte) []byte { b[3] = 8; return b }), ErrInvalid},
		{"bad checksum", raw(func(b []byte) []byte { b[len(b)-8] ^= 1; return b }), ErrInvalid},
		{"bad size", raw(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }), ErrInvalid},
		{"bad deflate block", raw(func(b []byte) []byte { b[10] = 7; return b }), ErrInvalid},
		{"byte after the end", raw(func(b []byte) []byte { return append(b, 0) }), ErrInvalid},
		{"two members", raw(func(b []byte) []byte { return append(b, b...) }), ErrInvalid},
		{"cut in the trailer", raw(func(b []byte) []byte { return b[:len(b)-1] }), ErrInvalid},
		{"cut in the header", raw(func(b []byte) []byte { return b[:9] }), ErrInvalid},
		{"cut in the data", raw(func(b []byte) []byte { return b[:100] }), ErrInvalid},
		{"empty stream", gzipAs(nil), ErrInvalid},
		{"zeros", gzipAs(make([]byte, blockSize)), ErrInvalid},
		{"no global header", gzipAs(without(0, 2)), ErrInvalid},
		{"two global headers", gzipAs(append(bytes.Clone(tar[:1024]), tar...)), ErrInvalid},
		{"no commit", gzipAs(withText("52 commenT=")), ErrInvalid},
		{"bad commit", gzipAs(withText("52 comment=X")), ErrInvalid},
		{"length of a field too long", gzipAs(withText("99")), ErrInvalid},
		{"length of a field zero", gzipAs(withText("0 ")), ErrInvalid},
		{"length of a field negative", gzipAs(withText("-1 ")), ErrInvalid},
		{"text after the fields", gzipAs(patch(withText("52 comment="+commitOID+"\nx"), 0, 124, "00000000065")), ErrInvalid},
		{"padding of a text", gzipAs(withText("52 comment=" + commitOID + "\nx")), ErrInvalid},
		{"long text", gzipAs(patch(tar, 0, 124, "00000020000")), ErrTooLarge},
		{"huge text", gzipAs(patch(tar, 0, 124, "77777777777")), ErrTooLarge},
		{"name of the global header", gzipAs(patch(tar, 0, 0, "other")), ErrInvalid},
		{"bad header checksum", gzipAs(func() []byte { b := bytes.Clone(tar); b[2*recordSize+150] ^= 1; return b }()), ErrInvalid},
		{"other time", gzipAs(patch(tar, 2, 136, "00000000001")), ErrInvalid},
		{"other mode", gzipAs(patch(tar, 2, 100, "0000644")), ErrInvalid},
		{"setuid", gzipAs(patch(tar, 2, 100, "0004775")), ErrInvalid},
		{"owner", gzipAs(patch(tar, 2, 108, "0000001")), ErrInvalid},
		{"owner name", gzipAs(patch(tar, 2, 265, "toor")), ErrInvalid},
		{"GNU magic", gzipAs(patch(tar, 2, 257, "ustar  ")), ErrInvalid},
		{"hard link", gzipAs(patch(tar, 2, 156, "1")), ErrInvalid},
		{"device", gzipAs(patch(tar, 2, 156, "3")), ErrInvalid},
		{"old file", gzipAs(patch(tar, 2, 156, "\x00")), ErrInvalid},
		{"GNU long name", gzipAs(patch(tar, 2, 156, "L")), ErrInvalid},
		{"sparse file", gzipAs(patch(tar, 2, 156, "S")), ErrInvalid},
		{"binary size", gzipAs(patch(tar, 2, 124, "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07")), ErrInvalid},
		{"size with spaces", gzipAs(patch(tar, 2, 124, "          7")), ErrInvalid},
		{"negative size", gzipAs(patch(tar, 2, 124, "-0000000007")), ErrInvalid},
		{"size beyond the end", gzipAs(patch(tar, 2, 124, "00001000000")), ErrInvalid},
		{"size of a symlink", gzipAs(patch(tar, 4, 124, "00000000001")), ErrInvalid},
		{"size of a directory", gzipAs(patch(tar, 5, 124, "00000000001")), ErrInvalid},
		{"target of a file", gzipAs(patch(tar, 2, 157, "b")), ErrInvalid},
		{"no target", gzipAs(patch(tar, 4, 157, "\x00")), ErrInvalid},
		{"name after a zero", gzipAs(patch(tar, 2, 0, "a\x00b")), ErrInvalid},
		{"prefix that is not needed", gzipAs(patch(patch(tar, 6, 0, "d\x00\x00"), 6, 345, "c")), ErrInvalid},
		{"absolute", gzipAs(patch(tar, 2, 0, "/a")), ErrInvalid},
		{"dot", gzipAs(patch(tar, 2, 0, "./a")), ErrInvalid},
		{"dot dot", gzipAs(patch(tar, 2, 0, "../a")), ErrInvalid},
		{"empty name", gzipAs(patch(tar, 2, 0, "\x00")), ErrInvalid},
		{"file with a slash", gzipAs(patch(tar, 2, 0, "a/")), ErrInvalid},
		{"directory without a slash", gzipAs(patch(tar, 5, 0, "c\x00")), ErrInvalid},
		{"root directory", gzipAs(patch(tar, 5, 0, "/\x00")), ErrInvalid},
		{"twice", gzipAs(patch(tar, 4, 0, "a")), ErrInvalid},
		{"directory and file", gzipAs(patch(tar, 5, 0, "a/")), ErrInvalid},
		{"out of order", gzipAs(swap(2, 6, 2)), ErrInvalid},
		{"no directory", gzipAs(without(5, 6)), ErrInvalid},
		{"directory twice", gzipAs(patch(tar, 8, 0, "c/")), ErrInvalid},
		{"dirty padding", gzipAs(func() []byte { b := bytes.Clone(tar); b[4*recordSize-1] = 1; return b }()), ErrInvalid},
		{"bytes after the end", gzipAs(func() []byte { b := bytes.Clone(tar); b[len(b)-1] = 1; return b }()), ErrInvalid},
		{"half a block", gzipAs(tar[:len(tar)-recordSize]), ErrInvalid},
		{"a block too many", gzipAs(append(bytes.Clone(tar), make([]byte, blockSize)...)), ErrInvalid},
		{"a record too many", gzipAs(append(bytes.Clone(tar), make([]byte, recordSize)...)), ErrInvalid},
		{"cut in an entry", gzipAs(tar[:3*recordSize]), ErrInvalid},
		{"cut in a record", gzipAs(tar[:3*recordSize-1]), ErrInvalid},
		{"extended header and nothing else", gzipAs(tar[:11*recordSize]), ErrInvalid},
		{"other object in the extended header", gzipAs(patch(tar, 9, 0, "1")), ErrInvalid},
		{"extended header that is not needed", gzipAs(append(bytes.Clone(tar[:2*recordSize]), append(bytes.Clone(tar[9*recordSize:11*recordSize]), tar[2*recordSize:]...)...)), ErrInvalid},
		{"empty extended header", gzipAs(patch(without(10, 11), 9, 124, "00000000000")), ErrInvalid},
		{"other path in the extended header", gzipAs(func() []byte { b := bytes.Clone(tar); b[10*recordSize+9] = '/'; return b }()), ErrInvalid},
	}
	for _, tt := range tests {
		if _, _, items, err := readItems(bytes.NewReader(tt.targz), "", Limits{}); !errors.Is(err, tt.want) {
			t.Errorf("%s: err = %v, want %v; got %d entries", tt.name, err, tt.want, len(items))
		}
	}
}

func TestReadPrefix(t *testing.T) {
	t.Parallel()
	b := NewBuilder(scratch(t), Form2, Limits{})
	tr := tree{"a": {File, "a"}, "b": {File, "b"}}
	flat, _ := build(t, b, Header{commitOID, when, ""}, tr.entries())
	wrapped, _ := build(t, b, Header{commitOID, when, "p/"}, tr.entries())
	beside := patch(gunzip(t, wrapped), 3, 0, "q/a")
	tests := []struct {
		name   string
		targz  []byte
		prefix string
		want   error
	}{
		{"flat", flat, "", nil},
		{"wrapped", wrapped, "p/", nil},
		{"flat, not wrapped", flat, "p/", ErrInvalid},
		{"another wrapper", wrapped, "q/", ErrInvalid},
		{"not a wrapper", wrapped, "p", ErrInvalid},
		{"file beside the wrapper", gzipAs(beside), "p/", ErrInvalid},
	}
	for _, tt := range tests {
		if _, _, _, err := readItems(bytes.NewReader(tt.targz), tt.prefix, Limits{}); !errors.Is(err, tt.want) {
			t.Errorf("%s: err = %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestReadLimits(t *testing.T) {
	t.Parallel()
	targz, info := build(t, NewBuilder(scratch(t), Form2, Limits{}), Header{commitOID, when, ""}, fixtures()["all kinds"].entries())
	n := len(fixtures()["all kinds"].entries())
	tests := []struct {
		name string
		lim  Limits
		want error
	}{
		{"just enough", Limits{info.Size, info.ContentSize, n}, nil},
		{"size", Limits{Size: info.Size - 1}, ErrTooLarge},
		{"content size", Limits{ContentSize: info.ContentSize - 1}, ErrTooLarge},
		{"entries", Limits{Entries: n - 1}, ErrTooLarge},
	}
	for _, tt := range tests {
		if _, _, _, err := readItems(bytes.NewReader(targz), "", tt.lim); !errors.Is(err, tt.want) {
			t.Errorf("%s: err = %v, want %v", tt.name, err, tt.want)
		}
	}
}

// What Read accepts, Build writes again: the same tar stream.
func FuzzRead(f *testing.F) {
	small := tree{
		"a":                      {File, "content"},
		"b":                      {Symlink, strings.Repeat("t", 101)},
		"c/d":                    {Executable, "more"},
		"e":                      {Submodule, ""},
		strings.Repeat("l", 101): {File, ""},
	}
	for _, tr := range []tree{{}, small} {
		targz, _ := build(f, NewBuilder(scratch(f), Form2, Limits{}), Header{commitOID, when, ""}, tr.entries())
		f.Add(gunzip(f, targz))
	}
	f.Fuzz(func(t *testing.T, tar []byte) {
		// A mutated gzip member would hardly ever get past its checksum.
		var es []Entry
		h, info, err := Read(bytes.NewReader(gzipAs(tar)), "", Limits{}, func(e Entry, body io.Reader) error {
			b, err := io.ReadAll(body)
			if e.OID == "" {
				e.OID = commitOID
			}
			e.Open = func() (io.Reader, error) { return bytes.NewReader(b), nil }
			es = append(es, e)
			return err
		})
		if err != nil {
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrTooLarge) {
				t.Errorf("err = %v, want %v or %v", err, ErrInvalid, ErrTooLarge)
			}
			return
		}
		targz, again := build(t, NewBuilder(scratch(t), Form2, Limits{}), h, es)
		if again.ContentDigest != info.ContentDigest {
			t.Errorf("built again: %q, want %q", gunzip(t, targz), tar)
		}
	})
}
