package upstream

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/francescobianco/packbase/storage/pktline"
)

const (
	advertisement = "application/x-git-upload-pack-advertisement"
	result        = "application/x-git-upload-pack-result"
)

// A guard sits under go-git, which believes and keeps whatever it reads. It
// lets through only answers of a smart Git server, and of a ref list only
// what packbase uses.
type guard struct {
	next   *roundTripper
	limits Limits

	wants   int          // in the request to come, for the size of its preamble
	skipped []SkippedRef // from the ref list
	digest  string       // of the ref list, once it is complete
	body    *body        // of the last answer
	err     error        // the first failure
}

// failure returns the first failure that go-git may have swallowed, or nil.
func (g *guard) failure() error {
	if g.err == nil && g.body != nil {
		return g.body.err
	}
	return g.err
}

// fail remembers err.
func (g *guard) fail(err error) error {
	if g.err == nil {
		g.err = err
	}
	return err
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	g.err, g.body, g.digest = nil, nil, ""
	resp, err := g.next.RoundTrip(req)
	if err != nil {
		return nil, g.fail(err)
	}
	list := req.Method == http.MethodGet
	if isRedirect(resp) {
		if to, err := resp.Location(); err == nil && strings.HasSuffix(to.Path, "/info/refs") {
			return resp, nil
		}
		resp.Body.Close()
		return nil, g.fail(&Error{Code: CodeRedirect, Status: resp.StatusCode,
			Message: "upstream redirects to a page that is not a repository: it does not exist there, or is private; check the URL"})
	}
	if err := checkAnswer(resp, list); err != nil {
		resp.Body.Close()
		return nil, g.fail(err)
	}
	g.body = resp.Body.(*body)
	if list {
		g.body.left = g.limits.RefListBytes
		g.body.over = &Error{Code: CodeRefListTooLarge, Message: fmt.Sprintf(
			"the ref list of upstream has more than %d bytes", g.limits.RefListBytes)}
		resp.Body = newRefFilter(g, g.body)
		return resp, nil
	}
	if err := g.watchPack(resp); err != nil {
		resp.Body.Close()
		return nil, g.fail(err)
	}
	return resp, nil
}

// watchPack bounds what comes before a pack, and reads the error that may come
// instead: go-git would lose what kind it is.
func (g *guard) watchPack(resp *http.Response) error {
	// A shallow line for each commit and a NAK. A server that counts objects
	// has a time of its own; Git's sends a packet every 5 seconds.
	g.body.begin = time.AfterFunc(g.limits.Begin, func() { g.body.cancel(errNotBegun(g.limits.Begin)) })
	g.body.need.Store(1)
	g.body.rate.Store(1)
	g.body.left = 64<<10 + 64*int64(g.wants)
	g.body.over = notGit("no pack begins")
	src := bufio.NewReaderSize(g.body, pktline.MaxSize)
	resp.Body = struct {
		io.Reader
		io.Closer
	}{src, g.body}

	head, err := src.Peek(len("0008NAK\n"))
	if err != nil {
		return cut(err)
	}
	if string(head[4:]) != "ERR " {
		return nil
	}
	n, err := packetLength(src)
	switch {
	case err != nil:
		return err
	case n < len(head):
		return notGit("a packet has a wrong length")
	}
	line, err := src.Peek(n - pktline.HeaderSize)
	if err != nil {
		return cut(err)
	}
	return g.refused(string(line[len("ERR "):]))
}

// checkAnswer judges the head of an answer to a request of the protocol.
func checkAnswer(resp *http.Response, list bool) error {
	if e := statusError(resp); e != nil {
		if e.Code == CodeRefused && !list && e.Status != http.StatusRequestEntityTooLarge {
			e.Code = CodeUnavailable // what is asked for Git judges in the protocol, and it has listed
		}
		return e
	}
	want := result
	if list {
		want = advertisement
	}
	got, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if got = strings.ToLower(strings.TrimSpace(got)); got != want {
		return &Error{Code: CodeNotGit, Message: fmt.Sprintf(
			"upstream answers with %q, so it is no smart Git server, or this is not the URL of a repository; check the URL", printable(got, 60))}
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return &Error{Code: CodeNotGit, Message: "upstream compresses its answer although it was not asked to"}
	}
	return nil
}

// A refFilter reads a ref list and hands on one that is short and harmless:
// HEAD, the branches and tags with good names, and the capabilities that
// packbase uses. It holds one line at a time.
type refFilter struct {
	io.Closer
	guard *guard
	src   *bufio.Reader
	out   bytes.Buffer
	begun bool
	ended bool
	caps  []byte // for the first line handed on; nil after it
	kept  string // name of the ref handed on last
	refs  int    // branches and tags seen
	sum   hash.Hash
	line  [pktline.MaxSize]byte
}

func newRefFilter(g *guard, body io.ReadCloser) *refFilter {
	return &refFilter{guard: g, src: bufio.NewReaderSize(body, pktline.MaxSize), sum: sha256.New(), Closer: body}
}

func (f *refFilter) Read(p []byte) (int, error) {
	for f.out.Len() == 0 {
		if f.ended {
			return 0, io.EOF
		}
		if err := f.step(); err != nil {
			return 0, f.guard.fail(err)
		}
	}
	return f.out.Read(p)
}

// step reads what comes next: the start of the list, or one line.
func (f *refFilter) step() error {
	if !f.begun {
		f.begun = true
		return f.begin()
	}
	line, err := f.packet()
	switch {
	case err != nil:
		return err
	case line == nil:
		f.end()
		return nil
	}
	return f.ref(line)
}

