package smarthttp

import (
	"crypto/sha1"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/francescobianco/packbase/storage/pktline"
)

// Bounds of the packs that are kept. Others are read while they are sent.
const (
	maxKeptPack  = 512 << 10 // bytes of a pack
	maxKept      = 32 << 20  // bytes of them all
	maxKeptPacks = 4096
	maxSending   = 32 << 20 // bytes that are on their way to clients: of what is kept no longer, too
)

// kept has the packs of single releases in memory, as they go to clients: opening, reading and cutting a small one
// takes longer than to send it.
type kept struct {
	packs *lru.Cache[packKey, []byte]

	mu      sync.Mutex
	size    int // of packs, in bytes
	sending int
}

// A packKey names the bytes of an answer's pack.
type packKey struct {
	pkg      string
	trailer  [20]byte // the SHA-1 of the pack
	size     int64
	sideband int
}

func newKept() *kept {
	k := &kept{}
	k.packs, _ = lru.NewWithEvict(maxKeptPacks, func(_ packKey, b []byte) { k.size -= len(b) }) // the error is about sizes below one
	return k
}

// begin reports whether a pack may be sent from memory, and counts it until end.
func (k *kept) begin(size int64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if size > maxKeptPack || k.sending+int(size) > maxSending {
		return false
	}
	k.sending += int(size)
	return true
}

func (k *kept) end(size int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sending -= int(size)
}

// get returns what is kept, or else keeps what read returns.
func (k *kept) get(key packKey, read func() ([]byte, error)) ([]byte, error) {
	if b, ok := k.packs.Get(key); ok {
		return b, nil
	}
	b, err := read()
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.packs.Remove(key)
	k.packs.Add(key, b)
	for k.size += len(b); k.size > maxKept; {
		k.packs.RemoveOldest()
	}
	return b, nil
}

// errDamaged is about the store: it gave other bytes than it was given.
var errDamaged = &Error{Status: http.StatusServiceUnavailable, Code: "damaged", RetryAfter: 30 * time.Second,
	Message: "the stored bytes are damaged, and not served until they are mended; try again later"}

// framed returns a pack in packets of band 1, and the packet that ends them. The pack must be what its trailer says.
func framed(pack io.Reader, key packKey) ([]byte, error) {
	b := make([]byte, 0, framedLength(key.size, key.sideband))
	sum := sha1.New()
	for left := key.size; left > 0; {
		n := min(left, int64(key.sideband-bandHeader))
		b = append(pktline.AppendLength(b, int(n)+bandHeader), 1)
		end := len(b) + int(n)
		if _, err := io.ReadFull(pack, b[len(b):end]); err != nil {
			return nil, fmt.Errorf("read pack: %w", err)
		}
		left -= n
		hashed := n - max(0, min(n, sha1.Size-left)) // all but the trailer
		sum.Write(b[len(b) : len(b)+int(hashed)])
		b = b[:end]
	}
	if [sha1.Size]byte(sum.Sum(nil)) != key.trailer {
		return nil, errDamaged
	}
	return append(b, pktline.Flush...), nil
}

// framedLength is the length of what framed returns.
func framedLength(size int64, sideband int) int64 {
	most := int64(sideband - bandHeader)
	return size + (size+most-1)/most*bandHeader + int64(len(pktline.Flush))
}

// sendWhole answers with parts.
func sendWhole(w http.ResponseWriter, parts ...[]byte) error {
	length := 0
	for _, part := range parts {
		length += len(part)
	}
	w.Header().Set("Content-Length", strconv.Itoa(length))
	for _, part := range parts {
		if _, err := w.Write(part); err != nil {
			return &brokenAnswer{err}
		}
	}
	return nil
}
