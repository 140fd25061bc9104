package ledger

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/pg"
)

const (
	witnessTime = 2 * time.Second // for all that one witness is asked of a checkpoint
	maxAnswer   = 16 << 10        // bytes
	witnessRest = 10 * time.Second
	longestRest = 10 * time.Minute // between two questions to one that does not cosign
)

// A witness is one that the sequencer asks.
type witness struct {
	logbook.Witness
	size  int64 // of the largest tree that it cosigned
	line  string
	rest  time.Duration // after its last failure; 0 after none
	due   time.Time     // when it is asked again
	fails string        // why it did not cosign; "" if it did

	heardOf bool  // it cosigned its size in this process, since all were asked
	err     error // why nothing may be signed, if it is right; nil if all is well
}

// errOvertaken says that a witness has cosigned more already, which another process has signed.
var errOvertaken = errors.New("another process is ahead")

// meet asks all witnesses to cosign what was signed last, before this process adds anything: one that has seen more of the
// log, or another log, knows that this is a database and a folder of an earlier time. Those that do not answer are left out.
func (q *Sequencer) meet(ctx context.Context, held tlog.Tree) error {
	if q.met {
		return nil
	}
	if err := q.summon(ctx); err != nil {
		return err
	}
	tree, signed, err := q.newest(ctx, held)
	if err != nil {
		return err
	}
	for _, w := range q.witnesses {
		w.due, w.heardOf = time.Time{}, false
	}
	q.met = true
	more, err := q.cosign(ctx, tree, signed)
	if err != nil || tree != held || len(more) == len(signed) {
		return err
	}
	return q.opt.Folder.replace(logbook.CheckpointFile, more)
}

