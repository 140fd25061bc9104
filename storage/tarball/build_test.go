package tarball

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

var when = time.Unix(1700000000, 0).UTC()

// fixtures are trees that between them need every branch of the writer.
func fixtures() map[string]tree {
	name := func(n int) string { return strings.Repeat("n", n) }
	long := tree{}
	for _, n := range []int{99, 100, 101, 154, 155, 156, 157, 253, 254, 255} {
		long[name(n)] = leaf{File, "at the root"}
		for _, d := range []int{1, 98, 99, 100, 101, 153, 154, 155, 156, 200} {
			p := fmt.Sprintf("d%0*d/%s", d-1, n, name(n))
			long[p] = leaf{Executable, p}
		}
	}
	deep := tree{}
	for n := 1; n < 300; n += 7 {
		deep[strings.Repeat("d/", n)+"f"] = leaf{File, "deep"}
	}
	links := tree{}
	for _, n := range []int{1, 98, 99, 100, 101, 102, 255, 1000, 4096} {
		links[fmt.Sprint("link", n)] = leaf{Symlink, name(n)}
		links[name(101)+fmt.Sprint(n)] = leaf{Symlink, name(n)}
	}
	big := tree{}
	for i, n := range []int{minContent - 1, minContent, minChunk, minChunk + 1, maxChunk, 3*maxChunk + 17} {
		big[fmt.Sprint("prose", n)] = leaf{File, prose(uint64(i), n)}
		big[fmt.Sprint("noise", n)] = leaf{File, noise(uint64(i), n)}
		big[fmt.Sprint("zeros", n)] = leaf{File, strings.Repeat("\x00", n)}
	}
	small := tree{}
	for i := range 1000 {
		small[fmt.Sprintf("src/%d/%d.zig", i%10, i)] = leaf{File, prose(uint64(i), i)}
	}
	return map[string]tree{
		"empty":      {},
		"one file":   {"build.zig": {File, "x"}},
		"one folder": {"src/a": {File, "a"}, "src/b": {File, "b"}},
		"all kinds": {
			"a":                  {File, ""},
			"a-b":                {Executable, "#!/bin/sh\n"},
			"a.b":                {Symlink, "a"},
			"b/c":                {Submodule, ""},
			"b/d/e":              {File, "e"},
			"b.c":                {Submodule, ""},
			"c":                  {Submodule, ""},
			"c.d":                {File, "d"},
			"c-/x":               {File, strings.Repeat("x", 512)},
			"c/d"[:1] + " ":      {File, strings.Repeat("x", 513)},
			"with space":         {File, "y"},
			"ünïcödé/\U0001f600": {File, "z"},
			"ünïcödé/e\u0301":    {Symlink, "../ünïcödé"},
			strings.Repeat("s", 120) + "/" + strings.Repeat("t", 120): {Submodule, ""},
			strings.Repeat("s", 80) + "/" + strings.Repeat("t", 80):   {Submodule, ""},
		},
		"long names":  long,
		"deep":        deep,
		"links":       links,
		"big files":   big,
		"small files": small,
	}
}

func TestBuildEqualsGitArchive(t *testing.T) {
	t.Parallel()
	for name, tr := range fixtures() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			equalsGitArchive(t, tr, when, "")
			equalsGitArchive(t, tr, when, "hello-v1.0.0/")
		})
	}
	for _, s := range []int64{0, 1, maxOctal, maxOctal + 1, 1 << 40} {
		t.Run(fmt.Sprint("time ", s), func(t *testing.T) {
			t.Parallel()
			equalsGitArchive(t, tree{"a": {File, "a"}}, time.Unix(s, 0), "")
		})
	}
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("random ", seed), func(t *testing.T) {
			t.Parallel()
			equalsGitArchive(t, randomTree(seed), when, "p/")
		})
	}
	t.Run("end of block", func(t *testing.T) {
		t.Parallel()
		for n := 14; n <= 18; n++ { // with three records before it
			equalsGitArchive(t, tree{"a": {File, strings.Repeat("a", n*recordSize)}}, when, "")
		}
	})
}

