// Package probe fetches the newest release of a package back through our own
// Git interface, as a client would, so that what we say of its health is seen
// and not believed.
package probe

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/pktline"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// A Prober probes packages. It is safe for concurrent use.
type Prober struct {
	DB      *storage.DB
	Staging *blob.Staging
	Git     http.Handler // the Git interface, asked inside this process
	Limits  gitpack.Limits

	// May be left out.
	Zig      string                                           // a zig to fetch with, too
	ZigCache string                                           // a folder for what it compiles for itself, if there is a zig
	Child    func(ctx context.Context, name string) *exec.Cmd // `packbase confine`, if there is a zig
	warm     sync.Mutex
}

// Probe fetches pkg's newest release through the Git interface, checks that
// the commit is whole, and stores what came of it.
func (p *Prober) Probe(ctx context.Context, pkg string) (storage.Probe, error) {
	pk, err := p.DB.PackageByName(ctx, pkg)
	if err != nil {
		return storage.Probe{}, err
	}
	var found storage.Probe
	content, err := p.probeGit(ctx, pk.Name, &found)
	if err == nil && p.Zig != "" {
		err = p.probeZig(ctx, pk, content)
	}
	if err == nil {
		err = p.probeBytes(ctx, pk.Name)
	}
	switch { // what says nothing about the package
	case ctx.Err() != nil:
		return found, ctx.Err()
	case errors.Is(err, blob.ErrFull), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return found, err
	}
	found.Healthy = err == nil
	if err != nil {
		found.ProbeError = said(err)
	}
	return found, p.DB.RecordProbe(ctx, pk.Name, found)
}

// said returns err as everybody may read it: not where files are on this machine, and nothing that is no text.
func said(err error) string {
	var file *fs.PathError
	var program *exec.Error
	switch {
	case errors.As(err, &file):
		err = file.Err
	case errors.As(err, &program):
		err = program.Err
	default:
		return strings.Map(func(r rune) rune {
			if unicode.IsPrint(r) || r == '\n' || r == '\t' {
				return r
			}
			return unicode.ReplacementChar
		}, err.Error())
	}
	return "the worker that probes cannot use its own files: " + err.Error()
}

// probeBytes returns an error if something that the package needs is known as
// damaged or lost.
func (p *Prober) probeBytes(ctx context.Context, pkg string) error {
	blobs, err := p.DB.Scrub.OfPackage(ctx, pkg)
	if err != nil {
		return err
	}
	for _, b := range blobs {
		if b.DamagedAt != nil {
			return errors.New(b.Problem)
		}
	}
	return nil
}

// probeGit asks what Zig asks: capabilities, the ref, and one commit. It returns what is in that.
func (p *Prober) probeGit(ctx context.Context, pkg string, found *storage.Probe) (in content, err error) {
	repo := "/git/" + pkg
	var caps, refs bytes.Buffer
	if err := p.ask(ctx, &caps, http.MethodGet, repo+"/info/refs?service=git-upload-pack", ""); err != nil {
		return in, fmt.Errorf("list capabilities: %w", err)
	}
	if !bytes.Contains(caps.Bytes(), []byte("version 2")) {
		return in, errors.New("list capabilities: protocol version 2 is not offered")
	}
	err = p.ask(ctx, &refs, http.MethodPost, repo+"/git-upload-pack",
		pktline.Lines("command=ls-refs\n", pktline.Delim, "peel\n", "symrefs\n", "ref-prefix HEAD\n", pktline.Flush))
	if err != nil {
		return in, fmt.Errorf("list refs: %w", err)
	}
	if refs.Len() < 44 {
		return in, errors.New("list refs: HEAD is missing")
	}
	commit, err := gitpack.ParseOID(string(refs.Bytes()[4:44]))
	if err != nil {
		return in, fmt.Errorf("list refs: %w", err)
	}
	found.SmartHTTPReady = true
	if in, err = p.fetch(ctx, repo, commit); err != nil {
		return in, fmt.Errorf("fetch %s: %w", commit, err)
	}
	found.PseudoGitFetchable, found.ProbeCommit = true, commit.String()
	return in, nil
}

// fetch fetches a commit, unpacks what came and walks it. It returns what is in it.
func (p *Prober) fetch(ctx context.Context, repo string, commit gitpack.OID) (in content, err error) {
	stage, err := p.Staging.New()
	if err != nil {
		return in, err
	}
	defer stage.Close()
	files := map[string]*os.File{}
	for _, name := range []string{"answer", "pack", "objects"} {
		f, err := os.Create(filepath.Join(stage.Dir, name))
		if err != nil {
			return in, err
		}
		defer f.Close()
		files[name] = f
	}
	err = p.ask(ctx, files["answer"], http.MethodPost, repo+"/git-upload-pack",
		pktline.Lines("command=fetch\n", pktline.Delim, "ofs-delta\n", "no-progress\n", "deepen 1\n", "want "+commit.String()+"\n", "done\n", pktline.Flush))
	if err != nil {
		return in, err
	}
	if _, err := files["answer"].Seek(0, io.SeekStart); err != nil {
		return in, err
	}
	if err := writePack(files["pack"], bufio.NewReaderSize(files["answer"], 1<<17)); err != nil {
		return in, err
	}
	objects, err := gitpack.Unpack(ctx, files["pack"], files["objects"], p.Limits, nil)
	if err != nil {
		return in, err
	}
	raw, err := objects.Read(commit, gitpack.Commit, p.Limits.ObjectBytes)
	if err != nil {
		return in, err
	}
	info, err := gitpack.ParseCommit(raw)
	if err != nil {
		return in, err
	}
	tree, err := objects.Files(ctx, info.Tree, p.Limits)
	in.files = int64(len(tree.Files))
	for _, f := range tree.Files {
		in.largest = max(in.largest, f.Size)
	}
	return in, err
}