// summon brings the witnesses of the settings together with what is known of them.
func (q *Sequencer) summon(ctx context.Context) error {
	if q.witnesses != nil || len(q.opt.Witnesses.All) == 0 {
		return q.keepPolicy(ctx)
	}
	var all []*witness
	for _, w := range q.opt.Witnesses.All {
		all = append(all, &witness{Witness: w})
	}
	rows, _ := q.store.db.Pool.Query(ctx, `SELECT vkey, size, cosignature FROM log_witnesses`)
	var key, line string
	var size int64
	_, err := pgx.ForEachRow(rows, []any{&key, &size, &line}, func() error {
		for _, w := range all {
			if w.Key == key {
				w.size, w.line = size, line
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("witnesses of the log: %w", pg.Translate(err))
	}
	q.witnesses = all
	return q.keepPolicy(ctx)
}

// keepPolicy has the database and the folder say by whom the log is signed from now on.
func (q *Sequencer) keepPolicy(ctx context.Context) error {
	policy := q.policy()
	if _, err := logbook.ParsePolicy(policy); err != nil {
		return fmt.Errorf("policy of the log, with PACKBASE_LOG_WITNESSES from its second line on: %w", err)
	}
	keys := []string{}
	for _, w := range q.witnesses {
		keys = append(keys, w.Key)
	}
	err := q.store.db.Tx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO log_policy (policy) VALUES ($1)
			ON CONFLICT (one) DO UPDATE SET policy = EXCLUDED.policy WHERE log_policy.policy <> EXCLUDED.policy`, string(policy))
		if err == nil {
			_, err = tx.Exec(ctx, `DELETE FROM log_witnesses WHERE vkey <> ALL($1)`, keys)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("policy of the log: %w", pg.Translate(err))
	}
	return q.opt.Folder.replace(logbook.PolicyFile, policy)
}

func (q *Sequencer) policy() []byte { return q.opt.Witnesses.Policy(q.key.Public) }

// newest returns what was signed last, as the folder or the database has it. Of an empty log that is the empty tree.
func (q *Sequencer) newest(ctx context.Context, held tlog.Tree) (tree tlog.Tree, signed []byte, err error) {
	var root []byte
	err = q.store.db.Pool.QueryRow(ctx, `SELECT size, root, note FROM log_checkpoints ORDER BY size DESC LIMIT 1`).Scan(&tree.N, &root, &signed)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	if err != nil {
		return tree, nil, fmt.Errorf("newest checkpoint: %w", pg.Translate(err))
	}
	copy(tree.Hash[:], root)
	switch {
	case held.N > tree.N:
		signed, err = q.opt.Folder.Signed()
		return held, signed, err
	case tree.N == 0:
		tree.Hash, _ = tlog.TreeHash(0, nil)
		signed, err = q.key.Sign(tree)
	}
	return tree, signed, err
}

// due reports whether a witness is to be asked that has not cosigned the tree.
func (q *Sequencer) due(tree tlog.Tree) bool {
	for _, w := range q.witnesses {
		if w.size < tree.N && time.Now().After(w.due) {
			return true
		}
	}
	return false
}

// cosign returns the checkpoint with the cosignatures of those witnesses that give one in time.
func (q *Sequencer) cosign(ctx context.Context, tree tlog.Tree, signed []byte) ([]byte, error) {
	if err := q.ask(ctx, tree, signed); err != nil {
		q.met = false
		return nil, err
	}
	signed = bytes.Clone(signed)
	for _, w := range q.witnesses {
		if w.size == tree.N && w.line != "" && !w.Signed(signed) {
			signed = append(signed, w.line...)
		}
	}
	return signed, nil
}

// ask asks all witnesses at once that are due, and notes what they say. Its error says that nothing may be signed.
func (q *Sequencer) ask(ctx context.Context, tree tlog.Tree, signed []byte) error {
	var wg sync.WaitGroup
	var asked []*witness
	for _, w := range q.witnesses {
		if w.heardOf && w.size == tree.N || time.Now().Before(w.due) {
			continue
		}
		asked = append(asked, w)
		wg.Go(func() { w.heard(q.askOne(ctx, w, tree, signed)) })
	}
	wg.Wait()
	if len(asked) == 0 || ctx.Err() != nil {
		return ctx.Err()
	}
	batch := &pgx.Batch{}
	var bad error
	for _, w := range asked {
		bad = cmp.Or(bad, w.err)
		batch.Queue(`
			INSERT INTO log_witnesses (vkey, name, size, cosignature, problem) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (vkey) DO UPDATE SET name = EXCLUDED.name, size = EXCLUDED.size, cosignature = EXCLUDED.cosignature,
				problem = EXCLUDED.problem, asked_at = now()`, w.Key, w.Name, w.size, w.line, w.fails)
	}
	if err := q.store.db.Pool.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("witnesses of the log: %w", pg.Translate(err))
	}
	return bad
}

// heard notes how the witness answered.
func (w *witness) heard(size int64, line string, err error) {
	w.err = nil
	if err == nil {
		w.size, w.line, w.fails, w.rest, w.due, w.heardOf = size, line, "", 0, time.Time{}, true
		return
	}
	if errors.Is(err, errOvertaken) {
		return
	}
	w.fails = err.Error()
	w.rest = min(max(2*w.rest, witnessRest), longestRest)
	w.due = time.Now().Add(w.rest)
	if e := fault.From(err); e != nil && (e.Code == "log_forked" || e.Code == "log_behind") {
		w.err = err
	}
}

// askOne has a witness cosign a checkpoint. The sizes that it knows are its own word: it is told the last that it cosigned
// for us, and says so if it knows another one.
func (q *Sequencer) askOne(ctx context.Context, w *witness, tree tlog.Tree, signed []byte) (size int64, line string, err error) {
	ctx, cancel := context.WithTimeout(ctx, witnessTime)
	defer cancel()
	old := min(w.size, tree.N)
	for range 2 {
		var proof tlog.TreeProof
		if 0 < old && old < tree.N {
			if proof, err = q.growth(ctx, tree, old); err != nil {
				return 0, "", err
			}
		}
		status, answer, err := q.send(ctx, w, w.Request(old, proof, signed))
		if err != nil {
			return 0, "", err
		}
		known, number := strconv.ParseInt(strings.TrimSuffix(answer, "\n"), 10, 64)
		switch {
		case status == http.StatusOK:
			line, err = w.Cosignature(signed, []byte(answer))
			return tree.N, line, err
		case status == http.StatusConflict && (number != nil || known < 0):
			return 0, "", fmt.Errorf("it knows another size of the log, and does not say which: %s", quoted(answer))
		case status == http.StatusConflict && known > tree.N:
			return 0, "", q.behind(ctx, w, tree, known)
		case status == http.StatusConflict && known != old:
			old = known
			continue
		case status == http.StatusConflict && known == tree.N, status == http.StatusUnprocessableEntity && old > 0:
			return 0, "", forked("the witness %s has seen another log under the name %s: its first %d entries are not those that are here", w.Name, q.key.Name(), old)
		case status == http.StatusNotFound:
			return 0, "", fmt.Errorf("it does not know the log: have its operator add %s", q.key.Public)
		case status == http.StatusForbidden:
			return 0, "", fmt.Errorf("it knows the log under another key: have its operator add %s", q.key.Public)
		}
		return 0, "", fmt.Errorf("it answers %d: %s", status, quoted(answer))
	}
	return 0, "", errors.New("it contradicts itself: each time that it is asked it knows another size of the log")
}

// growth proves that the tree goes on from what it was.
func (q *Sequencer) growth(ctx context.Context, tree tlog.Tree, old int64) (tlog.TreeProof, error) {
	proof, err := tlog.ProveTree(tree.N, old, q.store.hashes(ctx))
	if err != nil {
		return nil, fmt.Errorf("prove that %d entries go on from %d: %w", tree.N, old, err)
	}
	return proof, nil
}

// behind judges that a witness has seen more of the log than was signed here.
func (q *Sequencer) behind(ctx context.Context, w *witness, tree tlog.Tree, known int64) error {
	st, err := q.store.State(ctx)
	if err != nil {
		return err
	}
	if known <= st.Tree.N && tree.N < st.Tree.N {
		return errOvertaken
	}
	return fault.New("log_behind", fmt.Sprintf("the witness %s has seen %d entries of the log %s, and there are %d here: database and folder are of an earlier time, or another machine signs with this key; nothing is added or signed",
		w.Name, known, q.key.Name(), tree.N))
}

func (q *Sequencer) send(ctx context.Context, w *witness, body []byte) (status int, answer string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL+"/add-checkpoint", bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	res, err := q.opt.HTTP.Do(req)
	if err == nil {
		defer res.Body.Close()
		var b []byte
		b, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer))
		answer, status = string(b), res.StatusCode
	}
	if ctx.Err() != nil {
		return 0, "", fmt.Errorf("%s does not answer within %s", w.URL, witnessTime)
	}
	if err != nil {
		return 0, "", fmt.Errorf("%s does not answer: %v", w.URL, err)
	}
	return status, answer, nil
}

// quoted returns what a witness says, fit for a log.
func quoted(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }) {
		return "bytes that are no text"
	}
	return fmt.Sprintf("%.200q", s)
}

// A WitnessState is what a witness said last.
type WitnessState struct {
	Name, Key string
	Size      int64     // entries of the largest checkpoint that it cosigned
	AskedAt   time.Time // last
	Problem   string    // why it did not cosign then; "" if it did
}

// Witnesses returns those who are asked to cosign the log, by name, and whether those of them that do are as many as its
// policy wants. Without witnesses there are none, and they are.
func (s *Store) Witnesses(ctx context.Context) (all []WitnessState, quorum bool, err error) {
	rows, _ := s.db.Pool.Query(ctx, `SELECT name, vkey, size, asked_at, problem FROM log_witnesses ORDER BY name`)
	all, err = pgx.CollectRows(rows, pgx.RowToStructByPos[WitnessState])
	if err != nil {
		return nil, false, fmt.Errorf("witnesses of the log: %w", pg.Translate(err))
	}
	if len(all) == 0 {
		return nil, true, nil
	}
	policy, err := s.policy(ctx)
	if err != nil {
		return nil, false, err
	}
	st, err := s.State(ctx)
	if err != nil {
		return nil, false, err
	}
	var cosigners []string
	for _, w := range all {
		if w.Problem == "" {
			cosigners = append(cosigners, w.Key)
		}
	}
	quorum, err = logbook.Quorum(policy, st.Keys[len(st.Keys)-1], cosigners)
	return all, quorum, err
}
