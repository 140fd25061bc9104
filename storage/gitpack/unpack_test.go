package gitpack

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zlib"
)

// A testPack is a pack made entry by entry, with whatever lies a test needs.
type testPack struct {
	body  bytes.Buffer
	count int
	zip   *zlib.Writer
}

// entry adds one entry and returns its offset. size is what its header says,
// base what stands between header and content.
func (p *testPack) entry(typ Type, size int, base, content []byte) int64 {
	at := packHeaderBytes + int64(p.body.Len())
	b := byte(typ)<<4 | byte(size&15)
	for size >>= 4; size > 0; size >>= 7 {
		p.body.WriteByte(b | 0x80)
		b = byte(size & 0x7f)
	}
	p.body.WriteByte(b)
	p.body.Write(base)
	if p.zip == nil {
		p.zip = zlib.NewWriter(nil)
	}
	p.zip.Reset(&p.body)
	p.zip.Write(content)
	p.zip.Close()
	p.count++
	return at
}

func (p *testPack) whole(typ Type, content string) int64 {
	return p.entry(typ, len(content), nil, []byte(content))
}

func (p *testPack) ofs(base int64, delta []byte) int64 {
	return p.entry(ofsDelta, len(delta), distance(packHeaderBytes+int64(p.body.Len())-base), delta)
}

func (p *testPack) ref(base OID, delta []byte) int64 {
	return p.entry(refDelta, len(delta), base[:], delta)
}

// bytes returns the pack with a header that promises count objects.
func (p *testPack) bytes(count uint32) []byte {
	b := append([]byte("PACK\x00\x00\x00\x02"), binary.BigEndian.AppendUint32(nil, count)...)
	return seal(append(b, p.body.Bytes()...))
}

func (p *testPack) whatItIs() []byte { return p.bytes(uint32(p.count)) }

// seal appends the trailer of a pack.
func seal(b []byte) []byte {
	sum := sha1.Sum(b)
	return append(b, sum[:]...)
}

func distance(n int64) []byte {
	b := []byte{byte(n & 0x7f)}
	for n >>= 7; n > 0; n >>= 7 {
		n--
		b = append([]byte{0x80 | byte(n&0x7f)}, b...)
	}
	return b
}

// delta returns delta instructions after the two sizes that they claim.
func delta(base, result int, ops ...[]byte) []byte {
	b := binary.AppendUvarint(nil, uint64(base))
	b = binary.AppendUvarint(b, uint64(result))
	return append(b, slices.Concat(ops...)...)
}

func insertOp(s string) []byte { return append([]byte{byte(len(s))}, s...) }

func copyOp(off, n uint32) []byte {
	return []byte{0xff, byte(off), byte(off >> 8), byte(off >> 16), byte(off >> 24), byte(n), byte(n >> 8), byte(n >> 16)}
}

func oid(typ Type, content string) OID {
	return sha1.Sum(fmt.Appendf(nil, "%s %d\x00%s", typ, len(content), content))
}

// tempFile returns an open file without a name.
func tempFile(t testing.TB, content []byte) *os.File {
	t.Helper()
	f, err := os.CreateTemp("", "gitpack")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	return f
}

func unpack(t testing.TB, pack []byte, lim Limits) (*Objects, error) {
	t.Helper()
	return Unpack(t.Context(), tempFile(t, pack), tempFile(t, nil), lim, nil)
}

// code returns the code of an *Error, "" for nil, and else the error itself.
func code(err error) string {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	}
	return err.Error()
}