// writePack writes what the pack section's data packets carry.
// gitprotocol-v2(5), "output of fetch".
func writePack(to io.Writer, answer io.Reader) error {
	packet := make([]byte, pktline.MaxSize)
	for inPack := false; ; {
		n, err := pktline.ReadLength(answer)
		switch {
		case errors.As(err, new(pktline.LengthError)):
			return errors.New("the answer is not made of packets")
		case err != nil:
			return errors.New("the answer ends early")
		case n == pktline.FlushLength && inPack:
			return nil
		case n < pktline.HeaderSize:
			continue
		}
		data := packet[:n-pktline.HeaderSize]
		if _, err := io.ReadFull(answer, data); err != nil {
			return errors.New("the answer ends early")
		}
		switch {
		case !inPack:
			inPack = string(bytes.TrimSpace(data)) == "packfile"
		case len(data) > 0 && data[0] == 1:
			if _, err := to.Write(data[1:]); err != nil {
				return err
			}
		case len(data) > 0 && data[0] == 3:
			return fmt.Errorf("the server says %q", data[1:])
		}
	}
}

// ask has the Git interface answer a request, inside this process, and writes
// the answer's body.
func (p *Prober) ask(ctx context.Context, to io.Writer, method, target, body string) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://packbase"+target, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.RequestURI = target
	req.RemoteAddr = "probe"
	req.Header.Set("Git-Protocol", "version=2")
	if body != "" {
		req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
	}
	answer := &recorder{header: http.Header{}, status: http.StatusOK, body: to}
	p.Git.ServeHTTP(answer, req)
	if answer.status != http.StatusOK {
		return fmt.Errorf("status %d, %.200s", answer.status, answer.problem.String())
	}
	return answer.err
}

// A recorder writes an answer's body, and keeps that of an error.
type recorder struct {
	header  http.Header
	status  int
	body    io.Writer
	err     error // of writing it
	problem bytes.Buffer
}

func (r *recorder) Header() http.Header    { return r.header }
func (r *recorder) WriteHeader(status int) { r.status = status }

func (r *recorder) Write(b []byte) (n int, err error) {
	if r.status != http.StatusOK {
		return r.problem.Write(b)
	}
	if n, err = r.body.Write(b); err != nil {
		r.err = err
	}
	return n, err
}

// probeZig has a real zig fetch the newest release, over HTTP on loopback.
func (p *Prober) probeZig(ctx context.Context, pkg storage.Package, in content) error {
	if pkg.LatestTag == nil || pkg.Private { // zig has no token to show
		return nil
	}
	r, err := p.DB.ReleaseByTag(ctx, pkg.Name, *pkg.LatestTag)
	if err != nil {
		return err
	}
	dir, remove, err := p.zigDir()
	if err != nil {
		return err
	}
	defer remove()
	port, stop, err := serveLoopback(p.Git)
	if err != nil {
		return err
	}
	defer stop()
	if err := p.copyCache(ctx, filepath.Join(dir, "cache")); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	got, err := p.zig(ctx, dir, port, zigMemory(in), "fetch", "git+http://127.0.0.1:"+strconv.Itoa(int(port))+"/git/"+pkg.Name+"#"+url.PathEscape(r.Tag))
	if err != nil && !p.takes(ctx, r.Zig.UsableWith) {
		return nil // it says nothing about the package that info does not say
	}
	if err != nil {
		return fmt.Errorf("zig fetch: %w: %.500s", err, got)
	}
	if got != r.ZigHash && got != r.ZigLegacyHash {
		return fmt.Errorf("zig fetch: hash %.120s, want %s", got, r.ZigHash)
	}
	return nil
}

// takes reports whether the zig ought to take a package that can be used with
// some releases: its own may be among them, or one that we do not know. It is
// asked for its release in a folder in which it saw no package.
func (p *Prober) takes(ctx context.Context, usable []string) bool {
	dir, remove, err := p.zigDir()
	if err != nil {
		return true
	}
	defer remove()
	version, err := p.zig(ctx, dir, 0, 0, "version")
	is := func(release string) bool { return strings.HasPrefix(version, release+".") }
	known := (*zigpkg.Manifest)(nil).UsableWith() // all releases that we know
	return err != nil || len(usable) == 0 || !slices.ContainsFunc(known, is) || slices.ContainsFunc(usable, is)
}
