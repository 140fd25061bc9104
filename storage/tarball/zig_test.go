package tarball

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
)

// realZigs returns the programs that PACKBASE_TEST_ZIGS lists, colon-separated.
func realZigs(t *testing.T) []string {
	t.Helper()
	list := os.Getenv("PACKBASE_TEST_ZIGS")
	if list == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("PACKBASE_TEST_ZIGS is not set")
		}
		t.Skip("PACKBASE_TEST_ZIGS does not name any zig program")
	}
	return filepath.SplitList(list)
}

// A zigReader is inflate.zig, compiled by one Zig.
type zigReader string

// newZigReader compiles inflate.zig, unless the user's cache has it: that takes ten seconds or more. ReleaseSafe
// makes a panic of what is undefined behaviour in the zig program itself.
func newZigReader(t *testing.T, zig string) zigReader {
	t.Helper()
	source, err := os.ReadFile("testdata/inflate.zig")
	if err != nil {
		t.Fatal(err)
	}
	version, err := exec.CommandContext(t.Context(), zig, "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "packbase", "inflate")
	program := filepath.Join(dir, fmt.Sprintf("%x", sha256.Sum256(append(version, source...)))[:32])
	if _, err := os.Stat(program); err == nil {
		return zigReader(program)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	built := filepath.Join(t.TempDir(), "inflate")
	cmd := exec.CommandContext(t.Context(), zig, "build-exe", "-OReleaseSafe", "-femit-bin="+built, "testdata/inflate.zig")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("zig build-exe: %v\n%s", err, out)
	}
	// The cache may be on another file system, and other tests may look for the program.
	fresh, err := os.CreateTemp(dir, "fresh-*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(fresh.Name())
	b, err := os.ReadFile(built)
	if err == nil {
		_, err = fresh.Write(b)
	}
	if err := errors.Join(err, fresh.Chmod(0o755), fresh.Close(), os.Rename(fresh.Name(), program)); err != nil {
		t.Fatal(err)
	}
	return zigReader(program)
}

// read has Zig read tarballs, and returns what the program printed of each before it ended or crashed.
func (z zigReader) read(t *testing.T, targz ...[]byte) (sums [][]string, crash string) {
	t.Helper()
	dir := t.TempDir()
	for i, b := range targz {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), string(z))
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	sums = make([][]string, len(targz))
	for line := range strings.Lines(string(out)) {
		var i int
		var sum string
		if n, _ := fmt.Sscanf(line, "%d %64s\n", &i, &sum); n == 2 && i < len(sums) && len(sum) == 64 {
			sums[i] = append(sums[i], sum)
		}
	}
	if err != nil {
		return sums, fmt.Sprintf("%v\n%.2000s", err, out)
	}
	return sums, ""
}

// wantSum is what inflate.zig prints of a tar stream.
func wantSum(t *testing.T, stream []byte) string {
	t.Helper()
	hash := sha256.New()
	r := tar.NewReader(bytes.NewReader(stream))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return fmt.Sprintf("%x", hash.Sum(nil))
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		io.WriteString(hash, h.Name+h.Linkname)
		if _, err := io.Copy(hash, r); err != nil {
			t.Fatal(err)
		}
	}
}

// streams is how many tarballs TestZigReads generates; PACKBASE_TEST_LONG says another number.
func streams(t *testing.T) uint64 {
	long := os.Getenv("PACKBASE_TEST_LONG")
	if long == "" {
		return 300
	}
	n, err := strconv.ParseUint(long, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Every Zig reads the tarballs that are written now, whatever is in them and wherever chunks are joined.
func TestZigReads(t *testing.T) {
	t.Parallel()
	zigs := realZigs(t)
	var all [][]byte
	var want []string
	for seed := range streams(t) {
		targz, stream := generated(t, seed)
		all, want = append(all, targz), append(want, wantSum(t, stream))
	}
	for _, zig := range zigs {
		t.Run(filepath.Base(filepath.Dir(zig)), func(t *testing.T) {
			t.Parallel()
			sums, crash := newZigReader(t, zig).read(t, all...)
			for i, sums := range sums {
				if len(sums) == 0 || slices.ContainsFunc(sums, func(s string) bool { return s != want[i] }) {
					t.Fatalf("stream %d: read as %q, want %s; %s", i, sums, want[i], crash)
				}
			}
		})
	}
}

// Zig 0.15 crashes on Form1 in each way that the package comment tells of. If it does not, TestZigReads proves nothing.
func TestZig015Crashes(t *testing.T) {
	t.Parallel()
	zigs := realZigs(t)
	i := slices.IndexFunc(zigs, func(zig string) bool {
		out, err := exec.Command(zig, "version").Output()
		return err == nil && strings.HasPrefix(string(out), "0.15.")
	})
	if i < 0 {
		t.Skip("there is no Zig 0.15 in PACKBASE_TEST_ZIGS")
	}
	zig := newZigReader(t, zigs[i])
	for name, c := range crashing(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if sums, crash := zig.read(t, joinedAt(t, Form1, c.stream, c.joints)); crash == "" {
				t.Errorf("read Form1 as %q, want a crash", sums)
			}
			sums, crash := zig.read(t, joinedAt(t, Form2, c.stream, c.joints))
			if want := wantSum(t, c.stream); crash != "" || len(sums[0]) != 2 || sums[0][0] != want || sums[0][1] != want {
				t.Errorf("read Form2 as %q, want %s; %s", sums, want, crash)
			}
		})
	}
}

