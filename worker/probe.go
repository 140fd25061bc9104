package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"packbase/storage"
	"packbase/storage/gitpack"
)

// probePackage fetches the newest release back, as a client would.
func (w *Worker) probePackage(ctx context.Context, j *job) (any, error) {
	return w.probe(ctx, j.Job.Package)
}

// probe fetches pkg's newest release through the Git interface, checks that
// the commit is whole, and stores what came of it.
func (w *Worker) probe(ctx context.Context, pkg string) (storage.Probe, error) {
	p, err := w.db.PackageByName(ctx, pkg)
	if err != nil {
		return storage.Probe{}, err
	}
	var probe storage.Probe
	err = w.probeGit(ctx, p, &probe)
	if err == nil && w.opt.Zig != "" {
		err = w.probeZig(ctx, p)
	}
	if ctx.Err() != nil {
		return probe, ctx.Err() // says nothing about the package
	}
	probe.Healthy = err == nil
	if err != nil {
		probe.ProbeError = err.Error()
	}
	return probe, w.db.RecordProbe(ctx, p.Name, probe)
}

// probeGit asks what Zig asks: capabilities, the ref, and one commit.
func (w *Worker) probeGit(ctx context.Context, p storage.Package, probe *storage.Probe) error {
	repo := "/git/" + p.Name
	caps, err := w.ask(ctx, http.MethodGet, repo+"/info/refs?service=git-upload-pack", nil)
	if err != nil {
		return fmt.Errorf("list capabilities: %w", err)
	}
	if !bytes.Contains(caps, []byte("version 2")) {
		return errors.New("list capabilities: protocol version 2 is not offered")
	}
	refs, err := w.ask(ctx, http.MethodPost, repo+"/git-upload-pack",
		pkts("command=ls-refs\n", "", "peel\n", "symrefs\n", "ref-prefix HEAD\n", "-"))
	if err != nil {
		return fmt.Errorf("list refs: %w", err)
	}
	if len(refs) < 44 {
		return errors.New("list refs: HEAD is missing")
	}
	commit, err := gitpack.ParseOID(string(refs[4:44]))
	if err != nil {
		return fmt.Errorf("list refs: %w", err)
	}
	probe.SmartHTTPReady = true
	answer, err := w.ask(ctx, http.MethodPost, repo+"/git-upload-pack",
		pkts("command=fetch\n", "", "ofs-delta\n", "no-progress\n", "deepen 1\n", "want "+commit.String()+"\n", "done\n", "-"))
	if err != nil {
		return fmt.Errorf("fetch %s: %w", commit, err)
	}
	if err := w.checkPack(ctx, answer, commit); err != nil {
		return fmt.Errorf("fetch %s: %w", commit, err)
	}
	probe.PseudoGitFetchable, probe.ProbeCommit = true, commit.String()
	return nil
}

// pkts encodes lines as pkt-lines; "" is a delimiter and "-" a flush.
// gitprotocol-common(5), "pkt-line Format".
func pkts(lines ...string) []byte {
	var b bytes.Buffer
	for _, line := range lines {
		switch line {
		case "":
			b.WriteString("0001")
		case "-":
			b.WriteString("0000")
		default:
			fmt.Fprintf(&b, "%04x%s", len(line)+4, line)
		}
	}
	return b.Bytes()
}

// checkPack unpacks the pack within a fetch's answer and walks the commit.
func (w *Worker) checkPack(ctx context.Context, answer []byte, commit gitpack.OID) error {
	stage, err := w.opt.Staging.New()
	if err != nil {
		return err
	}
	defer stage.Close()
	pack, err := os.Create(filepath.Join(stage.Dir, "pack"))
	if err != nil {
		return err
	}
	defer pack.Close()
	if err := writePack(pack, answer); err != nil {
		return err
	}
	spool, err := os.Create(filepath.Join(stage.Dir, "objects"))
	if err != nil {
		return err
	}
	defer spool.Close()
	objects, err := gitpack.Unpack(ctx, pack, spool, w.opt.Limits.Git, nil)
	if err != nil {
		return err
	}
	raw, err := objects.Read(commit, gitpack.Commit, w.opt.Limits.Git.ObjectBytes)
	if err != nil {
		return err
	}
	info, err := gitpack.ParseCommit(raw)
	if err != nil {
		return err
	}
	_, err = objects.Files(ctx, info.Tree, w.opt.Limits.Git)
	return err
}

// writePack writes what the pack section's data packets carry.
// gitprotocol-v2(5), "output of fetch".
func writePack(to io.Writer, answer []byte) error {
	inPack := false
	for len(answer) >= 4 {
		n, err := strconv.ParseUint(string(answer[:4]), 16, 16)
		if err != nil || int(n) > len(answer) {
			return errors.New("the answer is not made of packets")
		}
		if n < 4 {
			if answer = answer[4:]; n == 0 && inPack {
				return nil
			}
			continue
		}
		data := answer[4:n]
		answer = answer[n:]
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
	return errors.New("the answer ends early")
}

// ask has the Git interface answer a request, inside this process.
func (w *Worker) ask(ctx context.Context, method, target string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://packbase"+target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.RequestURI = target
	req.RemoteAddr = "probe"
	req.Header.Set("Git-Protocol", "version=2")
	if body != nil {
		req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
	}
	answer := &recorder{header: http.Header{}, status: http.StatusOK}
	w.opt.Git.ServeHTTP(answer, req)
	if answer.status != http.StatusOK {
		return nil, fmt.Errorf("status %d, %.200s", answer.status, answer.body.String())
	}
	return answer.body.Bytes(), nil
}

// A recorder keeps an answer in memory.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

// probeZig has a real zig fetch the newest release, over HTTP on loopback.
func (w *Worker) probeZig(ctx context.Context, p storage.Package) error {
	if p.LatestTag == nil {
		return nil
	}
	r, err := w.db.ReleaseByTag(ctx, p.Name, *p.LatestTag)
	if err != nil {
		return err
	}
	stage, err := w.opt.Staging.New()
	if err != nil {
		return err
	}
	defer stage.Close()
	base, stop, err := serveLoopback(w.opt.Git)
	if err != nil {
		return err
	}
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.opt.Zig, "fetch", "git+"+base+"/git/"+p.Name+"#"+url.PathEscape(r.Tag))
	cmd.Dir = stage.Dir
	cmd.Env = append(os.Environ(), "ZIG_GLOBAL_CACHE_DIR="+filepath.Join(stage.Dir, "cache"))
	// Zig 0.16.0 fetches only where there is a build.zig.
	if err := os.WriteFile(filepath.Join(stage.Dir, "build.zig"), nil, 0o600); err != nil {
		return err
	}
	out, err := cmd.CombinedOutput()
	got := strings.TrimSpace(string(out))
	if err != nil {
		return fmt.Errorf("zig fetch: %w: %.500s", err, got)
	}
	if got != r.ZigHash && got != r.ZigLegacyHash {
		return fmt.Errorf("zig fetch: hash %.120s, want %s", got, r.ZigHash)
	}
	return nil
}
