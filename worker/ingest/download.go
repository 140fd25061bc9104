package ingest

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/worker/confine"
	"github.com/francescobianco/packbase/worker/upstream"
)

// Two children mirror one package. The first, Download, talks with upstream;
// the second, Main, parses what came and stages releases. Neither has a
// network or sees the other's memory: the worker dials for the first one, and
// two pipes connect them. What upstream may make of the first has no files; of
// the second, no way out.
//
// On the pipe to Download go wants, each a JSON array of ids; the other way
// frames: a byte for their kind, four for their length, big endian, and bytes.
const (
	frameRefs  = 'r' // JSON of listed; comes first, unwanted
	framePack  = 'p' // a piece of a pack
	frameEnd   = 'e' // the pack is complete
	frameError = 'x' // JSON of an Error; after that of a pack, others may be wanted
)

// Open files that the worker gives to the children, beyond the three usual ones.
const (
	dialFile  = 3 // Download: a socket to an upstream.Broker
	wantsFile = 4 // Download: the pipe of wants, to read
	packsFile = 3 // Main: the pipe of frames, to read
	askFile   = 4 // Main: the pipe of wants, to write
)

// listed is what upstream told about its repository.
type listed struct {
	Refs   upstream.Refs
	Digest string // as upstream.Session has it
}

// A DownloadRequest says whom to talk with.
type DownloadRequest struct {
	CloneURL string // "" for looks at many repositories of one host
	Dir      string // an empty folder, which stays so
	Egress   upstream.Options
	Limits   Limits
}

// Download is the child process that talks with upstream: it reads a
// DownloadRequest from in and writes frames to out.
func Download(ctx context.Context, in io.Reader, out io.Writer) error {
	var req DownloadRequest
	if err := json.NewDecoder(in).Decode(&req); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	wants := os.NewFile(wantsFile, "wants")
	dials, err := enterDownload(req.Limits, req.Dir)
	if err != nil {
		return err
	}
	ctx, cancel := whileRead(ctx, in)
	defer cancel()

	req.Egress.Limits.PackBytes = req.Limits.Git.PackBytes
	req.Egress.Through(dials)
	if req.CloneURL == "" {
		return look(ctx, req, json.NewDecoder(wants), json.NewEncoder(out))
	}
	frames := bufio.NewWriterSize(out, 64<<10)
	err = talk(ctx, req, json.NewDecoder(wants), frames)
	if e := AsFault(err); e != nil {
		err = writeJSONFrame(frames, frameError, e)
	}
	return errors.Join(err, frames.Flush())
}

// enterDownload gives up all that a child that talks with upstream does not need, for dir, an empty folder, and returns
// the connection through which the worker dials for it.
func enterDownload(lim Limits, dir string) (*net.UnixConn, error) {
	conn, err := net.FileConn(os.NewFile(dialFile, "dials"))
	if err != nil {
		return nil, fmt.Errorf("open dials: %w", err)
	}
	dials, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.New("open dials: not a Unix socket")
	}
	// Certificates are read while there are files; the result is kept.
	_, _ = x509.SystemCertPool()
	lim.File = 0
	_, err = lim.room(dir).Enter()
	return dials, err
}

// talk answers wants until there are no more.
func talk(ctx context.Context, req DownloadRequest, wants *json.Decoder, frames *bufio.Writer) error {
	session, err := upstream.New(req.Egress).Connect(ctx, req.CloneURL)
	if err != nil {
		return err
	}
	defer session.Close()
	if err := writeJSONFrame(frames, frameRefs, listed{session.Refs(), session.Digest}); err != nil {
		return err
	}
	for {
		if err := frames.Flush(); err != nil {
			return fmt.Errorf("write frame: %w", err)
		}
		var oids []gitpack.OID
		if err := wants.Decode(&oids); err != nil {
			return nil // nobody wants more
		}
		err := session.FetchPack(ctx, oids, packWriter{frames}, nil)
		if e := AsFault(err); e != nil {
			err = writeJSONFrame(frames, frameError, e) // fewer may be asked for next
		} else if err == nil {
			err = writeFrame(frames, frameEnd, nil)
		}
		if err != nil {
			return err
		}
	}
}

type packWriter struct{ frames *bufio.Writer }

// Write passes on what has come at once: people watch how far a download is.
func (p packWriter) Write(b []byte) (int, error) {
	return len(b), errors.Join(writeFrame(p.frames, framePack, b), p.frames.Flush())
}