type joined struct {
	stream []byte
	joints []int
}

func crashing(t *testing.T) map[string]joined {
	text := tarOf(t, prose(1, 100<<10))
	zeros := tarOf(t, strings.Repeat("\x00", 1<<20))
	return map[string]joined{
		// The compressor's first block has 65535 bytes, and the zeros after it are a fixed one.
		"match of a fixed block at the end of the window": {tarOf(t, prose(1, 63000)), nil},
		"stored block at the end of the window":           {text, every(len(text), 32<<10)},
		"stored block after the input was moved":          {zeros, every(len(zeros), 18902)}, // found by trying
	}
}

func every(size, n int) (joints []int) {
	for at := n; at < size; at += n {
		joints = append(joints, at)
	}
	return joints
}

// joinedAt returns a stream as Build would, if it were joined at these places.
func joinedAt(t *testing.T, form Form, stream []byte, joints []int) []byte {
	t.Helper()
	out := []byte(gzipHeader)
	last := 0
	for _, at := range append(slices.Clone(joints), len(stream)) {
		w, err := flate.NewWriter(nil, level)
		if err != nil {
			t.Fatal(err)
		}
		chunk, err := form.deflate(w, stream[last:at])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, chunk...)
		last = at
	}
	out = append(out, lastBlock...)
	out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(stream))
	return binary.LittleEndian.AppendUint32(out, uint32(len(stream)))
}

// tarOf returns the tar stream of one file.
func tarOf(t *testing.T, content string) []byte {
	targz, _ := build(t, NewBuilder(scratch(t), Form1, Limits{}), Header{commitOID, when, ""}, tree{"a": {File, content}}.entries())
	return inflated(t, targz)
}

func inflated(t *testing.T, targz []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(targz))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// generated returns a tarball in Form2 and its tar stream: every other one as Build makes it, the others joined where
// Build would hardly ever join, above all where the window of Zig 0.15 is full.
func generated(t *testing.T, seed uint64) (targz, stream []byte) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 2))
	tr := tree{}
	for i := range 1 + r.IntN(8) {
		size := r.IntN(1 << (6 + r.IntN(11)))
		if r.IntN(4) == 0 {
			size = 32<<10*(1+r.IntN(3)) - r.IntN(4)*recordSize
		}
		tr[strings.Repeat("d/", r.IntN(3))+strings.Repeat("n", 1+r.IntN(200))+strconv.Itoa(i)] = leaf{File, mixed(r, size)}
	}
	targz, _ = build(t, NewBuilder(scratch(t), Form2, Limits{}), Header{commitOID, when, ""}, tr.entries())
	stream = inflated(t, targz)
	if seed%2 == 0 {
		return targz, stream
	}
	step := []int{700, 10 << 10, 32 << 10, 64 << 10, 65535}[r.IntN(5)]
	var joints []int
	for at := step - r.IntN(2)*r.IntN(step); at < len(stream); at += step {
		joints = append(joints, at)
	}
	return joinedAt(t, Form2, stream, joints), stream
}

// mixed returns n bytes made of pieces that deflate well, badly and not at all.
func mixed(r *rand.Rand, n int) string {
	var b strings.Builder
	for b.Len() < n {
		k := 1 + r.IntN(1<<(4+r.IntN(14)))
		switch r.IntN(5) {
		case 0:
			b.WriteString(noise(r.Uint64(), k))
		case 1:
			b.WriteString(prose(r.Uint64(), k))
		case 2:
			b.WriteString(letters(r.Uint64(), k))
		case 3:
			b.WriteString(strings.Repeat(noise(r.Uint64(), 1+r.IntN(3)), k))
		case 4:
			b.WriteString(strings.Repeat("\x00", k))
		}
	}
	return b.String()[:n]
}

// letters returns n bytes that deflate, as literals only.
func letters(seed uint64, n int) string {
	b := []byte(noise(seed, 2*n))
	for i := range n {
		b[i] = '0' + min(b[2*i]&63, b[2*i+1]&63)
	}
	return string(b[:n])
}