// begin reads up to the first ref. gitprotocol-http(5), "Smart Server Response".
func (f *refFilter) begin() error {
	service, err := f.packet()
	if err != nil {
		return err
	}
	if string(service) != "# service=git-upload-pack" {
		return notGit("the ref list has no service line")
	}
	flush, err := f.packet()
	switch {
	case err != nil:
		return err
	case flush != nil:
		return notGit("the service line is not ended")
	}
	line, err := f.packet()
	switch {
	case err != nil:
		return err
	case line == nil: // an empty repository, told by an old server
		f.end()
		return nil
	}
	line, caps, ok := bytes.Cut(line, []byte{0})
	if !ok {
		return notGit("the first ref has no capabilities")
	}
	if id, _, _ := bytes.Cut(line, []byte(" ")); len(id) == 64 || bytes.Contains(caps, []byte("object-format=sha256")) {
		return &Error{Code: CodeUnsupported, Message: "the upstream repository has SHA-256 object ids; only SHA-1 is supported"}
	}
	f.caps = usedCapabilities(caps)
	return f.ref(line)
}

// usedCapabilities returns those of caps that go-git needs to know of. It
// refuses the whole list for one that it knows but finds odd.
func usedCapabilities(caps []byte) []byte {
	used := make(map[string]bool)
	var list []string
	for c := range strings.FieldsSeq(string(caps)) {
		target, symref := strings.CutPrefix(c, "symref=HEAD:")
		switch {
		case symref && badRefName(target) != "":
			continue
		case symref, c == "shallow", c == "side-band-64k", c == "ofs-delta", c == "no-progress":
			key, _, _ := strings.Cut(c, ":")
			if !used[key] {
				used[key] = true
				list = append(list, c)
			}
		}
	}
	return []byte(strings.Join(list, " "))
}

// ref judges one line of the list.
func (f *refFilter) ref(line []byte) error {
	id, rest, ok := bytes.Cut(line, []byte(" "))
	if string(id) == "shallow" {
		return nil // upstream is shallow itself; so is all that we ask for
	}
	var oid [20]byte
	if n, err := hex.Decode(oid[:], id[:min(len(id), 40)]); !ok || err != nil || n != 20 || len(id) != 40 {
		return notGit("a line of the ref list is malformed")
	}
	name := string(rest)
	if tag, peeled := strings.CutSuffix(name, "^{}"); peeled {
		if tag == f.kept && strings.HasPrefix(tag, tagPrefix) {
			f.emit(id, name)
		}
		return nil
	}
	switch {
	case name == "HEAD":
		f.emit(id, name)
		return nil
	case !strings.HasPrefix(name, tagPrefix) && !strings.HasPrefix(name, branchPrefix):
		return nil // pull requests, notes and the like
	}
	if f.refs++; f.refs > f.guard.limits.Refs {
		return &Error{Code: CodeTooManyRefs, Message: fmt.Sprintf("upstream has more than %d branches and tags", f.guard.limits.Refs)}
	}
	reason := badRefName(name)
	if reason == "" && oid == [20]byte{} {
		reason = "names no object"
	}
	if reason != "" {
		f.guard.skipped = append(f.guard.skipped, SkippedRef{printable(name, 100), reason})
		fmt.Fprintf(f.sum, "%s %s\n", id, name)
		return nil
	}
	f.kept = name
	f.emit(id, name)
	return nil
}

// emit hands on one line.
func (f *refFilter) emit(id []byte, name string) {
	line := fmt.Sprintf("%s %s", id, name)
	if f.caps != nil {
		line += "\x00" + string(f.caps)
		f.caps = nil
	}
	fmt.Fprintln(f.sum, line)
	f.out.Write(pktline.Append(f.out.AvailableBuffer(), line+"\n"))
}

// end hands on the end of the list.
func (f *refFilter) end() {
	if f.caps != nil { // no line went before
		f.emit(bytes.Repeat([]byte("0"), 40), "capabilities^{}")
	}
	f.out.WriteString(pktline.Flush)
	f.ended = true
	f.guard.digest = hex.EncodeToString(f.sum.Sum(nil))
	drain(f.src)
}

// drain reads the end of an answer that is complete, so that its connection
// can be used again.
func drain(r io.Reader) { io.CopyN(io.Discard, r, 1) }

// packet returns the payload of the next pkt-line without its newline, valid
// until the next call, or nil for a flush.
func (f *refFilter) packet() ([]byte, error) {
	n, err := packetLength(f.src)
	if n == 0 || err != nil {
		return nil, err
	}
	line := f.line[:n-pktline.HeaderSize]
	if _, err := io.ReadFull(f.src, line); err != nil {
		return nil, cut(err)
	}
	if text, ok := bytes.CutPrefix(line, []byte("ERR ")); ok {
		return nil, f.guard.refused(string(text))
	}
	return bytes.TrimSuffix(line, []byte("\n")), nil
}

// packetLength reads the length of the next packet, or 0 for a flush. An
// upstream is asked in the protocol's version 0, which has no delimiters.
func packetLength(r io.Reader) (int, error) {
	n, err := pktline.ReadLength(r)
	if errors.As(err, new(pktline.LengthError)) || n == pktline.DelimLength {
		return 0, notGit("a packet has no length")
	}
	return n, cut(err)
}

// cut gives a code to an end of file where none may be.
func cut(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errIncomplete()
	}
	return err
}

func notGit(what string) *Error {
	return &Error{Code: CodeNotGit, Message: "upstream does not speak the Git protocol as it should: " + what}
}
