package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/project"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/bundle"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/strangejson"
	"github.com/francescobianco/packbase/storage/userfile"
	"github.com/francescobianco/packbase/storage/zigcache"
)

func (p *program) warmCommand() *cobra.Command {
	var zig, cacheDir, from string
	var all, proofs bool
	cmd := &cobra.Command{
		Use:   "warm [DIR]",
		Short: "Fill Zig's cache with all that a project depends on",
		Long: `Fill Zig's global cache with all that the project in DIR depends on, so that
zig build needs no network. The server answers one request with one stream; each
package is unpacked and hashed here before it is stored, and what the cache has
is left as it is. Nothing in the project is edited.

What is missing on the server is listed: packbase capture brings it. With --from
the packages come from a file that packbase bundle made, and no server is asked.

With --require-proof nothing is stored unless each package is proved to be in the
server's log, which packbase trust has to know; of a file the proofs in it will do if
the server is away. Proofs that come along are kept in the cache: see verify.`,
		Example: `  packbase warm && zig build
  packbase warm --require-all --zig ~/zig-0.15.2/zig ~/src/zls
  packbase warm --from zls.tar`,
		Args: cobra.MaximumNArgs(1),
	}
	r := p.addRemote(cmd)
	_ = cmd.Flags().MarkHidden("json") // it is there
	cmd.Flags().StringVar(&zig, "zig", "", "the zig that will build: its version says how the cache looks (default the one in PATH; both ways if there is none)")
	cmd.Flags().StringVar(&cacheDir, "cache-dir", "", "Zig's global cache (default where zig has it: ZIG_GLOBAL_CACHE_DIR, else in the home folder)")
	cmd.Flags().StringVar(&from, "from", "", "a file that packbase bundle made, in place of the server")
	cmd.Flags().BoolVar(&all, "require-all", false, "store nothing and fail if anything is missing")
	cmd.Flags().BoolVar(&proofs, "require-proof", false, "store nothing unless each package is proved to be in the server's log")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		w := &warming{p: p, g: &progress{s: p.Screen(p.Stderr)}, all: all}
		var err error
		if w.cache, err = p.cache(cmd.Context(), zig, cacheDir); err != nil {
			return err
		}
		if proofs {
			w.log, err = p.openTrusted(cmd.Context(), r)
			if from != "" && isOffline(err) {
				w.log, err = nil, nil
			}
			if err != nil {
				return err
			}
			w.proofs = true
		}
		stream, err := p.openBundle(cmd.Context(), r, args, from, !all)
		if err != nil {
			return err
		}
		defer stream.Close()
		return w.run(cmd.Context(), stream)
	}
	return cmd
}

// cache returns the cache of a zig, "" for the one in PATH.
func (p *program) cache(ctx context.Context, zig, dir string) (c zigcache.Cache, err error) {
	if c.Dir = dir; dir == "" {
		if c.Dir, err = project.CacheDir(p.Getenv); err != nil {
			return c, term.Usage("%w", err)
		}
	}
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return c, fmt.Errorf("find cache: %w", err)
	}
	version, err := project.Version(ctx, cmp.Or(zig, "zig"))
	if err != nil && zig != "" {
		return c, term.Usage("--zig: %w", err)
	}
	archives, known := project.ReadsArchives(version)
	c.Archives, c.Folders = archives || !known, !archives || !known
	return c, nil
}

// openBundle returns the stream of a file, or of what the server has for a project.
func (p *program) openBundle(ctx context.Context, r *remote, args []string, from string, partial bool) (io.ReadCloser, error) {
	if from != "" {
		f, err := userfile.Open(from)
		if err != nil {
			return nil, term.Usage("--from: %w", err)
		}
		return f, nil
	}
	manifests, err := manifestsOf(args)
	if err != nil {
		return nil, err
	}
	c, err := p.client(r)
	if err != nil {
		return nil, err
	}
	res, err := c.listen(ctx, silence, http.MethodPost, route.Bundle, wire.WantBundle{Manifests: manifests, Partial: partial})
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusOK {
		return res.Body, nil
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, &AwayError{c.base, err}
	}
	var holes wire.Holes
	if strangejson.Unmarshal(body, &holes) == nil {
		p.drawHoles(holes.Holes)
	}
	return nil, newAnswerError(res, body)
}

