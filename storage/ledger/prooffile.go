package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sys/unix"

	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/pg"
)

// Proofs are files, too, in a folder of their own below that of the log, at the paths at which they are served: one file
// with several names for each release, snapshot and archive. It is written once, under the checkpoint of that moment, which
// proves as much as any later one: a million of them are 4 GB, and the log grows without touching these.
const (
	proofFolder = "proof"
	provedFile  = proofFolder + "/size" // how many entries have their files, and the digest of the policy that these fulfil
	proofBatch  = 1000                  // entries whose files are written before others are looked at
)

// writeProofs writes proofs of what the folder shows, or a part of them: then more is true. A checkpoint that has too few
// cosignatures proves nothing to those who want more; a policy that changed wants other signatures of all.
func (q *Sequencer) writeProofs(ctx context.Context) (more bool, err error) {
	signed, err := q.opt.Folder.Checkpoint()
	if err != nil || signed == nil {
		return false, err
	}
	policy := q.policy()
	done, err := q.opt.Folder.proved(policy)
	if err != nil {
		return false, err
	}
	shown, err := logbook.OpenCheckpoint(signed, policy)
	if err != nil || done == shown.N {
		return false, nil
	}
	if done > shown.N { // this is not the folder that they were written for
		done = 0
	}
	end := min(done+proofBatch, shown.N)
	files, err := q.store.proofFiles(ctx, done, end)
	if err == nil {
		err = q.store.proveFiles(ctx, files, shown, signed)
	}
	if err == nil {
		err = q.opt.Folder.writeProofs(files)
	}
	if err == nil {
		err = q.opt.Folder.replace(provedFile, fmt.Appendf(nil, "%d\n%x\n", end, sha256.Sum256(policy)))
	}
	if err != nil {
		return false, fmt.Errorf("write proofs of the log: %w", err)
	}
	return end < shown.N, nil
}

// A proofFile is a proof, its entry and its names.
type proofFile struct {
	index int64
	entry logbook.Entry
	text  []byte
	names []string
}

// proofFiles returns the files of the entries from begin on and before end, without their text.
func (s *Store) proofFiles(ctx context.Context, begin, end int64) ([]proofFile, error) {
	rows, _ := s.db.Pool.Query(ctx, `SELECT idx, entry FROM log_entries WHERE idx >= $1 AND idx < $2 ORDER BY idx`, begin, end)
	var files []proofFile
	upstreams := map[string][]string{} // names of its packages
	var index int64
	var text []byte
	_, err := pgx.ForEachRow(rows, []any{&index, &text}, func() error {
		e, err := logbook.ParseEntry(text)
		if err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		files = append(files, proofFile{index: index, entry: e})
		upstreams[e.Value("upstream")] = nil
		return nil
	})
	if err == nil {
		err = s.namePackages(ctx, upstreams)
	}
	for i, f := range files {
		files[i].names = proofNames(f.entry, upstreams[f.entry.Value("upstream")])
	}
	return files, pg.Translate(err)
}

// proveFiles gives files their text, under a checkpoint.
func (s *Store) proveFiles(ctx context.Context, files []proofFile, tree tlog.Tree, signed []byte) error {
	if len(files) == 0 {
		return nil
	}
	all, err := s.proven(ctx, `SELECT $1::bigint AS size, $2::bytea AS root, $3::text AS note`, `e.idx >= $4 AND e.idx <= $5`,
		tree.N, tree.Hash[:], string(signed), files[0].index, files[len(files)-1].index)
	if err == nil && len(all) != len(files) {
		err = fmt.Errorf("of %d entries from %d on there are %d", len(files), files[0].index, len(all))
	}
	if err != nil {
		return err
	}
	for i, p := range all {
		files[i].text = p.text()
	}
	return nil
}

// namePackages finds what packages are called first: what they are renamed to, the api knows.
func (s *Store) namePackages(ctx context.Context, upstreams map[string][]string) error {
	rows, _ := s.db.Pool.Query(ctx, `SELECT upstream, name FROM packages WHERE upstream = ANY($1) AND NOT private`, slices.Collect(maps.Keys(upstreams)))
	var upstream, name string
	_, err := pgx.ForEachRow(rows, []any{&upstream, &name}, func() error {
		upstreams[upstream] = append(upstreams[upstream], name)
		return nil
	})
	return pg.Translate(err)
}

