package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/worker/ingest"
	"github.com/francescobianco/packbase/worker/upstream"
)

// ingest runs the child processes and publishes what they stage.
func (f *fetch) ingest(ctx context.Context) error {
	rejected, err := f.w.db.RejectedTags(ctx, f.pkg.Name)
	if err != nil {
		return err
	}
	outer := ctx
	req := f.request(rejected)
	if err := f.allowance(ctx, &req); err != nil {
		return err
	}
	scratch, err := os.CreateTemp(f.dir, "chunks-*")
	if err != nil {
		return fmt.Errorf("make scratch file: %w", err)
	}
	defer scratch.Close()
	f.builder = release.NewBuilder(scratch, req.Limits.Tarball, req.Limits.Git)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The death signal is sent when the thread that started a child ends, so
	// that thread must be there as long as the children are.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	parser := f.w.child(ctx, "ingest")
	defer parser.letGo()
	var downloader *child
	if strings.HasPrefix(f.pkg.CloneURL, name.FixtureScheme) {
		f.usage.received.Store(ingest.FixtureSize(req))
	} else {
		if downloader, err = f.download(ctx, parser); err != nil {
			return err
		}
		defer downloader.end(cancel)
	}
	stdout, err := parser.cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start ingest: %w", err)
	}
	if err := parser.start(req); err != nil {
		return err
	}
	done, err := f.events(ctx, stdout)
	if err != nil {
		cancel()
	}
	if exit := parser.wait(); err == nil && (exit != nil || !done) {
		said := parser.stderr.String()
		if downloader != nil {
			downloader.end(cancel)
			said += downloader.stderr.String()
		}
		return f.crashed(outer, exit, said)
	}
	return err
}

// openBroker makes what dials and logs in for a job that fetches from a URL. What strangers have pulled gets no credentials,
// and leads nowhere but to hosts that are open for them.
func (f *fetch) openBroker(from string) error {
	u, err := url.Parse(from)
	if err != nil {
		return fault.New(upstream.CodeURL, "the upstream URL does not parse")
	}
	egress := f.w.opt.Egress
	if f.job.Job.Pull {
		egress.Netrc, egress.Hosts = "", nil
		for _, host := range append([]string{u.Host}, f.w.opt.Pull...) {
			egress.Hosts = append(egress.Hosts, name.Servers(host)...)
		}
	}
	f.broker, err = upstream.New(egress).Broker(u)
	return err
}

// download starts the child that talks with upstream, connected to parser,
// and dials for it until ctx ends.
func (f *fetch) download(ctx context.Context, parser *child) (*child, error) {
	if err := f.openBroker(f.pkg.CloneURL); err != nil {
		return nil, err
	}
	packs, relayed, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start download: %w", err)
	}
	c, ask, said, err := f.w.downloader(ctx, f.broker, f.dir)
	if err != nil {
		return nil, errors.Join(err, packs.Close(), relayed.Close())
	}
	go func() {
		defer said.Close()
		defer relayed.Close()
		ingest.Relay(relayed, said, &f.usage.received)
	}()
	parser.give(packs, ask)
	return c, c.start(f.w.downloadRequest(f.pkg.CloneURL, f.dir))
}

// downloadFolder is the empty folder of the child that talks with upstream, in the job's.
const downloadFolder = "download"

// downloader returns the child that talks with upstream, to be started, and
// has broker dial for it until ctx ends. What it is to get is written to ask,
// and what it says is read from said.
func (w *Worker) downloader(ctx context.Context, broker *upstream.Broker, dir string) (c *child, ask, said *os.File, err error) {
	theirs, err := dialFor(ctx, broker, dir)
	if err != nil {
		return nil, nil, nil, err
	}
	wants, ask, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("start download: %w", errors.Join(err, theirs.Close()))
	}
	said, out, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("start download: %w", errors.Join(err, theirs.Close(), wants.Close(), ask.Close()))
	}
	c = w.child(ctx, "download")
	c.cmd.Stdout = out
	c.give(theirs, wants, out)
	c.cmd.ExtraFiles = c.cmd.ExtraFiles[:2] // the third is its output
	return c, ask, said, nil
}

// dialFor makes the folder of a child that talks with upstream, and has broker
// dial for it until ctx ends. The child gets theirs, to ask for connections.
func dialFor(ctx context.Context, broker *upstream.Broker, dir string) (theirs *os.File, err error) {
	if err := os.Mkdir(filepath.Join(dir, downloadFolder), 0o700); err != nil {
		return nil, fmt.Errorf("start download: %w", err)
	}
	dials, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("start download: %w", err)
	}
	go func() {
		defer dials.Close()
		broker.Serve(ctx, dials)
	}()
	return theirs, nil
}

func (w *Worker) downloadRequest(cloneURL, dir string) ingest.DownloadRequest {
	return ingest.DownloadRequest{
		CloneURL: cloneURL,
		Dir:      filepath.Join(dir, downloadFolder),
		Egress:   upstream.Options{Limits: w.opt.Egress.Limits, UserAgent: w.opt.Egress.UserAgent},
		Limits:   w.opt.Limits,
	}
}

