package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"filippo.io/torchwood"
	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/userfile"
)

func (p *program) trustCommand() *cobra.Command {
	var policyFile string
	var replace, offline bool
	cmd := &cobra.Command{
		Use:   "trust [URL]",
		Short: "Remember the key of a server's log",
		Long: `Remember by which key a server's log is signed, and how long the log is. From
then on packbase warm --require-proof takes no other key, and no log that has less
or other entries than it had. Compare the key with what the operator publishes
elsewhere, or give it in a file. With --offline that file is all that there is: for
a place without a network, where bundles are checked.`,
		Example: "  packbase trust https://packbase.example.org\n  packbase trust --policy packbase.policy --offline https://packbase.example.org",
		Args:    cobra.MaximumNArgs(1),
	}
	r := p.addRemote(cmd)
	_ = cmd.Flags().MarkHidden("json") // it is there
	cmd.Flags().StringVar(&policyFile, "policy", "", "file with the policy (c2sp.org/tlog-policy), in place of the one that the server shows")
	cmd.Flags().BoolVar(&offline, "offline", false, "ask no server: with --policy")
	cmd.Flags().BoolVar(&replace, "replace", false, "forget the key that was trusted before")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			r.url = args[0]
		}
		c, err := p.client(r)
		if err != nil {
			return err
		}
		c.token = "" // what is in a log is public, and whoever URL names may be somebody else's
		if offline && policyFile == "" {
			return term.Usage("--offline: want the policy in a file, with --policy")
		}
		policy, err := p.policyOf(cmd.Context(), c, policyFile)
		if err != nil {
			return err
		}
		t, err := p.trusted(c.base)
		switch {
		case err != nil && !errors.Is(err, errUntrusted):
			return err
		case err != nil || replace:
			t = &trust{file: t.file, Policy: string(policy)}
		}
		s := p.Screen(p.Stdout)
		if offline {
			if _, err := logbook.ParsePolicy(policy); err != nil {
				return term.Usage("--policy: %s: %w", policyFile, err)
			}
			if t.Policy != string(policy) {
				return fmt.Errorf("the log of %s was signed otherwise when it was trusted: ask its operator why, then use --replace", c.base)
			}
			s.Printf("%s %s, signed as follows\n%s", s.Paint(term.Green, "ok"), c.base, term.PrintableLines(t.Policy))
			return t.remember()
		}
		l, err := openLog(cmd.Context(), c, t, logbook.PolicyKey(policy))
		if err != nil {
			return err
		}
		switch {
		case logbook.PolicyKey(policy) != logbook.PolicyKey(l.policy):
			return fmt.Errorf("the log of %s was signed by another key when it was trusted: ask its operator why, then use --replace", c.base)
		case t.Policy != string(policy):
			return fmt.Errorf("the log of %s had other witnesses when it was trusted: ask its operator why, then use --replace", c.base)
		}
		s.Printf("%s %s: %s, signed as follows\n%s", s.Paint(term.Green, "ok"), c.base, term.Plural(int(l.tree.N), "publication"), term.PrintableLines(t.Policy))
		return nil
	}
	return cmd
}

// policyOf returns the policy in a file, or that which the server shows.
func (p *program) policyOf(ctx context.Context, c *client, file string) ([]byte, error) {
	if file == "" {
		return c.logFile(ctx, route.Path(route.Log, logbook.PolicyFile))
	}
	policy, err := userfile.Read(file, userfile.MaxText)
	if err != nil {
		return nil, term.Usage("--policy: %w", err)
	}
	return policy, nil
}

// A trust is what is remembered of a server's log, in a file of its own.
type trust struct {
	file       string
	Policy     string `json:"policy"`     // whose signatures a checkpoint has to have
	Checkpoint string `json:"checkpoint"` // the largest that was seen; "" if none was

	// Unproved are others that were seen without a network: the log has to go on from these as well.
	Unproved []string `json:"unproved,omitempty"`
}

// maxUnproved bounds them: whoever has seen more asks the server before.
const maxUnproved = 1000

var errUntrusted = errors.New("no key of its log is trusted yet: packbase trust does so")

