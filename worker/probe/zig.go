package probe

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/francescobianco/packbase/worker/confine"
)

// zigLimits bound a zig that fetches, and from 0.16 on compiles its fetcher.
var zigLimits = confine.Limits{Memory: 64 << 30, File: 2 << 30, CPU: 10 * time.Minute, Files: 1024, Processes: 256}

// zigMemory returns the memory that zig gets to fetch a package. A build.zig.zon of 900 KB in one line, each of whose
// errors quotes it, took all there was. Of Zig 0.13 to 0.17 none filled more than 200 MiB for the longest manifest that it
// reads, 40 MiB more than the largest file, or 410 MiB for 80,000 files, for which 0.16 reserves 8 GiB of addresses.
func zigMemory(p content) int64 { return 512<<20 + 2*p.largest + 8<<10*p.files }

// A content is what decides how much memory zig needs for a package.
type content struct {
	files   int64
	largest int64 // bytes of the largest
}

// compileTimeout is how long zig may take to compile what it fetches with: a
// minute of two processors, of which a busy machine gives a tenth.
const compileTimeout = 30 * time.Minute

// zigOutput is the most that zig may print, in bytes. A build.zig.zon can make
// it print for ever.
const zigOutput = 64 << 10

// zig runs zig in dir, with the folder cache there as its cache, so much memory, 0 for all, and nothing
// else of this machine but one port on loopback, 0 for none. It returns what
// zig printed, without the names of dir and of zig's own folder.
func (p *Prober) zig(ctx context.Context, dir string, port uint16, memory int64, args ...string) (string, error) {
	path, err := filepath.EvalSymlinks(p.Zig)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", noZig(err)
	}
	// Zig 0.16.0 fetches only where there is a build.zig.
	if err := os.WriteFile(filepath.Join(dir, "build.zig"), nil, 0o600); err != nil {
		return "", fmt.Errorf("make build.zig: %w", err)
	}
	home := filepath.Dir(path)
	out, err := confine.Program{
		Room: confine.Room{
			Dir: dir, Limits: zigLimits, Port: port,
			// Its own files, not all that may lie beside them, and what tells it about the system's C library.
			Read: []string{path, filepath.Join(home, "lib"), filepath.Join(filepath.Dir(home), "lib"), "/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache"},
		},
		Path: path, Args: args, Resident: memory,
		Env: []string{"ZIG_GLOBAL_CACHE_DIR=" + filepath.Join(dir, "cache"), "HOME=" + dir, "TMPDIR=" + dir},
	}.Output(ctx, p.Child, zigOutput)
	real, e := filepath.EvalSymlinks(dir)
	if e != nil {
		real = dir
	}
	return withoutFolder(out, dir, real, home, filepath.Dir(p.Zig)), err
}

// noZig says that there is no zig as everybody may read it: not where it was looked for.
func noZig(err error) error {
	var file *fs.PathError
	if errors.As(err, &file) {
		err = file.Err
	}
	return fmt.Errorf("the zig that PACKBASE_ZIG names cannot be used: %v", err)
}

// withoutFolder returns what zig printed, trimmed, with paths as they are below its folder, whatever that is called:
// probes tell everybody what zig said.
func withoutFolder(out string, called ...string) string {
	slices.SortFunc(called, func(a, b string) int { return len(b) - len(a) }) // one may end as the other does
	for _, dir := range called {
		out = strings.ReplaceAll(strings.ReplaceAll(out, dir+"/", ""), dir, ".")
	}
	return strings.TrimSpace(out)
}

// zigDir makes a folder for one run of zig. As root that runs as another user,
// who has to reach it: what staging lies below may be root's alone.
func (p *Prober) zigDir() (dir string, remove func(), err error) {
	if os.Geteuid() == 0 {
		dir, err := os.MkdirTemp("", "packbase-zig-")
		return dir, func() { os.RemoveAll(dir) }, err
	}
	stage, err := p.Staging.New()
	if err != nil {
		return "", nil, err
	}
	return stage.Dir, func() { stage.Close() }, nil
}

// copyCache makes dir a cache that holds what zig compiled for itself, which
// from 0.17 on takes a minute. It is compiled once, with nothing of a package
// about, and each probe has a copy of its own: none leaves anything to the next.
func (p *Prober) copyCache(ctx context.Context, dir string) error {
	p.warm.Lock()
	defer p.warm.Unlock()
	info, err := os.Stat(p.Zig)
	if err != nil {
		return noZig(err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", p.Zig, info.Size(), info.ModTime().UnixNano()))
	warm := filepath.Join(p.ZigCache, "zig-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(warm); errors.Is(err, fs.ErrNotExist) {
		if err := p.compile(ctx, warm); err != nil {
			return err
		}
	}
	if err := os.CopyFS(dir, os.DirFS(warm)); err != nil {
		return fmt.Errorf("copy zig's cache: %w", err)
	}
	return nil
}

// compile fetches a package of ours, and keeps the cache.
func (p *Prober) compile(ctx context.Context, warm string) error {
	ctx, cancel := context.WithTimeout(ctx, compileTimeout)
	defer cancel()
	dir, remove, err := p.zigDir()
	if err != nil {
		return fmt.Errorf("make zig's cache: %w", err)
	}
	defer remove()
	err = errors.Join(os.Mkdir(filepath.Join(dir, "cache"), 0o700), os.Mkdir(filepath.Join(dir, "package"), 0o700),
		os.WriteFile(filepath.Join(dir, "package", "a.zig"), nil, 0o600))
	if err != nil {
		return fmt.Errorf("make zig's cache: %w", err)
	}
	if out, err := p.zig(ctx, dir, 0, 0, "fetch", "package"); err != nil {
		return fmt.Errorf("zig fetch of a package of our own: %w: %.500s", err, out)
	}
	cache, fresh := filepath.Join(dir, "cache"), warm+".new"
	err = errors.Join(os.RemoveAll(filepath.Join(cache, "p")), os.RemoveAll(filepath.Join(cache, "tmp")), os.RemoveAll(fresh),
		os.CopyFS(fresh, os.DirFS(cache)), os.Rename(fresh, warm))
	if err != nil {
		return fmt.Errorf("keep zig's cache: %w", err)
	}
	return nil
}
