package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/project"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/bundle"
	"github.com/francescobianco/packbase/storage/capture"
	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/userfile"
	"github.com/francescobianco/packbase/storage/zigcache"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// A Verification checks that all that a project depends on, or that a bundle has, is in a log that is trusted.
type Verification struct {
	URL     string // the server; "" for PACKBASE_URL
	Cache   string // Zig's global cache; "" for the one that Zig has
	Offline bool   // ask nobody
	JSON    bool
}

// AddFlags adds the flags of a verification to a command.
func (v *Verification) AddFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&v.URL, "url", "", "of DIR or FILE: where the server of the log is [PACKBASE_URL] (default "+DefaultURL+")")
	cmd.Flags().StringVar(&v.Cache, "cache-dir", "", "of DIR: Zig's global cache (default where zig has it)")
	cmd.Flags().BoolVar(&v.Offline, "offline", false, "of DIR or FILE: ask no server; proofs are in the cache or in the file")
}

// A verified is a package, and what is known of it.
type verified struct {
	Hash    string   `json:"hash"`
	Name    string   `json:"name,omitempty"` // for people
	Entry   string   `json:"entry,omitempty"`
	Problem string   `json:"problem,omitempty"` // why it is not proved
	Later   []string `json:"later"`             // what the log says of it since

	hashes    []string // that it is pinned by
	proof     []byte
	later     [][]byte // proofs
	withdrawn bool
	optional  bool // no build needs it that does not ask for it
}

// verifying is one run.
type verifying struct {
	p        *program
	opt      Verification
	log      *provedLog
	packages []*verified
}

// Run verifies the project in a folder, or a file that packbase bundle made.
func (v Verification) Run(ctx context.Context, run *term.Program, path string) error {
	w := &verifying{p: &program{run}, opt: v}
	info, err := os.Stat(path)
	if err != nil {
		return term.Usage("%w", err)
	}
	if info.IsDir() {
		err = w.project(ctx, path)
	} else {
		err = w.bundle(ctx, path)
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", path, err)
	}
	return w.report(path)
}

// bundle checks a file: its bytes, the hashes of its packages, and its proofs.
func (w *verifying) bundle(ctx context.Context, file string) error {
	f, err := userfile.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return bundle.Read(f, func(m bundle.Manifest) error {
		for _, pkg := range m.Packages {
			one := &verified{Hash: pkg.Hash, Name: pkg.Name, hashes: append([]string{pkg.Hash}, pkg.Aliases...)}
			if pkg.Proof != "" {
				one.proof = []byte(pkg.Proof + m.Checkpoint)
			}
			for _, proof := range pkg.Later {
				one.later = append(one.later, []byte(proof+m.Checkpoint))
			}
			w.packages = append(w.packages, one)
		}
		for _, h := range m.Holes {
			w.packages = append(w.packages, &verified{Hash: h.Hash, Problem: "it is not in the bundle: " + h.Reason, optional: h.Lazy})
		}
		return w.prove(ctx)
	}, func(pkg bundle.Package, body io.Reader) error { return w.unpack(ctx, pkg, body) })
}

// unpack checks that a package has its hashes.
func (w *verifying) unpack(ctx context.Context, pkg bundle.Package, body io.Reader) error {
	tmp, err := os.CreateTemp("", "packbase-verify-*")
	if err != nil {
		return err
	}
	defer tmp.Close()
	if err := os.Remove(tmp.Name()); err != nil {
		return err
	}
	size, err := io.Copy(tmp, body)
	if err != nil {
		return err
	}
	for _, hash := range append([]string{pkg.Hash}, pkg.Aliases...) {
		if _, err := zigcache.Check(ctx, hash, tmp, size); err != nil {
			return fmt.Errorf("%s: %w", hash, err)
		}
	}
	return nil
}