// randomTree returns a tree with names of all lengths.
func randomTree(seed uint64) tree {
	r := rand.New(rand.NewPCG(seed, 0))
	const letters = "aA.-_0~+ é"
	tr := tree{}
	taken := map[string]bool{}
	for range 200 {
		p, ok := "", true
		for depth := r.IntN(6); depth >= 0 && ok; depth-- {
			n := 1 + r.IntN(1+r.IntN(120))
			var name strings.Builder
			for name.Len() < n {
				name.WriteString(string([]rune(letters)[r.IntN(10)]))
			}
			if strings.Trim(name.String(), ". ") == "" {
				name.WriteString("x")
			}
			if p != "" {
				p += "/"
			}
			p += strings.TrimSpace(name.String())
			if depth > 0 {
				ok = tr[p] == leaf{}
				taken[p] = true
			}
		}
		if !ok || taken[p] {
			continue
		}
		l := leaf{Mode(1 + r.IntN(4)), ""}
		switch l.mode {
		case Symlink:
			l.content = strings.Repeat("t", 1+r.IntN(300))
		case File, Executable:
			l.content = prose(r.Uint64(), r.IntN(3000))
		}
		tr[p] = l
	}
	return tr
}

func equalsGitArchive(t *testing.T, tr tree, when time.Time, prefix string) {
	t.Helper()
	r, commit := newRepo(t, tr, when)
	want := r.git(t, "", "archive", "--format=tar", "--prefix="+prefix, commit)

	got, info := build(t, NewBuilder(scratch(t), Form2, Limits{}), Header{commit, when, prefix}, tr.entries())
	tar := gunzip(t, got)
	if !bytes.Equal(tar, want) {
		i := 0
		for i < min(len(tar), len(want)) && tar[i] == want[i] {
			i++
		}
		t.Fatalf("prefix %q: got %d bytes, want %d; first difference in record %d", prefix, len(tar), len(want), i/recordSize)
	}
	if want := infoOf(got, tar); info != want {
		t.Errorf("info = %+v, want %+v", info, want)
	}
}

func gunzip(t testing.TB, b []byte) []byte {
	t.Helper()
	r := bytes.NewReader(b)
	z, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	z.Multistream(false)
	tar, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if r.Len() > 0 {
		t.Fatalf("%d bytes after the gzip member", r.Len())
	}
	return tar
}

func infoOf(targz, tar []byte) Info {
	return Info{
		Digest:        fmt.Sprintf("%x", sha256.Sum256(targz)),
		MD5:           fmt.Sprintf("%x", md5.Sum(targz)),
		CRC32:         fmt.Sprintf("%08x", crc32.ChecksumIEEE(targz)),
		Size:          int64(len(targz)),
		ContentDigest: fmt.Sprintf("%x", sha256.Sum256(tar)),
		ContentSize:   int64(len(tar)),
	}
}

func TestGzipReadsIt(t *testing.T) {
	t.Parallel()
	got, info := build(t, NewBuilder(scratch(t), Form2, Limits{}), Header{commitOID, when, ""}, fixtures()["big files"].entries())
	cmd := exec.CommandContext(t.Context(), "gzip", "-dc")
	cmd.Stdin = bytes.NewReader(got)
	tar, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256(tar)); sum != info.ContentDigest {
		t.Errorf("content digest = %s, want %s", info.ContentDigest, sum)
	}
}

