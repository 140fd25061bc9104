package smarthttp

import (
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/pktline"
)

type command int

const (
	fetch command = iota
	lsRefs
	// Git asks whether it may post before it posts what it cannot send again:
	// a body that is longer than http.postBuffer. git's remote-curl.c, probe_rpc.
	probe
)

// A request is the body of a POST to git-upload-pack, of any version.
type request struct {
	command command
	free    func() // gives back the turn of a large body; may be called twice

	// ls-refs
	peel, symrefs bool
	prefixes      []string

	// fetch
	wants      []gitpack.OID // each once
	haves      []gitpack.OID // in the client's order
	shallows   []gitpack.OID // commits that the client has without parents
	deepen     bool          // --depth or the like was given; the number does not matter here
	done       bool
	includeTag bool

	// version 2
	noReshallow bool // see writeReshallow
	waitForDone bool

	// versions 0 and 1
	onlyWants bool // the body ends before any have: the client wants to see the shallow lines
	multiAck  ackMode
	noDone    bool
	sideband  int // most bytes of a packet; 0 for a pack without packets
}

type ackMode int

const (
	singleAck ackMode = iota
	multiAck
	multiAckDetailed
)

// smallBody is how many bytes of a body anybody may have parsed and kept: the
// wants of more than a thousand tags. For more there are turns, or many clients
// at once would take all memory.
const smallBody = 64 << 10

// readRequest reads and parses a request body within all limits.
func (h *Handler) readRequest(w http.ResponseWriter, r *http.Request, pkg string, version int) (*request, error) {
	req := &request{free: func() {}}
	grow := func() error {
		end, err := h.bodies.acquire(r.Context(), h.opts.Client(r), pkg, h.opts.Wait)
		if err == nil {
			req.free = end
		}
		return err
	}
	if err := h.parseBody(req, http.MaxBytesReader(w, r.Body, h.opts.MaxBody), r.Header, version, grow); err != nil {
		req.free()
		// The server must not wait for the rest of the body, or not for long.
		w.Header().Set("Connection", "close")
		return nil, bodyError(err)
	}
	return req, nil
}

// parseBody calls grow when the body turns out to be a large one.
func (h *Handler) parseBody(req *request, body io.Reader, header http.Header, version int, grow func() error) error {
	body, err := h.inflate(body, header)
	if err != nil {
		return err
	}
	body = &gate{body, smallBody, grow}
	p := &packetReader{r: bufio.NewReaderSize(body, 512), left: h.opts.MaxWants + 2*h.opts.MaxHaves + 1000}
	if version == 2 {
		return req.readCommand(p, h.opts)
	}
	return req.readWants(p, h.opts)
}

// A gate has to be opened once so many bytes have passed.
type gate struct {
	r    io.Reader
	left int64
	open func() error // nil if it is
}

func (g *gate) Read(p []byte) (int, error) {
	if g.open == nil {
		return g.r.Read(p)
	}
	if g.left == 0 {
		err := g.open()
		if err == nil {
			g.open = nil
		}
		return 0, err
	}
	n, err := g.r.Read(p[:min(int64(len(p)), g.left)])
	g.left -= int64(n)
	return n, err
}

// inflate undoes the Content-Encoding, which git uses for long requests.
func (h *Handler) inflate(body io.Reader, header http.Header) (io.Reader, error) {
	switch header.Get("Content-Encoding") {
	case "", "identity":
		return body, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, err
		}
		return &cappedReader{z, h.opts.MaxInflated}, nil
	default:
		return nil, &Error{Status: http.StatusUnsupportedMediaType, Code: "invalid",
			Message: "the Content-Encoding must be gzip, or none"}
	}
}

// A cappedReader fails where io.LimitReader would pretend the end.
type cappedReader struct {
	r    io.Reader
	left int64
}

var errTooLarge = &Error{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Message: "the request body is too large"}

func (c *cappedReader) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errTooLarge
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// bodyError maps what reading a body can return.
func bodyError(err error) error {
	var e *Error
	var r refusal
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &e), errors.As(err, &r):
		return err
	case errors.As(err, &tooLarge):
		return errTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &Error{Status: http.StatusRequestTimeout, Code: "timeout", Message: "the request body took too long"}
	default: // gzip, chunks, connection
		return badRequest("the request body is malformed or ends too early")
	}
}