// project finds all that a project depends on, as far as Zig's cache tells, with the proofs that are there.
func (w *verifying) project(ctx context.Context, dir string) (err error) {
	manifests, err := project.Manifests(dir)
	if err != nil {
		return term.Usage("%w", err)
	}
	cache := zigcache.Cache{Dir: w.opt.Cache}
	if cache.Dir == "" {
		if cache.Dir, err = project.CacheDir(w.p.Getenv); err != nil {
			return term.Usage("%w", err)
		}
	}
	var deps []zigpkg.Dependency
	for _, m := range manifests {
		man, err := zigpkg.ParseManifest([]byte(m.Text))
		if err != nil {
			return fmt.Errorf("%s: %w", m.File, err)
		}
		deps = append(deps, man.Dependencies...)
	}
	nodes, problems, err := capture.Walk(ctx, deps, func(ctx context.Context, hashes []string) (map[string][]zigpkg.Dependency, error) {
		found := map[string][]zigpkg.Dependency{}
		for _, hash := range hashes {
			deps, ok, err := dependenciesOf(ctx, cache, hash)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", hash, err)
			}
			if ok {
				found[hash] = deps
			}
		}
		return found, nil
	})
	if err != nil {
		return err
	}
	required := capture.Required(nodes)
	for _, n := range nodes {
		one := &verified{Hash: n.Hash, hashes: []string{n.Hash}, optional: !required[n.Hash]}
		if len(n.URLs) > 0 {
			one.Name = n.URLs[0]
		}
		if !n.Stored {
			one.Problem = "it is not in " + cache.Dir + ", so what it needs is not known: packbase warm brings it"
		}
		if one.proof, err = cache.Proof(n.Hash); err != nil {
			return err
		}
		w.packages = append(w.packages, one)
	}
	for _, p := range problems {
		w.packages = append(w.packages, &verified{Name: p.Name, Problem: p.Reason})
	}
	return w.prove(ctx)
}

// dependenciesOf returns what a package in the cache depends on; ok is false if it is not there.
func dependenciesOf(ctx context.Context, cache zigcache.Cache, hash string) (deps []zigpkg.Dependency, ok bool, err error) {
	if err := zigpkg.ValidHash(hash); err != nil {
		return nil, false, err
	}
	if dir, err := filepath.EvalSymlinks(cache.Folder(hash)); err == nil {
		deps, err := dependenciesIn(userfile.Folder{Dir: dir, Most: zigpkg.MaxManifestBytes})
		return deps, err == nil, err
	}
	f, err := userfile.Open(cache.Tarball(hash))
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	if deps, err = zigcache.Check(ctx, hash, f, info.Size()); err != nil {
		return nil, false, err
	}
	nested := capture.NewReader(func(context.Context, string) (io.ReadCloser, error) { return userfile.Open(cache.Tarball(hash)) })
	deps, err = nested.Dependencies(ctx, hash, deps)
	return deps, err == nil, err
}