func content(t testing.TB, o *Objects, id OID) string {
	t.Helper()
	r, err := o.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// git runs git in dir, with no configuration but its own, and returns its output.
func git(t testing.TB, dir, stdin string, args ...string) string {
	t.Helper()
	var stderr strings.Builder
	cmd := gitCommand(dir, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func gitCommand(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	return cmd
}

// newRepository makes a repository of commits that change a large, a middling
// and many small files, with tags, and returns its directory.
func newRepository(t testing.TB, commits, large int) string {
	t.Helper()
	dir := t.TempDir()
	git(t, dir, "", "init", "-q", "--bare")
	rnd := rand.NewChaCha8([32]byte{1})
	text := func(n int) []byte {
		b := make([]byte, n)
		rnd.Read(b)
		return []byte(base64.StdEncoding.EncodeToString(b)[:n])
	}
	blobs := [][]byte{text(large), text(large / 5), nil}
	for range 30 {
		blobs = append(blobs, text(int(rnd.Uint64()%4000)))
	}
	var in bytes.Buffer
	for n := range commits {
		for k := range blobs {
			if b := blobs[k]; len(b) > 0 {
				copy(b[int(rnd.Uint64()%uint64(len(b))):], fmt.Sprintf("<%d>", n))
			}
		}
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter c <c@example.com> %d +0000\ndata 2\nm\n", 1700000000+n)
		for k, b := range blobs {
			fmt.Fprintf(&in, "M 100644 inline d%d/f%d\ndata %d\n%s\n", k%5, k, len(b), b)
		}
		fmt.Fprintf(&in, "tag v%d\nfrom refs/heads/main\ntagger c <c@example.com> 1700000000 +0000\ndata 2\nt\n", n)
	}
	git(t, dir, in.String(), "fast-import", "--quiet")
	return dir
}

func TestUnpackRealPacks(t *testing.T) {
	t.Parallel()
	dir := newRepository(t, 25, 300_000)
	list := git(t, dir, "", "rev-list", "--objects", "--no-object-names", "--all")
	want := git(t, dir, list, "cat-file", "--batch")
	for _, args := range []string{
		"--delta-base-offset --depth=50 --window=30",
		"--depth=4095 --window=10", // REF_DELTA
		"--delta-base-offset --depth=0",
		"--delta-base-offset --compression=0",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			pack := git(t, dir, list, append([]string{"pack-objects", "-q", "--stdout", "--no-reuse-delta"}, strings.Fields(args)...)...)
			last := 0
			o, err := Unpack(t.Context(), tempFile(t, []byte(pack)), tempFile(t, nil), DefaultLimits(), func(done, total int) {
				if done != last+1 || total != strings.Count(list, "\n") {
					t.Errorf("progress(%d, %d) after %d", done, total, last)
				}
				last = done
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := catFile(t, o, list); got != want {
				t.Error("objects differ from those of git cat-file --batch")
			}
			if o.Len() != last {
				t.Errorf("Len() = %d, want %d", o.Len(), last)
			}
		})
	}
}

// catFile answers as git cat-file --batch does.
func catFile(t *testing.T, o *Objects, list string) string {
	var out strings.Builder
	for line := range strings.Lines(list) {
		id, err := ParseOID(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		obj, ok := o.Stat(id)
		if !ok {
			t.Fatalf("object %s is missing", id)
		}
		fmt.Fprintf(&out, "%s %s %d\n%s\n", id, obj.Type, obj.Size, content(t, o, id))
	}
	return out.String()
}

// Deltas may stand before their bases, in any order.
func TestUnpackAnyOrder(t *testing.T) {
	t.Parallel()
	texts := []string{"the whole base"}
	for n := range 40 {
		texts = append(texts, texts[n/2]+fmt.Sprintf(" and %d", n))
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 20 {
		var p testPack
		at := make(map[int]int64)
		for _, n := range rnd.Perm(len(texts)) {
			if n == 0 {
				at[n] = p.whole(Blob, texts[0])
				continue
			}
			base := (n - 1) / 2
			d := delta(len(texts[base]), len(texts[n]),
				copyOp(0, uint32(len(texts[base]))), insertOp(texts[n][len(texts[base]):]))
			if off, ok := at[base]; ok && round%2 == 0 {
				at[n] = p.ofs(off, d)
			} else {
				at[n] = p.ref(oid(Blob, texts[base]), d)
			}
		}
		p.whole(Blob, texts[rnd.IntN(len(texts))]) // a second copy of one
		o, err := unpack(t, p.whatItIs(), DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if got := content(t, o, oid(Blob, text)); got != text {
				t.Errorf("got %q, want %q", got, text)
			}
		}
		if o.Len() != len(texts) {
			t.Errorf("Len() = %d, want %d", o.Len(), len(texts))
		}
	}
}

// A base too large for the buffer is copied range by range.
func TestUnpackLargeBase(t *testing.T) {
	t.Parallel()
	base := strings.Repeat("0123456789abcdef", maxBaseBytes/16+1)
	var p testPack
	at := p.whole(Blob, base)
	p.ofs(at, delta(len(base), 7, copyOp(5, 3), insertOp("+"), copyOp(uint32(len(base)-3), 3)))
	p.ofs(at, delta(len(base), 1<<16, []byte{0x80})) // all defaults: 64 KiB from 0
	o, err := unpack(t, p.whatItIs(), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"567+def", base[:1<<16]} {
		if got := content(t, o, oid(Blob, want)); got != want {
			t.Errorf("got %.20q, want %.20q", got, want)
		}
	}
}

func TestUnpackHostile(t *testing.T) {
	t.Parallel()
	lim := DefaultLimits()
	lim.ObjectBytes, lim.InflatedBytes, lim.DeltaDepth, lim.Objects = 1<<20, 4<<20, 50, 1000
	lim.PackBytes = 1 << 20
	one := func(add func(p *testPack)) []byte {
		var p testPack
		add(&p)
		return p.whatItIs()
	}
	// onBase is a pack of the blob "base" and one delta on it.
	onBase := func(d []byte) []byte {
		return one(func(p *testPack) { p.ofs(p.whole(Blob, "base"), d) })
	}
	hello := one(func(p *testPack) { p.whole(Blob, "hello") })
	count := func(n uint32) []byte {
		var p testPack
		p.whole(Blob, "hello")
		return p.bytes(n)
	}
	flipped := func(pack []byte, at int) []byte {
		pack = bytes.Clone(pack)
		pack[(at+len(pack))%len(pack)] ^= 1
		return pack
	}
	random := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(random)

	tests := []struct {
		name string
		pack []byte
		want string
	}{
		{"good", hello, ""},
		{"no objects", new(testPack).whatItIs(), ""},
		{"empty object", one(func(p *testPack) { p.whole(Blob, "") }), ""},
		{"good delta", onBase(delta(4, 5, copyOp(0, 4), insertOp("!"))), ""},
		{"delta to nothing", onBase(delta(4, 0)), ""},

		{"empty file", nil, CodePackMalformed},
		{"header only", hello[:12], CodePackMalformed},
		{"wrong magic", append([]byte("KCAP"), hello[4:]...), CodePackMalformed},
		{"version 3", append([]byte("PACK\x00\x00\x00\x03"), hello[8:]...), CodePackMalformed},
		{"count 2^32-1", count(1<<32 - 1), codeTooManyObjects},
		{"count 2^31", count(1 << 31), codeTooManyObjects},
		{"count 10^9", count(1_000_000_000), codeTooManyObjects},
		{"count flipped", flipped(hello, 8), CodePackMalformed},
		{"chain of 51, flipped", flipped(one(func(p *testPack) { chain(p, 51) }), -1), CodePackMalformed},
		{"count over what fits", count(999), CodePackMalformed},
		{"count one more", count(2), CodePackMalformed},
		{"count one less", count(0), CodePackMalformed},
		{"pack too large", one(func(p *testPack) { p.whole(Blob, string(random)) }), CodePackTooLarge},
		{"wrong trailer", append(bytes.Clone(hello[:len(hello)-1]), hello[len(hello)-1]^1), CodePackMalformed},
		{"trailing byte", seal(append(bytes.Clone(hello[:len(hello)-20]), 0)), CodePackMalformed},
		{"wrong adler", func() []byte {
			b := bytes.Clone(hello[:len(hello)-20])
			b[len(b)-1] ^= 1
			return seal(b)
		}(), CodePackMalformed},

		{"type 0", one(func(p *testPack) { p.whole(0, "x") }), CodePackMalformed},
		{"type 5", one(func(p *testPack) { p.whole(5, "x") }), CodePackMalformed},
		{"size too small", one(func(p *testPack) { p.entry(Blob, 4, nil, []byte("hello")) }), CodePackMalformed},
		{"size too small for a bomb", one(func(p *testPack) { p.entry(Blob, 4, nil, make([]byte, 8<<20)) }), CodePackMalformed},
		{"size too large", one(func(p *testPack) { p.entry(Blob, 6, nil, []byte("hello")) }), CodePackMalformed},
		{"size of 62 bits", one(func(p *testPack) { p.entry(Blob, 1<<62, nil, []byte("hello")) }), CodePackMalformed},
		{"zero bomb", one(func(p *testPack) { p.entry(Blob, 8<<20, nil, make([]byte, 8<<20)) }), CodeObjectTooLarge},
		{"tree bomb", one(func(p *testPack) { p.entry(Tree, 8<<20, nil, make([]byte, 8<<20)) }), CodeObjectTooLarge},
		{"many zero bombs", one(func(p *testPack) {
			for range 5 {
				p.whole(Blob, string(make([]byte, 1<<20)))
			}
		}), CodeInflatedTooLarge},
		{"zlib dictionary", one(func(p *testPack) {
			p.body.WriteString("\x35\x78\x20\x00\x00\x00\x01\x03\x00\x00\x00\x00\x01")
			p.count++
		}), CodePackMalformed},
		{"not zlib", one(func(p *testPack) { p.body.WriteString("\x35not compressed"); p.count++ }), CodePackMalformed},

		{"delta bomb", onBase(delta(4, 64<<20, copyOp(0, 4))), CodeObjectTooLarge},
		{"delta bomb in its own stream", one(func(p *testPack) {
			p.entry(ofsDelta, 64<<20, distance(int64(packHeaderBytes)+int64(p.body.Len())-p.whole(Blob, "base")), nil)
		}), CodePackMalformed},
		{"large delta of nothing", one(func(p *testPack) { p.ref(OID{1}, make([]byte, 2<<20)) }), CodeObjectTooLarge},
		{"doubling chain", one(func(p *testPack) {
			size, at := 1<<16, p.whole(Blob, string(make([]byte, 1<<16)))
			for range 20 {
				at = p.ofs(at, delta(size, 2*size, copyOp(0, uint32(size)), copyOp(0, uint32(size))))
				size *= 2
			}
		}), CodeObjectTooLarge},
		{"chain of 50", one(func(p *testPack) { chain(p, 50) }), ""},
		{"chain of 51", one(func(p *testPack) { chain(p, 51) }), codeDeltaTooDeep},
		{"result too large for its size", onBase(delta(4, 3, copyOp(0, 4))), CodePackMalformed},
		{"result too small for its size", onBase(delta(4, 5, copyOp(0, 4))), CodePackMalformed},
		{"insert beyond result", onBase(delta(4, 1, insertOp("abc"))), CodePackMalformed},
		{"instructions after the result", onBase(delta(4, 4, copyOp(0, 4), insertOp("x"))), CodePackMalformed},
		{"wrong base size", onBase(delta(5, 4, copyOp(0, 4))), CodePackMalformed},
		{"copy past base", onBase(delta(4, 4, copyOp(1, 4))), CodePackMalformed},
		{"copy far past base", onBase(delta(4, 4, copyOp(1<<32-1, 4))), CodePackMalformed},
		{"instruction 0", onBase(delta(4, 4, []byte{0}, copyOp(0, 4))), CodePackMalformed},
		{"copy cut short", onBase(delta(4, 4, []byte{0x91, 0})), CodePackMalformed},
		{"insert cut short", onBase(delta(4, 4, []byte{4, 'a'})), CodePackMalformed},
		{"no instructions", onBase(nil), CodePackMalformed},
		{"endless size", onBase(bytes.Repeat([]byte{0xff}, 30)), CodePackMalformed},
		{"delta longer than its size", one(func(p *testPack) {
			at, d := p.whole(Blob, "base"), delta(4, 4, copyOp(0, 4))
			p.entry(ofsDelta, len(d)-1, distance(int64(packHeaderBytes)+int64(p.body.Len())-at), d)
		}), CodePackMalformed},
		{"delta shorter than its size", one(func(p *testPack) {
			at, d := p.whole(Blob, "base"), delta(4, 4, copyOp(0, 4))
			p.entry(ofsDelta, len(d)+1, distance(int64(packHeaderBytes)+int64(p.body.Len())-at), d)
		}), CodePackMalformed},

		{"own base by offset", one(func(p *testPack) { p.entry(ofsDelta, 2, distance(0), delta(0, 0)) }), CodePackMalformed},
		{"base before the start", one(func(p *testPack) { p.ofs(0, delta(4, 4, copyOp(0, 4))) }), CodePackMalformed},
		{"base far before the start", one(func(p *testPack) { p.ofs(-1<<62, delta(4, 4, copyOp(0, 4))) }), CodePackMalformed},
		{"base distance endless", one(func(p *testPack) { p.entry(ofsDelta, 2, bytes.Repeat([]byte{0xff}, 40), delta(0, 0)) }), CodePackMalformed},
		{"base between entries", one(func(p *testPack) { p.ofs(p.whole(Blob, "base")+1, delta(4, 4, copyOp(0, 4))) }), CodePackMalformed},
		{"base missing", one(func(p *testPack) { p.ref(oid(Blob, "base"), delta(4, 4, copyOp(0, 4))) }), CodePackMalformed},
		{"base named by the null id", one(func(p *testPack) { p.ref(OID{}, delta(0, 0)) }), CodePackMalformed},
		{"own base by id", one(func(p *testPack) { p.ref(oid(Blob, "self"), delta(4, 4, insertOp("self"))) }), CodePackMalformed},
		{"cycle of two", one(func(p *testPack) {
			p.ref(oid(Blob, "bb"), delta(2, 1, insertOp("a")))
			p.ref(oid(Blob, "a"), delta(1, 2, insertOp("bb")))
		}), CodePackMalformed},
		{"deltas on a cycle", one(func(p *testPack) {
			at := p.ref(oid(Blob, "bb"), delta(2, 1, insertOp("a")))
			p.ref(oid(Blob, "a"), delta(1, 2, insertOp("bb")))
			for range 500 {
				at = p.ofs(at, delta(1, 1, copyOp(0, 1)))
			}
		}), CodePackMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o, err := unpack(t, tt.pack, lim)
			if got := code(err); got != tt.want {
				t.Fatalf("err = %v, want code %q", err, tt.want)
			}
			if err == nil {
				checkIDs(t, o)
			}
		})
	}
}

// chain adds a blob and n deltas, each on the one before.
func chain(p *testPack, n int) {
	at := p.whole(Blob, "")
	for i := range n {
		at = p.ofs(at, delta(i, i+1, copyOp(0, uint32(i))[:min(8, 8*i)], insertOp("x")))
	}
}

// checkIDs checks that every object is what its id says.
func checkIDs(t testing.TB, o *Objects) {
	t.Helper()
	for id := range o.byID {
		obj, _ := o.Stat(id)
		if got := oid(obj.Type, content(t, o, id)); got != id {
			t.Errorf("content of %s has id %s", id, got)
		}
	}
}

// The longest chain that git makes is fine under the default limits.
func TestUnpackDeepChain(t *testing.T) {
	t.Parallel()
	var p testPack
	chain(&p, 4095)
	o, err := unpack(t, p.whatItIs(), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := o.Stat(oid(Blob, strings.Repeat("x", 4095))); !ok {
		t.Error("the last object of the chain is missing")
	}
}

// A deltas-first pack of a long chain takes linear time.
func TestUnpackBackwardChain(t *testing.T) {
	t.Parallel()
	var p testPack
	for n := 4000; n > 0; n-- {
		base := strings.Repeat("x", n-1)
		p.ref(oid(Blob, base), delta(n-1, n, copyOp(0, uint32(n-1))[:min(8, 8*(n-1))], insertOp("x")))
	}
	p.whole(Blob, "")
	o, err := unpack(t, p.whatItIs(), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	if o.Len() != 4001 {
		t.Errorf("Len() = %d, want 4001", o.Len())
	}
}

// Not parallel: it looks at the memory of the whole process.
func TestUnpackMemory(t *testing.T) {
	const size = 64 << 20
	var p testPack
	at := p.whole(Blob, strings.Repeat("\x00", size))
	var ops [][]byte
	for off := 0; off < size; off += 0xffffff {
		ops = append(ops, copyOp(uint32(off), uint32(min(0xffffff, size-off))))
	}
	p.ofs(at, delta(size, size+1, append(ops, insertOp("x"))...))
	pack, spool := tempFile(t, p.whatItIs()), tempFile(t, nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	o, err := Unpack(t.Context(), pack, spool, DefaultLimits(), nil)
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
		t.Errorf("allocated %d bytes for objects of %d", got, size)
	}
	if o.Len() != 2 {
		t.Errorf("Len() = %d, want 2", o.Len())
	}
}

func TestUnpackCancelled(t *testing.T) {
	t.Parallel()
	var p testPack
	for n := range 100 {
		p.whole(Blob, fmt.Sprint(n))
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Unpack(ctx, tempFile(t, p.whatItIs()), tempFile(t, nil), DefaultLimits(), func(done, _ int) {
		if done == 50 {
			cancel()
		}
		if done > 50 {
			t.Errorf("object %d after the context ended", done)
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want %v", err, context.Canceled)
	}
}

// What the disk does is not blamed on upstream.
func TestUnpackSpoolFails(t *testing.T) {
	t.Parallel()
	var p testPack
	p.ofs(p.whole(Blob, "base"), delta(4, 4, copyOp(0, 4)))
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	_, err = Unpack(t.Context(), tempFile(t, p.whatItIs()), full, DefaultLimits(), nil)
	var verdict *Error
	if err == nil || errors.As(err, &verdict) {
		t.Errorf("err = %v, want one that is no verdict", err)
	}
}

// UP-11, UP-12: whatever happens to a pack on its way, what comes out is
// nothing or the same tree. Half of the damage is sealed with a right trailer.
func TestUnpackDamaged(t *testing.T) {
	t.Parallel()
	dir := newRepository(t, 3, 5000)
	root, err := ParseOID(strings.TrimSpace(git(t, dir, "", "rev-parse", "main^{tree}")))
	if err != nil {
		t.Fatal(err)
	}
	list := git(t, dir, "", "rev-list", "--objects", "--no-object-names", "--all")
	pack := []byte(git(t, dir, list, "pack-objects", "-q", "--stdout", "--delta-base-offset"))
	good, err := unpack(t, pack, DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	want, err := good.Files(t.Context(), root, DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	accepted := 0
	for n := range 200 {
		b := bytes.Clone(pack)
		if n%4 < 2 {
			b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
		} else {
			b = b[:rnd.IntN(len(b))]
		}
		if n%2 == 0 && len(b) > 20 {
			b = seal(b[:len(b)-20])
		}
		o, err := unpack(t, b, DefaultLimits())
		if err != nil {
			if code(err) == err.Error() {
				t.Errorf("damage %d: %v is no verdict", n, err)
			}
			continue
		}
		accepted++
		checkIDs(t, o)
		got, err := o.Files(t.Context(), root, DefaultLimits())
		if err == nil && !slices.Equal(got.Files, want.Files) {
			t.Errorf("damage %d: another tree", n)
		}
	}
	t.Logf("%d of 200 damaged packs were accepted", accepted)
}

// Two beginnings of 320 bytes that have the same SHA-1: shattered.io.
// As blobs they differ, since Git hashes a header before them.
func TestSHA1Collision(t *testing.T) {
	t.Parallel()
	const (
		prefix = "JVBERi0xLjMKJeLjz9MKCgoxIDAgb2JqCjw8L1dpZHRoIDIgMCBSL0hlaWdodCAzIDAgUi9UeXBlIDQgMCBSL1N1YnR5cGUgNSAwIFIvRmlsdGVyIDYgMCBSL0NvbG9yU3BhY2UgNyAwIFIvTGVuZ3RoIDggMCBSL0JpdHNQZXJDb21wb25lbnQgOD4+CnN0cmVhbQr/2P/+ACRTSEEtMSBpcyBkZWFkISEhISGFL+wJIzl1nDmxocY8TJfh//4B"
		one    = "c0bckWa2fhGPApq2IbJWD/nKZ8yox/hbqEx5AwwrPeIY+G2zqQkB1d9FwU8m/t+z3DjpasIv571yjw5FvOBG0jxXD+sUE5i7VS71oKgr4zH+pIA3uLXXHw4zLt+TrDUA603cDezBqGR5DHgsdiFWYN0wl5HQa9CvP5jNpLxGKbE="
		two    = "f0bck6a2fgE7ApqqHbJWC0XKZ9aIx/hLjEx5H+ArPfYU+G2xaQkBxWtFwVMK/t+3YDjpcnIv561yjw5JBOBGwjBXD+nUE5ir4S71vJQr4zVCpIAtmLXXDyozLsN/rDUU503cDyzBqHTNDHgwWiFWZGEwl4lga9C/P5jNqARGKaE="
	)
	h := newHasher()
	for _, block := range []string{one, two} {
		raw, err := base64.StdEncoding.DecodeString(prefix + block)
		if err != nil {
			t.Fatal(err)
		}
		h.sha1.Reset()
		h.sha1.Write(raw)
		if _, err := h.id(); code(err) != codeSHA1Collision {
			t.Errorf("err = %v, want %s", err, codeSHA1Collision)
		}
		if _, err := h.sum(Blob, int64(len(raw)), bytes.NewReader(raw)); err != nil {
			t.Errorf("as a blob: %v", err)
		}
	}
}

func TestAdd(t *testing.T) {
	t.Parallel()
	o := NewObjects(tempFile(t, nil))
	for _, text := range []string{"", "one", "two", "one"} {
		id, err := o.Add(Blob, int64(len(text)), strings.NewReader(text+" and more"))
		if err != nil {
			t.Fatal(err)
		}
		if want := oid(Blob, text); id != want {
			t.Errorf("Add(%q) = %s, want %s", text, id, want)
		}
	}
	if _, err := o.Add(Blob, 10, strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("err = %v, want %v", err, io.ErrUnexpectedEOF)
	}
	if o.Len() != 3 {
		t.Errorf("Len() = %d, want 3", o.Len())
	}
	checkIDs(t, o)

	if _, err := o.Open(OID{1}); code(err) != CodeIncomplete {
		t.Errorf("err = %v, want %s", err, CodeIncomplete)
	}
	if _, err := o.Read(OID{1}, Blob, 10); code(err) != CodeIncomplete {
		t.Errorf("err = %v, want %s", err, CodeIncomplete)
	}
	if _, err := o.Read(oid(Blob, "one"), Tree, 10); code(err) != codeWrongType {
		t.Errorf("err = %v, want %s", err, codeWrongType)
	}
	if _, err := o.Read(oid(Blob, "one"), Blob, 2); code(err) != CodeObjectTooLarge {
		t.Errorf("err = %v, want %s", err, CodeObjectTooLarge)
	}
}

// Coverage depends on the scheduler, so give -fuzzminimizetime=10x.
func FuzzUnpack(f *testing.F) {
	var p testPack
	p.whole(Commit, "tree")
	at := p.whole(Blob, "base")
	p.ofs(at, delta(4, 5, copyOp(0, 4), insertOp("!")))
	p.ref(oid(Blob, "late"), delta(4, 5, copyOp(0, 4), insertOp("!")))
	p.whole(Blob, "late")
	b := p.whatItIs()
	f.Add(b[:len(b)-20])
	lim := DefaultLimits()
	lim.ObjectBytes, lim.InflatedBytes = 1<<20, 4<<20
	pack, spool := tempFile(f, nil), tempFile(f, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		b = seal(b)
		if err := pack.Truncate(int64(len(b))); err != nil {
			t.Fatal(err)
		}
		if _, err := pack.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		o, err := Unpack(t.Context(), pack, spool, lim, nil)
		if err != nil {
			if code(err) == err.Error() {
				t.Fatalf("%v is no verdict", err)
			}
			return
		}
		checkIDs(t, o)
	})
}

func BenchmarkUnpack(b *testing.B) {
	dir := newRepository(b, 100, 4<<20)
	list := git(b, dir, "", "rev-list", "--objects", "--no-object-names", "--all")
	pack := tempFile(b, []byte(git(b, dir, list, "pack-objects", "-q", "--stdout", "--delta-base-offset")))
	spool := tempFile(b, nil)
	var size int64
	for b.Loop() {
		o, err := Unpack(b.Context(), pack, spool, DefaultLimits(), nil)
		if err != nil {
			b.Fatal(err)
		}
		size = o.end
	}
	b.SetBytes(size) // inflated
}