// readCommand reads a request of version 2.
// gitprotocol-v2(5), "Command Request".
func (req *request) readCommand(p *packetReader, opts Options) error {
	name := ""
	for first := true; ; first = false {
		kind, line, err := p.next()
		if err != nil {
			return err
		}
		if first && kind == flushPacket {
			req.command = probe
			return p.end()
		}
		if kind != dataPacket {
			return req.readArguments(p, name, kind, opts)
		}
		key, value, _ := strings.Cut(string(line), "=")
		switch {
		case key == "command" && name == "":
			name = value
		case key == "command":
			return refuse("upload-pack: two commands in one request")
		case key == "object-format" && value != "sha1":
			return refuse("upload-pack: object format %q is not served, only sha1", clip(value))
		case key == "agent":
			req.noReshallow = strings.HasPrefix(value, "dulwich/")
		case key != "object-format":
			return refuse("upload-pack: unknown capability %q", clip(string(line)))
		}
	}
}

// readArguments reads what follows the capabilities and their end, to the flush.
func (req *request) readArguments(p *packetReader, name string, kind packetKind, opts Options) error {
	read := req.readFetch
	switch name {
	case "fetch":
	case "ls-refs":
		req.command, read = lsRefs, req.readLsRefs
	case "":
		return badRequest("the request has no command")
	default:
		return refuse("upload-pack: unknown command %q", clip(name))
	}
	for kind == delimPacket {
		for {
			next, line, err := p.next()
			if err != nil {
				return err
			}
			if kind = next; kind != dataPacket {
				break
			}
			if err := read(line, opts); err != nil {
				return err
			}
		}
		if kind == delimPacket {
			return refuse("upload-pack: expected flush after arguments")
		}
	}
	if kind == noPacket {
		return badRequest("the request body ends too early")
	}
	if name == "fetch" && len(req.wants) == 0 && !req.waitForDone {
		return refuse("upload-pack: the request wants nothing")
	}
	return p.end()
}

// readLsRefs reads one argument of ls-refs.
func (req *request) readLsRefs(line []byte, _ Options) error {
	switch key, value, _ := strings.Cut(string(line), " "); key {
	case "peel":
		req.peel = true
	case "symrefs":
		req.symrefs = true
	case "unborn": // HEAD always names a commit
	case "ref-prefix":
		if len(req.prefixes) <= maxPrefixes {
			req.prefixes = append(req.prefixes, strings.Clone(value[:min(len(value), maxPrefix)]))
		}
	default:
		return refuse("upload-pack: unexpected line %q", clip(string(line)))
	}
	return nil
}

// readFetch reads one argument of fetch.
func (req *request) readFetch(line []byte, opts Options) error {
	if known, err := req.readObject(line, opts); known {
		return err
	}
	switch key, _, _ := strings.Cut(string(line), " "); key {
	case "done":
		req.done = true
	case "include-tag":
		req.includeTag = true
	case "wait-for-done":
		req.waitForDone = true
	case "ofs-delta", "thin-pack", "no-progress", "deepen-relative": // nothing to do differently
	default:
		return unsupported(line)
	}
	return nil
}

// unsupported refuses an argument of fetch.
func unsupported(line []byte) error {
	switch key, _, _ := strings.Cut(string(line), " "); key {
	case "filter", "deepen-since", "deepen-not", "packfile-uris", "want-ref", "sideband-all":
		return refuse("upload-pack: %s is not supported: packages have no history, fetch them whole", key)
	}
	return refuse("upload-pack: unexpected line %q", clip(string(line)))
}