// dependenciesIn is dependenciesOf for a folder. What a stranger's package names by a path is looked for within it, as in its tarball.
func dependenciesIn(files userfile.Folder) ([]zigpkg.Dependency, error) {
	raw, err := files.ReadFile(zigpkg.ManifestName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	man, err := zigpkg.ParseManifest(raw)
	if err != nil {
		return nil, fmt.Errorf("%s:%w", zigpkg.ManifestName, err)
	}
	return capture.Nested(man.Dependencies, func(file string) ([]byte, error) {
		at := filepath.Join(files.Dir, filepath.FromSlash(file))
		if real, err := filepath.EvalSymlinks(at); err != nil || real != at {
			return nil, fs.ErrNotExist
		}
		return files.ReadFile(file)
	}), nil
}

// prove checks the proofs of all packages: those that the server has now, or, where it cannot be asked, those that are here.
func (w *verifying) prove(ctx context.Context) error {
	if err := w.ask(ctx); err != nil {
		return err
	}
	for _, one := range w.packages {
		if one.Problem != "" {
			continue
		}
		if one.proof == nil {
			one.Problem = "there is no proof of it here: packbase warm keeps those that the server has"
			if w.log != nil && w.log.c != nil {
				one.Problem = "it is not in the log of " + w.log.name + ", or not yet"
			}
			continue
		}
		if err := w.check(ctx, one); err != nil {
			one.Problem = err.Error()
		}
	}
	if w.log != nil && w.log.c == nil {
		return w.log.end()
	}
	return nil
}

// ask gets from the server what its log says of the packages.
func (w *verifying) ask(ctx context.Context) (err error) {
	var hashes []string
	for _, one := range w.packages {
		if len(one.hashes) > 0 {
			hashes = append(hashes, one.Hash)
		}
	}
	if w.opt.Offline || len(hashes) == 0 {
		return nil
	}
	w.log, err = w.p.openTrusted(ctx, &remote{url: w.opt.URL})
	if isOffline(err) {
		s := w.p.Screen(w.p.Stderr)
		s.Printf("%s nobody is asked: %s\n", s.Paint(term.Yellow, "warn"), term.PrintableLines(err.Error()))
		w.log, err = nil, nil
	}
	if err != nil || w.log == nil {
		return err
	}
	for some := range slices.Chunk(hashes, 1000) { // as many as it takes
		raw, err := w.log.c.post(ctx, route.Proofs, wire.WantProofs{Hashes: some})
		if err != nil {
			return err
		}
		answer, err := decode[wire.Proofs](raw)
		if err != nil {
			return err
		}
		for _, p := range answer.Proofs {
			for _, one := range w.packages {
				if one.Hash != p.Hash {
					continue
				}
				one.proof, one.later = []byte(p.Proof+answer.Checkpoint), nil
				for _, later := range p.Later {
					one.later = append(one.later, []byte(later+answer.Checkpoint))
				}
			}
		}
	}
	return nil
}

// check checks the proofs of one package.
func (w *verifying) check(ctx context.Context, one *verified) (err error) {
	checkpoint := logbook.ProofCheckpoint(one.proof)
	if len(checkpoint) == 0 {
		return errors.New("what is here is no whole proof of it: packbase warm brings another")
	}
	if w.log == nil {
		if w.log, err = w.p.openOffline(checkpoint); err != nil {
			w.log = nil
			return err
		}
	}
	e, err := w.log.holds(ctx, one.proof, one.hashes...)
	if err != nil {
		return err
	}
	one.Entry = e.Kind() + " " + entrySubject(e)
	for _, proof := range one.later {
		later, signed, err := logbook.OpenProof(proof, w.log.policy)
		if err == nil {
			_, err = w.log.follow(ctx, signed)
		}
		if err != nil {
			return err
		}
		if later.Value("upstream") != e.Value("upstream") || later.Value("url") != e.Value("url") || later.Value("ref") != e.Value("ref") && later.Value("commit") != e.Value("commit") {
			return errors.New("what the log is said to say of it is of something else")
		}
		one.withdrawn = one.withdrawn || later.Kind() == "withdrawn"
		one.Later = append(one.Later, toldLater(later))
	}
	return nil
}

// entrySubject is what an entry tells of.
func entrySubject(e logbook.Entry) string {
	var text string
	for _, key := range []string{"upstream", "url", "ref", "commit"} {
		if v := e.Value(key); v != "" && (key != "commit" || e.Value("ref") == "") {
			text += v + " "
		}
	}
	return text[:max(0, len(text)-1)]
}

func toldLater(e logbook.Entry) string {
	switch e.Kind() {
	case "moved":
		return fmt.Sprintf("moved: upstream names %s now, and named %s (%s)", e.Value("new"), e.Value("old"), e.Value("seen"))
	case "gone":
		return "gone: upstream does not have it any more (" + e.Value("seen") + ")"
	}
	return e.Kind() + ": the mirror serves it no more (" + e.Value("seen") + ")"
}

// report tells what was found. What is not proved, or was withdrawn, is an error.
func (w *verifying) report(path string) error {
	var proved, unproved, withdrawn int
	s := w.p.Screen(w.p.Stdout)
	for _, one := range w.packages {
		switch {
		case one.Problem == "":
			proved++
		case !one.optional:
			unproved++
		}
		if one.withdrawn {
			withdrawn++
		}
		if !w.opt.JSON {
			w.draw(s, one)
		}
	}
	if w.opt.JSON {
		for _, one := range w.packages {
			if one.Later == nil {
				one.Later = []string{}
			}
		}
		enc := json.NewEncoder(w.p.Stdout)
		if err := enc.Encode(map[string]any{"packages": w.packages, "proved": proved, "unproved": unproved, "withdrawn": withdrawn}); err != nil {
			return err
		}
	}
	switch {
	case unproved > 0:
		return fmt.Errorf("%s: %s not proved to be in a log that is trusted", path, term.Plural(unproved, "package"))
	case withdrawn > 0:
		return fmt.Errorf("%s: %s withdrawn", path, term.Plural(withdrawn, "package"))
	}
	if !w.opt.JSON {
		s.Printf("%s %s: %s proved", s.Paint(term.Green, "ok"), term.Printable(path), term.Plural(proved, "package"))
		if w.log != nil {
			s.Printf(" to be in the log of %s", term.Printable(w.log.name))
		}
		s.Printf("\n")
	}
	return nil
}

func (w *verifying) draw(s *term.Screen, one *verified) {
	name := one.Hash
	if one.Name != "" {
		name += " (" + one.Name + ")"
	}
	if one.Problem != "" {
		word := "unproved"
		if one.optional {
			word = "unproved, lazy"
		}
		s.Printf("%s %s: %s\n", s.Paint(term.Yellow, word), term.Printable(name), term.Printable(one.Problem))
	}
	for _, later := range one.Later {
		s.Printf("%s %s, %s: %s\n", s.Paint(term.Yellow, "warn"), term.Printable(name), term.Printable(one.Entry), term.Printable(later))
	}
}