func writeFrame(w io.Writer, kind byte, b []byte) error {
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(b)))
	if _, err := w.Write(head); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

func writeJSONFrame(w io.Writer, kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	return writeFrame(w, kind, b)
}

// Relay copies frames from a Download to a Main until one of them ends, and
// counts the bytes of packs: what upstream sent, whatever Main makes of it.
func Relay(to io.Writer, from io.Reader, received *atomic.Int64) {
	r, w := bufio.NewReaderSize(from, 64<<10), bufio.NewWriterSize(struct{ io.Writer }{to}, 64<<10)
	head := make([]byte, 5)
	for {
		if _, err := io.ReadFull(r, head); err != nil {
			return
		}
		_, _ = w.Write(head) // Flush says what is wrong
		n, err := io.CopyN(w, r, int64(binary.BigEndian.Uint32(head[1:])))
		if head[0] == framePack {
			received.Add(n)
		}
		if errors.Join(err, w.Flush()) != nil {
			return
		}
	}
}

// maxFrame bounds what a Download that upstream took over can have us keep.
const maxFrame = 256 << 20

// ErrEnded is of a Download without a last word.
var ErrEnded = errors.New("the process that talks with upstream ended early")

// A remote is upstream's repository, by way of a Download.
type remote struct {
	packs  *bufio.Reader
	ask    *os.File
	listed listed
	req    Request
	events *eventWriter
}

// openRemote waits for the list of refs.
func openRemote(req Request, events *eventWriter) (source, error) {
	_ = events.send(Event{Progress: &jobs.Progress{Step: StepList}})
	r := &remote{
		packs: bufio.NewReaderSize(os.NewFile(packsFile, "packs"), 64<<10),
		ask:   os.NewFile(askFile, "wants"),
		req:   req, events: events,
	}
	kind, b, err := r.frame()
	if err != nil {
		return nil, err
	}
	if kind != frameRefs {
		return nil, ErrEnded
	}
	if err := json.Unmarshal(b, &r.listed); err != nil {
		return nil, fmt.Errorf("read refs: %w", err)
	}
	return r, nil
}

// frame returns the next frame, or the Error that it has.
func (r *remote) frame() (kind byte, b []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r.packs, head[:]); err != nil {
		return 0, nil, ErrEnded
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, ErrEnded
	}
	b = make([]byte, n)
	if _, err := io.ReadFull(r.packs, b); err != nil {
		return 0, nil, ErrEnded
	}
	if head[0] == frameError {
		var e fault.Error
		if err := json.Unmarshal(b, &e); err != nil {
			return 0, nil, fmt.Errorf("read error: %w", err)
		}
		return 0, nil, &e
	}
	return head[0], b, nil
}

func (r *remote) close() { r.ask.Close() }

// objects has one pack downloaded, without history, and unpacks it.
func (r *remote) objects(ctx context.Context, oids []gitpack.OID, spool *os.File) (*gitpack.Objects, error) {
	pack, err := os.Create(filepath.Join(r.req.Dir, "fetched.pack"))
	if err != nil {
		return nil, fmt.Errorf("make pack file: %w", err)
	}
	defer os.Remove(pack.Name())
	defer pack.Close()
	if err := json.NewEncoder(r.ask).Encode(oids); err != nil {
		return nil, ErrEnded
	}
	if err := r.receive(pack); err != nil {
		return nil, err
	}
	if _, err := pack.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("rewind pack: %w", err)
	}
	return gitpack.Unpack(ctx, pack, spool, r.req.Limits.Git, func(done, total int) {
		r.events.progress(jobs.Progress{Step: "unpack", Done: int64(done), Total: int64(total), Unit: "objects"})
	})
}

// receive writes the pack that comes. Its length has a limit as a file.
func (r *remote) receive(pack *os.File) error {
	for written := int64(0); ; {
		kind, b, err := r.frame()
		switch {
		case err != nil:
			return err
		case kind == frameEnd:
			return nil
		case kind != framePack:
			return ErrEnded
		}
		if _, err := pack.Write(b); err != nil {
			return fmt.Errorf("write pack: %w", err)
		}
		written += int64(len(b))
		r.events.progress(jobs.Progress{Step: StepDownload, Done: written, Unit: "bytes"})
	}
}

// room is what a child may use.
func (l Limits) room(dir string) confine.Room {
	return confine.Room{Dir: dir, Limits: confine.Limits{Memory: l.Memory, File: l.File, CPU: l.CPU, Files: 256}}
}