// proofNames returns where the proof of an entry is served.
func proofNames(e logbook.Entry, packages []string) (names []string) {
	file := "commit/" + e.Value("commit")
	switch e.Kind() {
	case "release":
		file = "tag/" + strings.TrimPrefix(e.Value("ref"), "refs/tags/")
	case "snapshot", "archive":
	default:
		return nil
	}
	for _, pkg := range packages {
		names = append(names, "p/"+pkg+"/"+file)
	}
	for _, key := range []string{"zig", "zig-legacy"} {
		if hash := e.Value(key); hash != "" {
			names = append(names, "z/"+hash)
		}
	}
	for i := range names {
		names[i] += logbook.ProofSuffix
	}
	// A tag is what upstream called it.
	return slices.DeleteFunc(names, func(name string) bool { return !filepath.IsLocal(name) || path.Clean(name) != name })
}

// proved returns how many entries have files that fulfil the policy; nil is any.
func (f Folder) proved(policy []byte) (n int64, err error) {
	text, err := f.files().ReadFile(provedFile)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var digest string
	if _, err := fmt.Sscanf(string(text), "%d\n%64s\n", &n, &digest); err != nil || n < 0 || policy != nil && digest != fmt.Sprintf("%x", sha256.Sum256(policy)) {
		return 0, nil // they are written again
	}
	return n, nil
}

// writeProofs writes files, all of them durably. Until it is done they may be lost or damaged when the machine stops: then
// they are written again.
func (f Folder) writeProofs(files []proofFile) error {
	dir := filepath.Join(f.Dir, proofFolder)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, file := range files {
		if err := file.write(dir); err != nil {
			return fmt.Errorf("of entry %d: %w", file.index, err)
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	// Of the whole disk, as a thousand files one by one would take a thousand times as long.
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// write gives a proof its names. Each appears as a whole.
func (p proofFile) write(dir string) error {
	from, give := filepath.Join(dir, ".new"), os.Rename
	if len(p.names) == 0 {
		return nil
	}
	if err := os.WriteFile(from, p.text, 0o644); err != nil {
		return err
	}
	for _, name := range p.names {
		name = filepath.Join(dir, name)
		err := give(from, name)
		if errors.Is(err, fs.ErrNotExist) {
			if err = os.MkdirAll(filepath.Dir(name), 0o755); err == nil {
				err = give(from, name)
			}
		}
		if errors.Is(err, fs.ErrExist) { // another file's, if it has the same hash
			if err = os.Remove(name); err == nil {
				err = give(from, name)
			}
		}
		if err == nil {
			from, give = name, os.Link
		} else if !noName(err) {
			return err
		}
	}
	return nil
}

// noName reports whether a tag cannot be a file's name beside the others: it is too long, or one is the folder of another.
// The api makes the proof then.
func noName(err error) bool {
	for _, no := range []error{unix.ENAMETOOLONG, unix.ENOTDIR, unix.EISDIR, unix.ENOTEMPTY, unix.EEXIST} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// proofs checks the files of proofs.
func (a *audit) proofs(ctx context.Context, keys []string) error {
	done, err := a.folder.proved(nil)
	if err != nil {
		return err
	}
	found := 0
	for begin := int64(0); begin < done && found < mostFindings; begin += proofBatch {
		files, err := a.store.proofFiles(ctx, begin, min(begin+proofBatch, done))
		if err != nil {
			return err
		}
		for _, file := range files {
			for _, name := range file.names {
				err := a.proof(&file, name, keys)
				if errors.Is(err, errNoProof) && a.hasOther(&file, name) {
					continue
				}
				if err != nil && found < mostFindings {
					found++
					a.find("log_proof", filepath.Join(a.folder.Dir, proofFolder, name), "%v: remove the file %s of the log's folder, and a worker writes all again", err, provedFile)
				}
			}
		}
	}
	return nil
}

var errNoProof = errors.New("it is not there")

// hasOther reports whether the proof has the name of another package of the same upstream. One that came later, or became public, has
// none: the entry was there, so no file was written. The api makes its proof.
func (a *audit) hasOther(file *proofFile, name string) bool {
	return strings.HasPrefix(name, "p/") && slices.ContainsFunc(file.names, func(other string) bool {
		_, err := os.Stat(filepath.Join(a.folder.Dir, proofFolder, other))
		return strings.HasPrefix(other, "p/") && err == nil
	})
}

// proof checks one name of a file. There may be the proof of another entry with the same hash.
func (a *audit) proof(file *proofFile, name string, keys []string) error {
	got, err := a.folder.files().ReadFile(path.Join(proofFolder, name))
	switch {
	case noName(err):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return errNoProof
	case err != nil || file.text != nil && bytes.Equal(got, file.text):
		return err
	}
	for _, key := range keys {
		var entry logbook.Entry
		if entry, _, err = logbook.OpenProof(got, logbook.Policy(key)); err != nil {
			continue
		}
		if !slices.Contains(proofNames(entry, strings.Split(name, "/")[1:2]), name) {
			return errors.New("it is the proof of something else")
		}
		file.text = got
		return nil
	}
	return err
}
