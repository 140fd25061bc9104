package faults

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zlib"

	"github.com/francescobianco/packbase/storage/pktline"
)

// Types of objects and of deltas. gitformat-pack(5), "Object types".
const (
	commitType = 1
	treeType   = 2
	blobType   = 3
	tagType    = 4
	ofsType    = 6
	refType    = 7
)

// A packer makes a pack object by object, with whatever lies a test needs.
type packer struct {
	body  bytes.Buffer
	count int
	zip   *zlib.Writer
	whole map[string]bool // ids of objects that are there
}

func newPacker() *packer { return &packer{whole: map[string]bool{}} }

// entry adds one entry and returns its offset. size is what its header says,
// base what stands between header and content.
func (p *packer) entry(kind, size int, base string, content io.Reader) int {
	at := 12 + p.body.Len()
	b := byte(kind)<<4 | byte(size&15)
	for size >>= 4; size > 0; size >>= 7 {
		p.body.WriteByte(b | 0x80)
		b = byte(size & 0x7f)
	}
	p.body.WriteByte(b)
	p.body.WriteString(base)
	if p.zip == nil {
		p.zip = zlib.NewWriter(nil)
	}
	p.zip.Reset(&p.body)
	_, err := io.Copy(p.zip, content)
	if err == nil {
		err = p.zip.Close()
	}
	if err != nil {
		panic(err) // a buffer takes everything
	}
	p.count++
	return at
}

// object adds a whole object, unless it is there, and returns its id.
func (p *packer) object(kind int, content string) string {
	id := objectID(kind, content)
	if !p.whole[id] {
		p.entry(kind, len(content), "", strings.NewReader(content))
		p.whole[id] = true
	}
	return id
}

// ofs adds a delta to the entry at an offset, ref one to an object.
func (p *packer) ofs(base int, delta string) int {
	return p.entry(ofsType, len(delta), distance(12+p.body.Len()-base), strings.NewReader(delta))
}

func (p *packer) ref(base, delta string) int {
	return p.entry(refType, len(delta), rawID(base), strings.NewReader(delta))
}

func (p *packer) blob(content string) string { return p.object(blobType, content) }

// objectID returns the id of an object that need not be anywhere.
func objectID(kind int, content string) string {
	name := map[int]string{commitType: "commit", treeType: "tree", blobType: "blob", tagType: "tag"}[kind]
	s := sha1.Sum(fmt.Appendf(nil, "%s %d\x00%s", name, len(content), content))
	return hex.EncodeToString(s[:])
}

// tree adds a tree of entries, each "MODE NAME" and an id, in their order.
func (p *packer) tree(entries ...string) string { return p.object(treeType, treeOf(entries...)) }

func treeOf(entries ...string) string {
	var b strings.Builder
	for pair := range slices.Chunk(entries, 2) {
		b.WriteString(pair[0] + "\x00" + rawID(pair[1]))
	}
	return b.String()
}

// rawID returns an id as objects have it.
func rawID(oid string) string {
	raw, err := hex.DecodeString(oid)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// commit adds a commit of a tree.
func (p *packer) commit(tree string) string { return p.object(commitType, commitOf(tree)) }

func commitOf(tree string) string {
	return "tree " + tree + "\nauthor a <a@example.com> 1700000000 +0000\ncommitter a <a@example.com> 1700000000 +0000\n\nmade by hand\n"
}

// tag adds an annotated tag that says it names an object of a kind.
func (p *packer) tag(name, kind, oid string) string {
	return p.object(tagType, fmt.Sprintf("object %s\ntype %s\ntag %s\ntagger a <a@example.com> 1700000000 +0000\n\nmade by hand\n", oid, kind, name))
}

// good adds a commit that there is nothing to say against.
func (p *packer) good() string {
	return p.commit(p.tree("100644 README.md", p.blob("good\n"), "100644 build.zig", p.blob("// good\n")))
}

// lie returns the pack with a header that promises count objects.
func (p *packer) lie(count uint32) string {
	b := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), count)
	return seal(string(b) + p.body.String())
}

func (p *packer) String() string { return p.lie(uint32(p.count)) }

// seal appends the trailer of a pack.
func seal(pack string) string {
	s := sha1.Sum([]byte(pack))
	return pack + string(s[:])
}

// distance encodes how far before a delta its base is.
func distance(n int) string {
	b := []byte{byte(n & 0x7f)}
	for n >>= 7; n > 0; n >>= 7 {
		n--
		b = append([]byte{0x80 | byte(n&0x7f)}, b...)
	}
	return string(b)
}

// delta returns instructions after the two sizes that they claim.
func delta(base, result int, instructions ...string) string {
	b := binary.AppendUvarint(nil, uint64(base))
	return string(binary.AppendUvarint(b, uint64(result))) + strings.Join(instructions, "")
}

func insertBytes(s string) string { return string(byte(len(s))) + s }

func copyBytes(off, n int) string {
	return string([]byte{0xff, byte(off), byte(off >> 8), byte(off >> 16), byte(off >> 24), byte(n), byte(n >> 8), byte(n >> 16)})
}

// pkt returns one pkt-line.
func pkt(s string) string { return pktline.Lines(s) }

// Capabilities and the beginning of an answer, as Git has them.
const capabilities = "multi_ack thin-pack side-band side-band-64k ofs-delta shallow no-progress include-tag agent=git/2"

var (
	listHead = pkt("# service=git-upload-pack\n") + "0000"
	packHead = "0000" + pkt("NAK\n")
)

// list returns a ref list of names and ids, one after the other.
func list(refs ...string) string {
	var b strings.Builder
	b.WriteString(listHead)
	for n, pair := range slices.Collect(slices.Chunk(refs, 2)) {
		line := pair[1] + " " + pair[0]
		if n == 0 {
			line += "\x00" + capabilities
		}
		b.WriteString(pkt(line + "\n"))
	}
	return b.String() + "0000"
}

// band returns data on a channel of the side band, in packets.
func band(channel byte, data string) string {
	var b strings.Builder
	for part := range slices.Chunk([]byte(data), 60_000) {
		b.WriteString(pkt(string(channel) + string(part)))
	}
	return b.String()
}

// A hostile upstream answers each path as its test wants.
type hostile struct {
	URL string

	mu      sync.Mutex
	answers map[string]answers
}

// answers are those of one repository: to requests for its refs and its pack.
type answers struct{ list, pack http.HandlerFunc }

func newHostile(t *testing.T) *hostile {
	t.Helper()
	h := &hostile{answers: map[string]answers{}}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	h.URL = srv.URL
	return h
}

// add makes a repository and returns its URL.
func (h *hostile) add(name string, a answers) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers[name] = a
	return h.URL + "/" + name
}

func (h *hostile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	a := h.answers[strings.Split(r.URL.Path, "/")[1]]
	h.mu.Unlock()
	switch {
	case a.list != nil && strings.HasSuffix(r.URL.Path, "/info/refs"):
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		a.list(w, r)
	case a.pack != nil && strings.HasSuffix(r.URL.Path, "/git-upload-pack"):
		_, _ = io.Copy(io.Discard, r.Body) // else nobody sees that the client is gone
		w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
		a.pack(w, r)
	default:
		http.NotFound(w, r)
	}
}

func say(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) } // the client may be gone
}

// sayPack answers with a pack.
func sayPack(pack string) http.HandlerFunc { return say(packHead + band(1, pack) + "0000") }

// endless says head and then s again and again.
func endless(head, s string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, err := io.WriteString(w, head)
		for err == nil && r.Context().Err() == nil {
			_, err = io.WriteString(w, s)
		}
	}
}
