package ingest

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"runtime/debug"

	"github.com/francescobianco/packbase/storage/archive"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/tarball"
	"github.com/francescobianco/packbase/worker/upstream"
)

// An archive passes two children, too, one after the other: DownloadArchive talks with upstream and writes frames to
// the worker, which keeps the bytes as they are; UnpackArchive parses them.

// frameHead is JSON of an ArchiveHead; it comes first. Pieces of the file are framePack.
const frameHead = 'h'

// bodyFile is the open file that the worker gives UnpackArchive.
const bodyFile = 3

// An ArchiveRequest says what to download.
type ArchiveRequest struct {
	URL    string
	Dir    string // an empty folder, which stays so
	Egress upstream.Options
	Limits Limits
}

// An ArchiveHead is what upstream says of a file before its bytes.
type ArchiveHead struct {
	ContentType string
	Disposition string
	Encoding    string
	FinalURL    string
	Length      int64 // -1 if it does not say
}

// DownloadArchive is the child process that talks with upstream about one file: it reads an ArchiveRequest from in and
// writes frames to out.
func DownloadArchive(ctx context.Context, in io.Reader, out io.Writer) error {
	var req ArchiveRequest
	if err := json.NewDecoder(in).Decode(&req); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	dials, err := enterDownload(req.Limits, req.Dir)
	if err != nil {
		return err
	}
	ctx, cancel := whileRead(ctx, in)
	defer cancel()
	req.Egress.Through(dials)
	frames := bufio.NewWriterSize(out, 64<<10)
	err = sendFile(ctx, req, frames)
	if e := AsFault(err); e != nil {
		err = writeJSONFrame(frames, frameError, e)
	}
	return errors.Join(err, frames.Flush())
}

func sendFile(ctx context.Context, req ArchiveRequest, frames *bufio.Writer) error {
	u, err := url.Parse(req.URL)
	if err != nil {
		return fault.New(upstream.CodeURL, "the URL cannot be read")
	}
	f, err := upstream.New(req.Egress).GetFile(ctx, u, req.Limits.Tarball)
	if err != nil {
		return err
	}
	defer f.Close()
	head := ArchiveHead{f.ContentType, f.Disposition, f.Encoding, f.FinalURL, f.Length}
	if err := writeJSONFrame(frames, frameHead, head); err != nil {
		return err
	}
	if err := frames.Flush(); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	if _, err := io.CopyBuffer(packWriter{frames}, f, make([]byte, 256<<10)); err != nil {
		return err
	}
	return writeFrame(frames, frameEnd, nil)
}

// Limits of what the worker believes of a DownloadArchive.
const (
	maxHead  = 64 << 10
	maxPiece = 1 << 20
)

// ReadArchive reads what DownloadArchive writes: head is called first, and may refuse the rest, then the bytes go to w.
// An *fault.Error is what upstream did wrong.
func ReadArchive(frames io.Reader, head func(ArchiveHead) error, w io.Writer) error {
	r := bufio.NewReaderSize(frames, 64<<10)
	kind, n, err := readFrame(r)
	if err != nil {
		return err
	}
	var h ArchiveHead
	if kind != frameHead || n > maxHead {
		return ErrEnded
	}
	if err := json.NewDecoder(io.LimitReader(r, n)).Decode(&h); err != nil {
		return ErrEnded
	}
	if err := head(h); err != nil {
		return err
	}
	for {
		kind, n, err := readFrame(r)
		switch {
		case err != nil:
			return err
		case kind == frameEnd:
			return nil
		case kind != framePack || n > maxPiece:
			return ErrEnded
		}
		switch k, err := io.CopyN(w, r, n); {
		case errors.Is(err, io.EOF):
			return ErrEnded
		case err != nil:
			return fmt.Errorf("write archive after %d bytes: %w", k, err)
		}
	}
}

// readFrame reads a frame's head, or the Error that it has.
func readFrame(r *bufio.Reader) (kind byte, n int64, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, ErrEnded
	}
	n = int64(binary.BigEndian.Uint32(head[1:]))
	if head[0] != frameError {
		return head[0], n, nil
	}
	var e fault.Error
	if n > maxHead || json.NewDecoder(io.LimitReader(r, n)).Decode(&e) != nil {
		return 0, 0, ErrEnded
	}
	return 0, 0, &e
}

// An UnpackRequest says how to read the file that UnpackArchive is given open.
type UnpackRequest struct {
	Format archive.Format
	Dir    string // an empty folder, for the child's files
	Limits Limits
}

// An Unpacked is the output of UnpackArchive.
type Unpacked struct {
	Plain bool         // every Zig reads the archive as it is
	Flat  string       // else the name of our own tar.gz of its files, in the request's folder
	Error *fault.Error // what is wrong with it
}

const flatFile = "flat.tar.gz"

// UnpackArchive is the child process that parses an archive: it reads an UnpackRequest from in and writes an Unpacked
// to out.
func UnpackArchive(ctx context.Context, in io.Reader, out io.Writer) error {
	var req UnpackRequest
	if err := json.NewDecoder(in).Decode(&req); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	body := os.NewFile(bodyFile, "archive")
	debug.SetMemoryLimit(min(req.Limits.Memory/8, 160<<20))
	if _, err := req.Limits.room(req.Dir).Enter(); err != nil {
		return err
	}
	ctx, cancel := whileRead(ctx, in)
	defer cancel()
	u, err := unpackArchive(ctx, body, req)
	if u.Error = AsFault(err); u.Error == nil && err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(u)
}

func unpackArchive(ctx context.Context, body *os.File, req UnpackRequest) (u Unpacked, err error) {
	info, err := body.Stat()
	if err != nil {
		return u, fmt.Errorf("look at archive: %w", err)
	}
	scratch, err := os.Create("scratch")
	if err != nil {
		return u, fmt.Errorf("make scratch file: %w", err)
	}
	defer scratch.Close()
	pkg, err := archive.Unpack(ctx, body, info.Size(), req.Format, scratch)
	if err != nil {
		return u, err
	}
	if _, _, err := pkg.Describe(); err != nil {
		return u, err
	}
	if u.Plain = pkg.Plain; u.Plain {
		return u, nil
	}
	return Unpacked{Flat: flatFile}, writeFlat(pkg, req.Limits)
}

func writeFlat(pkg *archive.Package, lim Limits) error {
	chunks, err := os.Create("chunks")
	if err != nil {
		return fmt.Errorf("make chunk file: %w", err)
	}
	defer os.Remove(chunks.Name())
	defer chunks.Close()
	out, err := os.Create(flatFile)
	if err != nil {
		return fmt.Errorf("make tarball: %w", err)
	}
	_, err = tarball.Compress(out, chunks, tarball.Limits{Size: lim.Tarball}, pkg.WriteTar)
	return errors.Join(err, out.Close())
}