// The size of such a file is in an extended header; its content is not worth the time of a test.
func TestEntryHeaderOfHugeFile(t *testing.T) {
	t.Parallel()
	e := Entry{Path: "huge", Mode: File, OID: commitOID, Size: 8 << 30}
	ext, r, err := entryHeader(&e, e.Path, when.Unix())
	if err != nil {
		t.Fatal(err)
	}
	if want := "19 size=8589934592\n"; ext.text != want {
		t.Errorf("extended header = %q, want %q", ext.text, want)
	}
	if got, want := textField(ext.record[:100]), commitOID+".paxheader"; got != want {
		t.Errorf("name of extended header = %q, want %q", got, want)
	}
	if got, want := textField(r[124:136]), "00000000000"; got != want {
		t.Errorf("size = %q, want %q", got, want)
	}

	e.Size--
	ext, r, err = entryHeader(&e, e.Path, when.Unix())
	if err != nil {
		t.Fatal(err)
	}
	if ext.record != nil {
		t.Errorf("extended header of a smaller file = %q, want none", ext.text)
	}
	if got, want := textField(r[124:136]), "77777777777"; got != want {
		t.Errorf("size = %q, want %q", got, want)
	}
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	file := func(p string) Entry {
		return Entry{Path: p, Mode: File, Size: 1, Open: func() (io.Reader, error) { return strings.NewReader("x"), nil }}
	}
	dir := func(p string) Entry { return Entry{Path: p, Mode: Directory} }
	sized := func(n int64) Entry {
		e := file("a")
		e.Size = n
		return e
	}
	errOpen := errors.New("no such object")
	ok := Header{commitOID, when, ""}
	tests := []struct {
		name    string
		header  Header
		lim     Limits
		entries []Entry
		want    error
	}{
		{"good", ok, Limits{}, []Entry{file("a"), dir("b"), file("b/c")}, nil},
		{"empty path", ok, Limits{}, []Entry{file("")}, ErrInvalid},
		{"absolute", ok, Limits{}, []Entry{file("/a")}, ErrInvalid},
		{"dot", ok, Limits{}, []Entry{dir("."), file("./a")}, ErrInvalid},
		{"dot dot", ok, Limits{}, []Entry{dir(".."), file("../a")}, ErrInvalid},
		{"dot dot inside", ok, Limits{}, []Entry{dir("a"), dir("a/.."), file("a/../b")}, ErrInvalid},
		{"slash at the end", ok, Limits{}, []Entry{dir("a/")}, ErrInvalid},
		{"two slashes", ok, Limits{}, []Entry{dir("a"), file("a//b")}, ErrInvalid},
		{"NUL in path", ok, Limits{}, []Entry{file("a\x00b")}, ErrInvalid},
		{"long path", ok, Limits{}, []Entry{file(strings.Repeat("a", MaxPath+1))}, ErrTooLarge},
		{"long path without object id", ok, Limits{}, []Entry{file(strings.Repeat("a", 101))}, ErrInvalid},
		{"no mode", ok, Limits{}, []Entry{{Path: "a"}}, ErrInvalid},
		{"unknown mode", ok, Limits{}, []Entry{{Path: "a", Mode: Directory + 1}}, ErrInvalid},
		{"no target", ok, Limits{}, []Entry{{Path: "a", Mode: Symlink}}, ErrInvalid},
		{"NUL in target", ok, Limits{}, []Entry{{Path: "a", Mode: Symlink, Target: "\x00"}}, ErrInvalid},
		{"long target", ok, Limits{}, []Entry{{Path: "a", Mode: Symlink, OID: commitOID, Target: strings.Repeat("a", MaxTarget+1)}}, ErrTooLarge},
		{"target of a file", ok, Limits{}, []Entry{{Path: "a", Mode: File, Target: "b"}}, ErrInvalid},
		{"size of a directory", ok, Limits{}, []Entry{{Path: "a", Mode: Directory, Size: 1}}, ErrInvalid},
		{"negative size", ok, Limits{}, []Entry{sized(-1)}, ErrInvalid},
		{"out of order", ok, Limits{}, []Entry{file("b"), file("a")}, ErrInvalid},
		{"directory too early", ok, Limits{}, []Entry{dir("a"), file("a/b"), file("a.c")}, ErrInvalid},
		{"twice", ok, Limits{}, []Entry{file("a"), file("a")}, ErrInvalid},
		{"directory twice", ok, Limits{}, []Entry{dir("a"), dir("a")}, ErrInvalid},
		{"file and directory", ok, Limits{}, []Entry{file("a"), file("a-b"), file("a-c"), dir("a")}, ErrInvalid},
		{"no directory", ok, Limits{}, []Entry{file("a/b")}, ErrInvalid},
		{"no inner directory", ok, Limits{}, []Entry{dir("a"), file("a/b/c")}, ErrInvalid},
		{"not the directory", ok, Limits{}, []Entry{dir("a"), file("a.b/c")}, ErrInvalid},
		{"file as directory", ok, Limits{}, []Entry{file("a"), file("a/b")}, ErrInvalid},
		{"content too short", ok, Limits{}, []Entry{sized(2)}, ErrInvalid},
		{"content too long", ok, Limits{}, []Entry{{Path: "a", Mode: File, Size: 1, Open: func() (io.Reader, error) { return strings.NewReader("xx"), nil }}}, ErrInvalid},
		{"cannot open", ok, Limits{}, []Entry{{Path: "a", Mode: File, Size: 1, Open: func() (io.Reader, error) { return nil, errOpen }}}, errOpen},
		{"many entries", ok, Limits{Entries: 1}, []Entry{file("a"), file("b")}, ErrTooLarge},
		{"much content", ok, Limits{ContentSize: 2000}, []Entry{file("a")}, ErrTooLarge},
		{"large result", ok, Limits{Size: 100}, []Entry{file("a")}, ErrTooLarge},
		{"no commit", Header{"", when, ""}, Limits{}, nil, ErrInvalid},
		{"commit in upper case", Header{strings.ToUpper(commitOID), when, ""}, Limits{}, nil, ErrInvalid},
		{"before 1970", Header{commitOID, time.Unix(-1, 0), ""}, Limits{}, nil, ErrInvalid},
		{"prefix without slash", Header{commitOID, when, "a"}, Limits{}, nil, ErrInvalid},
		{"prefix of two", Header{commitOID, when, "a/b/"}, Limits{}, nil, ErrInvalid},
		{"prefix dot dot", Header{commitOID, when, "../"}, Limits{}, nil, ErrInvalid},
		{"prefix slash", Header{commitOID, when, "/"}, Limits{}, nil, ErrInvalid},
		{"long prefix", Header{commitOID, when, strings.Repeat("a", MaxPrefix) + "/"}, Limits{}, nil, ErrInvalid},
	}
	for _, tt := range tests {
		_, err := NewBuilder(scratch(t), Form2, tt.lim).Build(t.Context(), io.Discard, tt.header, all(tt.entries))
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: err = %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestBuildEnds(t *testing.T) {
	t.Parallel()
	t.Run("with its context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		entries := func(yield func(Entry, error) bool) {
			for _, e := range fixtures()["big files"].entries() {
				cancel()
				if !yield(e, nil) {
					return
				}
			}
		}
		_, err := NewBuilder(scratch(t), Form2, Limits{}).Build(ctx, io.Discard, Header{commitOID, when, ""}, entries)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("err = %v, want %v", err, context.Canceled)
		}
	})
	t.Run("with its entries", func(t *testing.T) {
		want := errors.New("bad tree")
		entries := func(yield func(Entry, error) bool) { yield(Entry{}, want) }
		_, err := NewBuilder(scratch(t), Form2, Limits{}).Build(t.Context(), io.Discard, Header{commitOID, when, ""}, entries)
		if !errors.Is(err, want) {
			t.Errorf("err = %v, want %v", err, want)
		}
	})
	t.Run("with its scratch file", func(t *testing.T) {
		f := scratch(t)
		f.Close()
		more := tree{"more than is held in memory": {mode: File, content: noise(1, maxMemory+maxChunk)}}
		_, err := NewBuilder(f, Form2, Limits{}).Build(t.Context(), io.Discard, Header{commitOID, when, ""}, all(more.entries()))
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("err = %v, want %v", err, os.ErrClosed)
		}
	})
	t.Run("with its writer", func(t *testing.T) {
		pr, pw := io.Pipe()
		pr.Close()
		_, err := NewBuilder(scratch(t), Form2, Limits{}).Build(t.Context(), pw, Header{commitOID, when, ""}, all(nil))
		if !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("err = %v, want %v", err, io.ErrClosedPipe)
		}
	})
}