// drawHoles lists what is missing.
func (p *program) drawHoles(holes []wire.Hole) {
	s := p.Screen(p.Stderr)
	for _, h := range holes {
		what := h.Hash
		if len(h.URLs) > 0 {
			what = h.URLs[0]
		}
		word := "missing"
		if h.Lazy {
			word = "missing, lazy"
		}
		s.Printf("%s %s: %s\n", s.Paint(term.Yellow, word), term.Printable(cmp.Or(what, "a package")), term.Printable(h.Reason))
	}
}

// A warming is one run of the command warm.
type warming struct {
	p     *program
	g     *progress
	cache zigcache.Cache
	all   bool
	log   *provedLog // nil if no proofs are asked for, or before the file's are read

	proofs     bool
	checkpoint string // of the proofs that came along

	stores        errgroup.Group // as many packages are stored at once as there are processors
	total, done   int64          // bytes
	here, brought int            // packages
	holes         []wire.Hole
}

func (w *warming) run(ctx context.Context, stream io.Reader) error {
	began := time.Now()
	defer w.g.clear()
	w.stores.SetLimit(runtime.GOMAXPROCS(0))
	storing, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	err := bundle.Read(stream, func(m bundle.Manifest) error { return w.listed(ctx, m) }, func(pkg bundle.Package, body io.Reader) error { return w.put(storing, stop, pkg, body) })
	if bad := w.stores.Wait(); bad != nil {
		err = bad
	}
	w.g.clear()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("warm: %w", err)
	}
	w.p.drawHoles(w.holes)
	s := w.p.Screen(w.p.Stdout)
	s.Printf("%s %s: %s, %s, %d of them new, in %s", s.Paint(term.Green, "ok"), w.cache.Dir,
		term.Plural(w.here+w.brought, "package"), term.Size(w.done), w.brought, time.Since(began).Round(10*time.Millisecond))
	if n := len(w.holes); n > 0 {
		s.Printf("; %s", s.Paint(term.Yellow, fmt.Sprintf("%d missing", n)))
	}
	s.Printf("\n")
	return nil
}