// trustFolder is where all that is trusted is.
func (p *program) trustFolder() (string, error) {
	dir := p.Getenv("XDG_CONFIG_HOME")
	if dir == "" {
		home := p.Getenv("HOME")
		if home == "" {
			return "", term.Usage("neither XDG_CONFIG_HOME nor HOME is set: there is no place for what is trusted")
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "packbase", "trust"), nil
}

// trusted returns what is remembered of a server's log, or errUntrusted: then no more than the file's name.
func (p *program) trusted(base *url.URL) (*trust, error) {
	dir, err := p.trustFolder()
	if err != nil {
		return nil, err
	}
	t, err := readTrust(filepath.Join(dir, url.PathEscape(base.String())+".json"))
	if errors.Is(err, errUntrusted) {
		return t, fmt.Errorf("%s: %w", base, err)
	}
	return t, err
}

func readTrust(file string) (*trust, error) {
	t := &trust{file: file}
	raw, err := userfile.Read(t.file, maxAnswer)
	if errors.Is(err, fs.ErrNotExist) {
		return t, errUntrusted
	}
	if err == nil {
		err = json.Unmarshal(raw, t)
	}
	if err != nil {
		return nil, fmt.Errorf("read what is trusted: %s: %w", t.file, err)
	}
	return t, nil
}

// openTrusted opens the log of a server that is trusted.
func (p *program) openTrusted(ctx context.Context, r *remote) (*provedLog, error) {
	c, err := p.client(r)
	if err != nil {
		return nil, err
	}
	c.token = ""
	t, err := p.trusted(c.base)
	if err != nil {
		return nil, err
	}
	return openLog(ctx, c, t, "")
}

// openOffline opens the log that a checkpoint is of, if it is one that is trusted, without asking anybody.
func (p *program) openOffline(checkpoint []byte) (*provedLog, error) {
	dir, err := p.trustFolder()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		return nil, errors.Join(err, errUntrusted)
	}
	var bad error
	for _, file := range files {
		t, err := readTrust(file)
		if err != nil {
			return nil, err
		}
		if _, err = logbook.OpenCheckpoint(checkpoint, []byte(t.Policy)); err != nil {
			bad = err
			continue
		}
		l := &provedLog{name: string(checkpoint[:bytes.IndexByte(checkpoint, '\n')]), policy: []byte(t.Policy), trust: t}
		return l, l.begin()
	}
	return nil, fmt.Errorf("the proofs are of a log that no trusted key has signed (%w): packbase trust, with --policy and --offline if need be, says which is", bad)
}