func TestWrap(t *testing.T) {
	t.Parallel()
	dir := func(p string) Entry { return Entry{Path: p, Mode: Directory} }
	file := func(p string) Entry { return Entry{Path: p, Mode: File} }
	tests := []struct {
		name     string
		pkg, tag string
		entries  []Entry
		want     string
	}{
		{"nothing", "p", "v1", nil, ""},
		{"files", "p", "v1", []Entry{file("a"), file("b")}, ""},
		{"one file", "p", "v1", []Entry{file("a")}, "p-v1/"},
		{"one directory", "p", "v1", []Entry{dir("a"), file("a/b"), file("a/c")}, "p-v1/"},
		{"two directories", "p", "v1", []Entry{dir("a"), file("a/b"), dir("c"), file("c/d")}, ""},
		{"two directories, one empty", "p", "v1", []Entry{dir("a"), file("a/b"), dir("c"), dir("c/d")}, "p-v1/"},
		{"directory and submodule", "p", "v1", []Entry{dir("a"), file("a/b"), {Path: "c", Mode: Submodule}}, ""},
		{"slash in tag", "p", "release/v1", []Entry{file("a")}, "p-release-v1/"},
		{"long tag", "p", strings.Repeat("ü", 60), []Entry{file("a")}, "p-" + strings.Repeat("ü", 48) + "/"},
	}
	for _, tt := range tests {
		got, err := Wrap(tt.pkg, tt.tag, all(tt.entries))
		if err != nil || got != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.name, got, err, tt.want)
		}
		if err := checkHeader(Header{commitOID, when, got}); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// Bytes must not depend on what was built before, on what is built at the same time, or on the machine.
