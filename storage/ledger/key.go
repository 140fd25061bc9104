package ledger

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"filippo.io/torchwood"
	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/pg"
	"github.com/francescobianco/packbase/storage/userfile"
)

// open reads the log's key. Only of a log that is new it makes one.
func (q *Sequencer) open(ctx context.Context, known []string) error {
	info, _ := os.Stat(q.opt.KeyFile) // before it is read
	key, made, err := q.readKey(known)
	if err != nil {
		return err
	}
	var keys []string
	err = q.store.db.Tx(ctx, func(tx pgx.Tx) error {
		if _, err := lockHead(ctx, tx); err != nil { // one at a time
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO log_keys (vkey) SELECT $1 WHERE NOT EXISTS (SELECT FROM log_keys)`, key.Public); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `SELECT array_agg(vkey ORDER BY id) FROM log_keys`).Scan(&keys)
		if err != nil || slices.Contains(keys, key.Public) {
			return err
		}
		keys, err = q.succeed(ctx, tx, keys, key)
		return err
	})
	switch {
	case errors.Is(err, errBusy):
		return err
	case err != nil:
		return fmt.Errorf("key of the log: %w", pg.Translate(err))
	case !slices.Contains(keys, key.Public) && made: // another machine was quicker
		return errors.Join(q.wrongKey(keys), os.Remove(q.opt.KeyFile))
	case !slices.Contains(keys, key.Public):
		return q.wrongKey(keys)
	}
	q.key, q.keyInfo, q.met = &key, info, false
	return nil
}

// changed reports whether the file of the key is another one than was read. Without it, what was read goes on signing.
func (q *Sequencer) changed() bool {
	info, err := os.Stat(q.opt.KeyFile)
	return err == nil && (q.keyInfo == nil || !os.SameFile(info, q.keyInfo) || info.ModTime() != q.keyInfo.ModTime())
}

// succeed has a key take the place of the last one, and the log say so, if that one signs, too. Or if the folder proves that it
// has said so: then this is a database of before. It returns the keys that the database then has.
func (q *Sequencer) succeed(ctx context.Context, tx pgx.Tx, keys []string, key logbook.Signer) ([]string, error) {
	last := keys[len(keys)-1]
	var next []string
	if i := slices.Index(key.Older, last); i >= 0 {
		next = append(slices.Clone(key.Older[i+1:]), key.Public)
	} else {
		for policy := logbook.Policy(last); len(next) == 0 || next[len(next)-1] != key.Public; {
			proof, err := q.opt.Folder.files().ReadFile(logbook.KeyProofFile(logbook.PolicyKey(policy)))
			if err == nil {
				policy, _, err = logbook.FollowKey(policy, proof)
			}
			if err != nil || slices.Contains(next, logbook.PolicyKey(policy)) {
				return keys, nil // it is not one of this log
			}
			next = append(next, logbook.PolicyKey(policy))
		}
	}
	for _, vkey := range next {
		batch := &pgx.Batch{}
		batch.Queue(`INSERT INTO log_keys (vkey) VALUES ($1)`, vkey)
		batch.Queue(`SELECT log_add(log_line('packbase/1', 'key') || log_line('vkey', $1), '', false)`, vkey)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return nil, err
		}
	}
	return append(keys, next...), nil
}

// writeKeyProofs has the folder prove which key took the place of which.
func (q *Sequencer) writeKeyProofs(ctx context.Context) error {
	st, err := q.store.State(ctx)
	if err != nil {
		return err
	}
	for _, key := range st.Keys[:len(st.Keys)-1] {
		path := logbook.KeyProofFile(key)
		if _, err := os.Stat(filepath.Join(q.opt.Folder.Dir, path)); err == nil {
			continue
		}
		proof, err := q.store.keyProof(ctx, path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = q.opt.Folder.replace(path, proof)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keyProof returns the proof at a path of logbook.KeyProofFile. It is under the first checkpoint that has the entry, which the
// key that was replaced has signed, and so it is always the same.
func (s *Store) keyProof(ctx context.Context, path string) ([]byte, error) {
	var index, size int64
	var entry, root, signed []byte
	err := s.db.Pool.QueryRow(ctx, `
		SELECT e.idx, e.entry, c.size, c.root, c.note
		FROM log_keys k
			JOIN LATERAL (SELECT vkey FROM log_keys WHERE id > k.id ORDER BY id LIMIT 1) n ON true
			JOIN log_entries e ON e.key = log_key(log_line('packbase/1', 'key') || log_line('vkey', n.vkey))
			JOIN LATERAL (SELECT size, root, note FROM log_checkpoints WHERE size > e.idx ORDER BY size LIMIT 1) c ON true
		WHERE 'key/' || split_part(k.vkey, '+', 2) || $2 = $1`, path, logbook.ProofSuffix).Scan(&index, &entry, &size, &root, &signed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, pg.Translate(err))
	}
	proof, err := tlog.ProveRecord(size, index, s.hashes(ctx))
	if err == nil {
		err = tlog.CheckRecord(proof, size, tlog.Hash(root), index, tlog.RecordHash(entry)) // rather none than a wrong one
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return torchwood.FormatProofWithExtraData(index, entry, proof, signed), nil
}

func (q *Sequencer) wrongKey(keys []string) error {
	return fault.New("log_key", fmt.Sprintf("the log is signed by %s, whose private key is not in %s: this process adds nothing to it", keys[len(keys)-1], q.opt.KeyFile))
}

// readKey reads the key's file, or makes it, unless there is a log already that another key has signed.
func (q *Sequencer) readKey(known []string) (key logbook.Signer, made bool, err error) {
	key, err = ReadKey(q.opt.KeyFile)
	if err == nil {
		return key, false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, fault.New("log_key", err.Error())
	}
	if len(known) > 0 {
		return key, false, q.wrongKey(known)
	}
	if signed, err := q.opt.Folder.Signed(); err != nil || signed != nil {
		return key, false, errors.Join(err, fault.New("log_key", fmt.Sprintf("there is a log in %s, and its key is not in %s", q.opt.Folder.Dir, q.opt.KeyFile)))
	}
	name := q.opt.Name
	if name == "" {
		var b [8]byte
		_, _ = rand.Read(b[:])
		name = "packbase-" + hex.EncodeToString(b[:])
	}
	key, err = logbook.NewSigner(name)
	if err == nil {
		err = WriteKey(q.opt.KeyFile, key)
	}
	if errors.Is(err, fs.ErrExist) { // another process was quicker
		return q.readKey(known)
	}
	return key, true, err
}

// ReadKey reads the key in a file. Its error is fs.ErrNotExist if there is no file.
func ReadKey(file string) (logbook.Signer, error) {
	secret, err := userfile.Read(file, userfile.MaxText)
	if err != nil {
		return logbook.Signer{}, fmt.Errorf("key of the log: %w", err)
	}
	key, err := logbook.ParseSigner(string(secret))
	if err != nil {
		return key, fmt.Errorf("key of the log: %s: %w", file, err)
	}
	return key, nil
}

// WriteKey writes a key into a new file that its owner alone may read. Nobody sees a part of it.
func WriteKey(file string, key logbook.Signer) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".log.key-") // 0600
	if err != nil {
		return fmt.Errorf("write the log's key: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(key.Secret + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(f.Name(), file) // fails if there is one
	}
	if err == nil {
		err = syncFolder(filepath.Dir(file))
	}
	if err != nil {
		return fmt.Errorf("write the log's key: %w", err)
	}
	return nil
}

// ReplaceKey puts another key into the file of one.
func ReplaceKey(file string, key logbook.Signer) error {
	next := file + ".next"
	_ = os.Remove(next)
	err := WriteKey(next, key)
	if err == nil {
		err = os.Rename(next, file)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(file))
	}
	if err != nil {
		return fmt.Errorf("replace the log's key: %w", err)
	}
	return nil
}

// FinishRotation says whether the older keys of a signer are needed no more: the folder proves what took their place.
func (f Folder) FinishRotation(key logbook.Signer) error {
	policy := logbook.Policy(key.Older[0])
	for range key.Older {
		proof, err := f.files().ReadFile(logbook.KeyProofFile(logbook.PolicyKey(policy)))
		if err == nil {
			policy, _, err = logbook.FollowKey(policy, proof)
		}
		if err != nil {
			return fmt.Errorf("the log does not say yet which key takes the place of %s: is a worker running? (%w)", logbook.PolicyKey(policy), err)
		}
	}
	if got := logbook.PolicyKey(policy); got != key.Public {
		return fmt.Errorf("the log says that its key is %s", got)
	}
	return nil
}