// readObject reads a want, have, shallow or deepen line; known is false if
// line is none of them.
func (req *request) readObject(line []byte, opts Options) (known bool, err error) {
	key, value, _ := strings.Cut(string(line), " ")
	switch key {
	case "want":
		// Zig 0.14 and later sends 64 bytes after "want ", 24 of them stray;
		// versions 0 and 1 send capabilities there.
		id, err := gitpack.ParseOID(value[:min(40, len(value))])
		if err != nil {
			return true, refuse("upload-pack: malformed want %q", clip(value))
		}
		req.wants = append(req.wants, id)
		return true, limit(len(req.wants), opts.MaxWants, key)
	case "have":
		return true, addOID(&req.haves, value, opts.MaxHaves, key)
	case "shallow":
		return true, addOID(&req.shallows, value, opts.MaxHaves, key)
	case "deepen":
		if n, err := strconv.Atoi(value); err != nil || n <= 0 {
			return true, refuse("upload-pack: malformed deepen %q", clip(value))
		}
		req.deepen = true
		return true, nil
	}
	return false, nil
}

func addOID(ids *[]gitpack.OID, value string, most int, key string) error {
	id, err := gitpack.ParseOID(value)
	if err != nil {
		return refuse("upload-pack: malformed %s %q", key, clip(value))
	}
	*ids = append(*ids, id)
	return limit(len(*ids), most, key)
}

func limit(n, most int, key string) error {
	if n > most {
		return refuse("upload-pack: more than %d %s lines", most, key)
	}
	return nil
}

// clip keeps client's text short in messages.
func clip(s string) string { return s[:min(len(s), 80)] }

// readWants reads a request of version 0 or 1.
// gitprotocol-pack(5), "Packfile Negotiation".
func (req *request) readWants(p *packetReader, opts Options) error {
	for {
		kind, line, err := p.next()
		switch {
		case err != nil:
			return err
		case kind == flushPacket && len(req.wants) > 0:
			return req.readHaves(p, opts)
		case kind == flushPacket:
			req.command = probe
			return p.end()
		case kind != dataPacket:
			return badRequest("the request body ends too early")
		}
		first := len(req.wants) == 0
		known, err := req.readObject(line, opts)
		if err != nil {
			return err
		}
		if !known || len(req.wants) == 0 {
			return unsupported(line)
		}
		if first {
			if err := req.readCapabilities(string(line)); err != nil {
				return err
			}
		}
	}
}

// readCapabilities reads what stands in the first want line after the id.
func (req *request) readCapabilities(line string) error {
	for word := range strings.FieldsSeq(line[len("want ")+40:]) {
		switch key, value, _ := strings.Cut(word, "="); key {
		case "multi_ack":
			req.multiAck = max(req.multiAck, multiAck)
		case "multi_ack_detailed":
			req.multiAck = multiAckDetailed
		case "no-done":
			req.noDone = true
		case "side-band":
			req.sideband = max(req.sideband, 1000)
		case "side-band-64k":
			req.sideband = pktline.MaxSize
		case "include-tag":
			req.includeTag = true
		case "object-format":
			if value != "sha1" {
				return refuse("upload-pack: object format %q is not served, only sha1", clip(value))
			}
		}
	}
	return nil
}

// readHaves reads the rest of a request of version 0 or 1, up to "done" or the
// flush that asks for an answer.
func (req *request) readHaves(p *packetReader, opts Options) error {
	for first := true; ; first = false {
		kind, line, err := p.next()
		switch {
		case err != nil:
			return err
		case kind == noPacket && first && req.deepen:
			req.onlyWants = true
			return nil
		case kind == flushPacket:
			return p.drain()
		case kind != dataPacket:
			return badRequest("the request body ends too early")
		case string(line) == "done":
			req.done = true
			return p.drain()
		}
		id, ok := strings.CutPrefix(string(line), "have ")
		if !ok {
			return refuse("upload-pack: expected have or done, got %q", clip(string(line)))
		}
		if err := addOID(&req.haves, id, opts.MaxHaves, "have"); err != nil {
			return err
		}
	}
}

// drain reads to the end, for the checksum of a gzip body.
func (p *packetReader) drain() error {
	_, err := io.Copy(io.Discard, p.r)
	return err
}

// unique returns ids without repetitions, in order of first appearance.
func unique(ids []gitpack.OID) []gitpack.OID {
	if len(ids) < 2 {
		return ids
	}
	seen := make(map[gitpack.OID]bool, len(ids))
	return slices.DeleteFunc(slices.Clone(ids), func(id gitpack.OID) bool {
		again := seen[id]
		seen[id] = true
		return again
	})
}