func TestBuildIsDeterministic(t *testing.T) {
	trees := fixtures()
	want := map[string]Info{}
	for name, tr := range trees {
		_, want[name] = build(t, NewBuilder(scratch(t), Form2, Limits{}), Header{commitOID, when, ""}, tr.entries())
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for procs := 1; procs <= 4; procs++ {
		runtime.GOMAXPROCS(procs)
		shared := NewBuilder(scratch(t), Form2, Limits{})
		var wg sync.WaitGroup
		for range 3 {
			for name, tr := range trees {
				wg.Go(func() {
					info, err := shared.Build(t.Context(), io.Discard, Header{commitOID, when, ""}, all(tr.entries()))
					if err != nil || info != want[name] {
						t.Errorf("%d processors: %s: got %+v, %v, want %+v", procs, name, info, err, want[name])
					}
				})
			}
		}
		wg.Wait()
	}
}

// A writer that deflated other chunks before must do as a new one does.
func TestDeflateForgets(t *testing.T) {
	t.Parallel()
	used := newChunkCache(0, scratch(t))
	for i := range uint64(60) {
		chunk := prose(i%20, 1+int(i*i*7)%100000) + noise(i%3, int(i%5)*1000)
		fresh := newChunkCache(0, scratch(t))
		var got, want bytes.Buffer
		if err := used.write(&got, used.deflate([]byte(chunk))); err != nil {
			t.Fatal(err)
		}
		if err := fresh.write(&want, fresh.deflate([]byte(chunk))); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Fatalf("chunk %d: got %d bytes, want %d others", i, got.Len(), want.Len())
		}
	}
}

func TestCutter(t *testing.T) {
	t.Parallel()
	data := []byte(noise(1, 4<<20))
	lengths := func(data []byte, step int) (ls []int) {
		var c cutter
		for start, end := 0, 0; end < len(data); {
			end = min(end+step, start+maxChunk, len(data))
			k := c.cut(data[start:end])
			if k == 0 && end-start == maxChunk {
				k, c = maxChunk, cutter{}
			}
			if k > 0 {
				ls = append(ls, k)
				start += k
				end = start
			}
		}
		return ls
	}
	want := lengths(data, maxChunk)
	if len(want) < 16 {
		t.Errorf("got %d chunks of 4 MiB, want 32 or so", len(want))
	}
	for _, step := range []int{1, 1000, readSize} {
		if got := lengths(data, step); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("step %d: got %v, want %v", step, got, want)
		}
	}
	for _, n := range want {
		if n < minChunk || n > maxChunk {
			t.Errorf("got a chunk of %d bytes", n)
		}
	}

	// An insertion changes the chunks around it only.
	moved := lengths(append([]byte(noise(2, 1000)), data...), maxChunk)
	if got, want := fmt.Sprint(moved[len(moved)-10:]), fmt.Sprint(want[len(want)-10:]); got != want {
		t.Errorf("after an insertion: got %v, want %v", got, want)
	}
}

func TestCompress(t *testing.T) {
	t.Parallel()
	scratch, err := os.Create(t.TempDir() + "/scratch")
	if err != nil {
		t.Fatal(err)
	}
	defer scratch.Close()
	want := noise(1, 3*maxChunk+17)
	write := func(w io.Writer) error { _, err := io.WriteString(w, want); return err }
	var out bytes.Buffer
	info, err := Compress(&out, scratch, Limits{}, write)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(out.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || string(got) != want || info.Size != int64(out.Len()) || info.ContentSize != int64(len(want)) {
		t.Errorf("%d bytes come out, %v, %+v; want %d", len(got), err, info, len(want))
	}
	if _, err := Compress(io.Discard, scratch, Limits{ContentSize: 100}, write); !errors.Is(err, ErrTooLarge) {
		t.Errorf("beyond the limit: err = %v, want ErrTooLarge", err)
	}
}