// socketPair returns the two ends of a socket that keeps packets apart.
func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	file := os.NewFile(uintptr(fds[0]), "dials")
	defer file.Close()
	theirs = os.NewFile(uintptr(fds[1]), "dials")
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}

// crashed explains why a child ended without a word.
func (f *fetch) crashed(ctx context.Context, exit error, said string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	f.w.log.WarnContext(ctx, "ingest ended early", "package", f.pkg.Name, "exit", exit, "stderr", said)
	switch {
	case strings.Contains(said, syscall.ENOSPC.Error()), strings.Contains(said, syscall.EDQUOT.Error()):
		return fmt.Errorf("ingest: %w", blob.ErrFull)
	case strings.Contains(said, syscall.EFBIG.Error()):
		return fault.New("too_large", "mirroring needs a file larger than the limit allows")
	case strings.Contains(said, "out of memory"), strings.Contains(said, "cannot allocate memory"):
		return fault.New("out_of_memory", "mirroring needs more memory than the limit allows")
	}
	return fault.New("ingest_failed", "the process that reads upstream ended early; the worker's log has the details")
}

// maxEvent bounds what the child may have the worker keep at once, in bytes:
// more than a list of 50,000 refs takes.
const maxEvent = 32 << 20

// events handles what the child says until it is done.
func (f *fetch) events(ctx context.Context, out io.Reader) (done bool, err error) {
	bounded := &io.LimitedReader{R: out}
	dec := json.NewDecoder(bounded)
	for {
		bounded.N = maxEvent
		var ev ingest.Event
		if err := dec.Decode(&ev); err != nil {
			return false, nil // it ended, or talks nonsense: either way it crashed
		}
		switch {
		case ev.Done:
			return true, nil
		case ev.Error != nil:
			return true, ev.Error
		case ev.Walls != nil:
			f.w.log.DebugContext(ctx, "ingest confined", "walls", ev.Walls.String())
		case ev.Progress != nil:
			f.job.setProgress(*ev.Progress)
			f.patience.waits(ev.Progress.Step == ingest.StepList || ev.Progress.Step == ingest.StepDownload)
		case ev.Refs != nil:
			err = f.recordMoves(ctx, *ev.Refs)
			f.job.listed = err == nil
		case ev.Rejected != nil:
			err = f.reject(ctx, *ev.Rejected)
		case ev.Unfit != nil:
			err = f.unfitBranch(ctx, *ev.Unfit)
		case ev.Batch != nil:
			err = f.batch(ctx, ev.Batch)
		case ev.History != nil:
			err = f.setHistory(ctx, ev.History)
		}
		if err != nil {
			return false, err
		}
	}
}

// unfitBranch notes that a branch which is followed cannot be published.
func (f *fetch) unfitBranch(ctx context.Context, u ingest.Unfit) error {
	if len(f.unfit) >= ingest.MaxBranches {
		return fault.New("ingest_untrue", "the process that reads upstream refuses more branches than it may follow")
	}
	f.unfit = append(f.unfit, u)
	f.w.log.WarnContext(ctx, "branch not mirrored", "package", f.pkg.Name, "branch", u.Branch, "code", u.Code, "reason", u.Reason)
	return nil
}

// A child is one of our processes, which reads one request and confines itself.
type child struct {
	name   string
	cmd    *exec.Cmd
	files  []*os.File // to be closed here once it has them
	stdin  io.Closer  // its end tells the child that nobody waits for it
	stderr *tail
}

// child returns one that is not started. The thread that starts it must be
// locked until it has ended.
func (w *Worker) child(ctx context.Context, name string) *child {
	c := &child{name: name, cmd: w.opt.Child(ctx, name), stderr: &tail{}}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.cmd.WaitDelay = 5 * time.Second
	c.cmd.Stderr = c.stderr
	return c
}

// give has the child start with files, from descriptor 3 on.
func (c *child) give(files ...*os.File) {
	c.files = append(c.files, files...)
	c.cmd.ExtraFiles = append(c.cmd.ExtraFiles, files...)
}

// letGo closes the files that it was given.
func (c *child) letGo() {
	for _, file := range c.files {
		file.Close()
	}
	c.files = nil
}

func (c *child) start(request any) error {
	defer c.letGo()
	input, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	c.stdin = stdin
	_, _ = stdin.Write(input) // a child that did not read it ends with an error
	return nil
}

func (c *child) wait() error {
	c.stdin.Close()
	return c.cmd.Wait()
}

// end has cancel end the child, unless it has ended.
func (c *child) end(cancel context.CancelFunc) {
	if c.cmd.ProcessState == nil {
		c.stdin.Close()
		cancel()
		_ = c.cmd.Wait()
	}
}

// A tail keeps the last of what is written to it.
type tail struct{ buf bytes.Buffer }

func (t *tail) Write(b []byte) (int, error) {
	const most = 8 << 10
	t.buf.Write(b)
	if over := t.buf.Len() - most; over > 0 {
		t.buf.Next(over)
	}
	return len(b), nil
}

func (t *tail) String() string { return t.buf.String() }