func (w *warming) listed(ctx context.Context, m bundle.Manifest) error {
	for _, pkg := range m.Packages {
		w.total += pkg.Size
	}
	for _, h := range m.Holes {
		w.holes = append(w.holes, wire.Hole(h))
	}
	if w.all && len(w.holes) > 0 {
		w.g.clear()
		w.p.drawHoles(w.holes)
		return fmt.Errorf("%d packages are missing, and --require-all wants all", len(w.holes))
	}
	w.checkpoint = m.Checkpoint
	if !w.proofs {
		return nil
	}
	if w.log == nil {
		return w.proveOffline(ctx, m)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, pkg := range m.Packages {
		for _, hash := range append([]string{pkg.Hash}, pkg.Aliases...) { // what is said to be the same may be something else
			g.Go(func() error { return w.log.prove(ctx, hash) })
		}
	}
	return g.Wait()
}

// proveOffline demands the proofs that the bundle has, without asking anybody.
func (w *warming) proveOffline(ctx context.Context, m bundle.Manifest) error {
	log, err := w.p.openOffline([]byte(m.Checkpoint))
	if err != nil {
		return err
	}
	for _, pkg := range m.Packages {
		if pkg.Proof == "" {
			return fmt.Errorf("%s: the bundle has no proof of it", pkg.Hash)
		}
		if _, err := log.holds(ctx, []byte(pkg.Proof+m.Checkpoint), append([]string{pkg.Hash}, pkg.Aliases...)...); err != nil {
			return err
		}
	}
	return log.end()
}

// put has one package stored under all its hashes, unless it is there. If that fails, stop is called.
func (w *warming) put(ctx context.Context, stop context.CancelCauseFunc, pkg bundle.Package, body io.Reader) error {
	body = &countedBody{body, w}
	var missing []string
	for _, hash := range append([]string{pkg.Hash}, pkg.Aliases...) {
		if !w.cache.Has(hash) {
			missing = append(missing, hash)
		} else if err := w.putProof(hash, pkg); err != nil {
			return err
		}
	}
	if len(missing) == 0 {
		w.here++
		_, err := io.Copy(io.Discard, body)
		return err
	}
	w.brought++
	file, err := os.CreateTemp("", "packbase-warm-*")
	if err != nil {
		return fmt.Errorf("make temporary file: %w", err)
	}
	if err := os.Remove(file.Name()); err != nil {
		return errors.Join(fmt.Errorf("make temporary file: %w", err), file.Close())
	}
	size, err := io.Copy(file, body)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	w.stores.Go(func() error {
		defer file.Close()
		for _, hash := range missing {
			err := w.cache.Put(ctx, hash, file, size)
			if err == nil {
				err = w.putProof(hash, pkg)
			}
			if err != nil {
				stop(err)
				return fmt.Errorf("%s: %w", hash, err)
			}
		}
		return nil
	})
	return context.Cause(ctx)
}

// putProof stores the proof of a package that is in the cache, if the bundle has one.
func (w *warming) putProof(hash string, pkg bundle.Package) error {
	if pkg.Proof == "" {
		return nil
	}
	return w.cache.PutProof(hash, []byte(pkg.Proof+w.checkpoint))
}

// A countedBody shows how far the stream is.
type countedBody struct {
	io.Reader
	w *warming
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.w.done += int64(n)
	j := job{Job: wire.Job{Kind: "warm", State: jobs.Running, Progress: wire.Progress{Step: "packages", Done: b.w.done, Total: b.w.total, Unit: "bytes"}}}
	b.w.g.show(j)
	return n, err
}

func (p *program) bundleCommand() *cobra.Command {
	var out string
	var partial bool
	cmd := &cobra.Command{
		Use:   "bundle [DIR]",
		Short: "Write all that a project depends on to one file",
		Long: `Write all that the project in DIR depends on to one file, for a place without
a network: packbase warm --from puts it into Zig's cache there, for every version
of Zig. The same packages give the same bytes. Of lazy packages what is stored will
do; it tells of those that are missing.`,
		Example: `  packbase bundle -o zls.tar ~/src/zls
  packbase warm --from zls.tar`,
		Args: cobra.MaximumNArgs(1),
	}
	r := p.addRemote(cmd)
	_ = cmd.Flags().MarkHidden("json") // it is there
	cmd.Flags().StringVarP(&out, "output", "o", "", "the file to write; - is standard output (default the project's name and .tar)")
	cmd.Flags().BoolVar(&partial, "partial", false, "write what there is, also if a build would fail")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if out == "" {
			manifests, err := manifestsOf(args)
			if err != nil {
				return err
			}
			name, err := treeName(manifests)
			if err != nil {
				return err
			}
			out = name + ".tar"
		}
		stream, err := p.openBundle(cmd.Context(), r, args, "", partial)
		if err != nil {
			return err
		}
		defer stream.Close()
		if out == "-" {
			_, err := copyBundle(p.Stdout, stream)
			return err
		}
		if info, err := os.Stat(out); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
			return pourBundle(stream, out)
		}
		return p.writeBundle(stream, out)
	}
	return cmd
}

// pourBundle writes a bundle into a device or a pipe: no file takes the place of that.
func pourBundle(stream io.Reader, out string) error {
	f, err := os.OpenFile(out, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	_, err = copyBundle(f, stream)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}

// writeBundle writes a bundle to a file that appears as a whole or not at all, and only if it is one.
func (p *program) writeBundle(stream io.Reader, out string) (err error) {
	file := out
	if real, err := filepath.EvalSymlinks(out); err == nil {
		file = real // what a link leads to is written, not the link, which may be /dev/stdout
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".packbase-bundle-*")
	if err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	m, err := copyBundle(tmp, stream)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	if err := os.Rename(tmp.Name(), file); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	holes, size := make([]wire.Hole, len(m.Holes)), int64(0)
	for i, h := range m.Holes {
		holes[i] = wire.Hole(h)
	}
	for _, pkg := range m.Packages {
		size += pkg.Size
	}
	p.drawHoles(holes)
	s := p.Screen(p.Stdout)
	s.Printf("%s %s: %s, %s\n", s.Paint(term.Green, "ok"), term.Printable(out), term.Plural(len(m.Packages), "package"), term.Size(size))
	return nil
}

// copyBundle copies a bundle, and nothing that follows it.
func copyBundle(w io.Writer, stream io.Reader) (m bundle.Manifest, err error) {
	err = bundle.Read(io.TeeReader(stream, w), func(listed bundle.Manifest) error { m = listed; return nil },
		func(bundle.Package, io.Reader) error { return nil })
	return m, err
}