// remember replaces the file as a whole.
func (t *trust) remember() error {
	raw, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(t.file), 0o755); err != nil {
		return fmt.Errorf("remember what is trusted: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(t.file), ".new-")
	if err != nil {
		return fmt.Errorf("remember what is trusted: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(raw, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), t.file)
	}
	return err
}

// A provedLog is a server's log that goes on from what was seen of it before.
type provedLog struct {
	name   string
	c      *client // nil if nobody is asked
	policy []byte
	tiles  torchwood.TileReader
	trust  *trust

	mu   sync.Mutex
	tree tlog.Tree            // the largest that was seen
	seen map[string]tlog.Tree // of checkpoints that were followed: a hundred proofs are under one
}

// begin begins with what was seen.
func (l *provedLog) begin() (err error) {
	l.seen = map[string]tlog.Tree{}
	if l.trust.Checkpoint == "" {
		return nil
	}
	if l.tree, err = logbook.OpenCheckpoint([]byte(l.trust.Checkpoint), l.policy); err != nil {
		return fmt.Errorf("what is trusted: %s: %w", l.trust.file, err)
	}
	return nil
}

// openLog reads the server's checkpoint, demands that it is signed as is trusted and goes on from the largest that was
// seen, and remembers it. If another key has taken the place of the one that is trusted, that is followed: as far as need be,
// or to the one that is wanted, "" for none.
func openLog(ctx context.Context, c *client, t *trust, wanted string) (*provedLog, error) {
	tiles, err := logbook.TilesAt(c.url("/log", nil), c.http)
	if err != nil {
		return nil, err
	}
	l := &provedLog{name: c.base.String(), c: c, policy: []byte(t.Policy), tiles: tiles, trust: t}
	if err := l.begin(); err != nil {
		return nil, err
	}
	signed, err := c.logFile(ctx, route.Path(route.Log, logbook.CheckpointFile))
	if err != nil {
		return nil, err
	}
	if _, bad := logbook.OpenCheckpoint(signed, l.policy); bad != nil || wanted != "" && wanted != logbook.PolicyKey(l.policy) {
		err = l.followKeys(ctx, signed)
		if err != nil && bad != nil {
			return nil, fmt.Errorf("the log of %s is not signed by the key that is trusted (%w; %v): ask its operator why, then packbase trust --replace takes the one that it has", l.name, bad, err)
		}
	}
	tree, err := l.follow(ctx, signed)
	if err != nil {
		return nil, err
	}
	for _, seen := range t.Unproved { // by the key of then
		was, err := logbook.OpenCheckpoint([]byte(seen), []byte(t.Policy))
		if err == nil {
			err = l.goesOn(ctx, was, tree)
		}
		if err != nil {
			return nil, fmt.Errorf("what was seen without a network: %w", err)
		}
	}
	t.Policy = string(l.policy)
	if tree.N < l.tree.N {
		return nil, fmt.Errorf("the log of %s has %d entries, and had %d: it was set back, or this is not it", c.base, tree.N, l.tree.N)
	}
	t.Checkpoint, t.Unproved = string(signed), nil
	return l, t.remember()
}

// follow returns the tree of a checkpoint that is signed as is trusted, and is of the same log as the largest that was seen.
func (l *provedLog) follow(ctx context.Context, signed []byte) (tree tlog.Tree, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if tree, ok := l.seen[string(signed)]; ok {
		return tree, nil
	}
	if tree, err = logbook.OpenCheckpoint(signed, l.policy); err != nil {
		return tree, fmt.Errorf("the log of %s is not signed by the key that is trusted: %w", l.name, err)
	}
	alone := l.c == nil
	if alone && 0 < l.tree.N && l.tree.N != tree.N { // nobody here can show that
		if !slices.Contains(l.trust.Unproved, string(signed)) {
			l.trust.Unproved = append(l.trust.Unproved, string(signed))
		}
		l.seen[string(signed)] = tree
		return tree, nil
	}
	if err := l.goesOn(ctx, l.tree, tree); err != nil {
		return tree, err
	}
	if l.tree.N < tree.N {
		if l.tree = tree; alone {
			l.trust.Checkpoint = string(signed)
		}
	}
	l.seen[string(signed)] = tree
	return tree, nil
}

// goesOn demands that the larger of two trees has all that the smaller one has.
func (l *provedLog) goesOn(ctx context.Context, small, large tlog.Tree) error {
	if err := logbook.Grew(ctx, small, large, l.tiles); err != nil {
		return fmt.Errorf("the log of %s: %w", l.name, err)
	}
	return nil
}

// followKeys has the log trusted by the key that has taken the place of the one that was, as that one has signed. The tree in
// which it has is part of the log that is read then, or nothing is trusted.
func (l *provedLog) followKeys(ctx context.Context, signed []byte) error {
	policy, then, err := logbook.FollowKeys(l.policy, signed, func(path string) ([]byte, error) {
		proof, err := l.c.logFile(ctx, route.Path(route.Log, path))
		var answer *AnswerError
		if errors.As(err, &answer) {
			err = errors.New(answer.Message) // whose advice is for other troubles
		}
		return proof, err
	})
	if err != nil {
		return err
	}
	now, err := logbook.OpenCheckpoint(signed, policy)
	if err != nil {
		return err
	}
	l.policy = policy
	return l.goesOn(ctx, then, now)
}

// end remembers what was seen without a network.
func (l *provedLog) end() error {
	if n := len(l.trust.Unproved); n > maxUnproved {
		return fmt.Errorf("%d checkpoints of %s were seen without a network: packbase trust has its server prove that they are of one log", n, l.name)
	}
	return l.trust.remember()
}

// prove demands a proof that a package with that hash was published.
func (l *provedLog) prove(ctx context.Context, hash string) error {
	proof, err := l.c.logFile(ctx, route.Path(route.Zig, hash+route.ProofSuffix))
	if err != nil {
		return fmt.Errorf("%s: no proof: %w", hash, err)
	}
	_, err = l.holds(ctx, proof, hash)
	return err
}

// holds demands that a proof is of a package with those hashes, and in this log, and returns the entry.
func (l *provedLog) holds(ctx context.Context, proof []byte, hashes ...string) (logbook.Entry, error) {
	entry, signed, err := logbook.OpenProof(proof, l.policy)
	for _, hash := range hashes {
		if err == nil && hash != entry.Value("zig") && hash != entry.Value("zig-legacy") {
			err = fmt.Errorf("the proof is of another package: %s", cmp.Or(entry.Value("zig"), entry.Value("zig-legacy"), entry.Kind()))
		}
	}
	if err == nil {
		_, err = l.follow(ctx, signed)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", hashes[0], err)
	}
	return entry, nil
}
