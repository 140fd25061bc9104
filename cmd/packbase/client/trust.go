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
	"sync"

	"filippo.io/torchwood"
	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/logbook"
)

func (p *program) trustCommand() *cobra.Command {
	var policyFile string
	var replace bool
	cmd := &cobra.Command{
		Use:   "trust [URL]",
		Short: "Remember the key of a server's log",
		Long: `Remember by which key a server's log is signed, and how long the log is. From
then on packbase warm --require-proof takes no other key, and no log that has less
or other entries than it had. Compare the key with what the operator publishes
elsewhere, or give it in a file.`,
		Example: "  packbase trust https://packbase.example.org\n  packbase trust --policy packbase.policy https://packbase.example.org",
		Args:    cobra.MaximumNArgs(1),
	}
	r := p.addRemote(cmd)
	_ = cmd.Flags().MarkHidden("json") // it is there
	cmd.Flags().StringVar(&policyFile, "policy", "", "file with the policy (c2sp.org/tlog-policy), in place of the one that the server shows")
	cmd.Flags().BoolVar(&replace, "replace", false, "forget the key that was trusted before")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			r.url = args[0]
		}
		c, err := p.client(r)
		if err != nil {
			return err
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
		s := p.Screen(p.Stdout)
		s.Printf("%s %s: %s, signed as follows\n%s", s.Paint(term.Green, "ok"), c.base, term.Plural(int(l.tree.N), "publication"), term.Printable(t.Policy))
		return nil
	}
	return cmd
}

// policyOf returns the policy in a file, or that which the server shows.
func (p *program) policyOf(ctx context.Context, c *client, file string) ([]byte, error) {
	if file == "" {
		return c.get(ctx, route.Path(route.Log, logbook.PolicyFile), nil)
	}
	policy, err := os.ReadFile(file)
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
}

var errUntrusted = errors.New("no key of its log is trusted yet: packbase trust does so")

// trusted returns what is remembered of a server's log, or errUntrusted: then no more than the file's name.
func (p *program) trusted(base *url.URL) (*trust, error) {
	dir := p.Getenv("XDG_CONFIG_HOME")
	if dir == "" {
		home := p.Getenv("HOME")
		if home == "" {
			return nil, term.Usage("neither XDG_CONFIG_HOME nor HOME is set: there is no place for what is trusted")
		}
		dir = filepath.Join(home, ".config")
	}
	t := &trust{file: filepath.Join(dir, "packbase", "trust", url.PathEscape(base.String())+".json")}
	raw, err := os.ReadFile(t.file)
	if errors.Is(err, fs.ErrNotExist) {
		return t, fmt.Errorf("%s: %w", base, errUntrusted)
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
	t, err := p.trusted(c.base)
	if err != nil {
		return nil, err
	}
	return openLog(ctx, c, t, "")
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
	c      *client
	policy []byte
	tiles  torchwood.TileReader

	mu   sync.Mutex
	tree tlog.Tree // the largest that was seen
}

// openLog reads the server's checkpoint, demands that it is signed as is trusted and goes on from the largest that was
// seen, and remembers it. If another key has taken the place of the one that is trusted, that is followed: as far as need be,
// or to the one that is wanted, "" for none.
func openLog(ctx context.Context, c *client, t *trust, wanted string) (*provedLog, error) {
	tiles, err := torchwood.NewTileFetcher(c.url("/log", nil))
	if err != nil {
		return nil, err
	}
	l := &provedLog{c: c, policy: []byte(t.Policy), tiles: tiles}
	if t.Checkpoint != "" {
		if l.tree, err = logbook.OpenCheckpoint([]byte(t.Checkpoint), l.policy); err != nil {
			return nil, fmt.Errorf("what is trusted: %s: %w", t.file, err)
		}
	}
	signed, err := c.get(ctx, route.Path(route.Log, logbook.CheckpointFile), nil)
	if err != nil {
		return nil, err
	}
	if _, bad := logbook.OpenCheckpoint(signed, l.policy); bad != nil || wanted != "" && wanted != logbook.PolicyKey(l.policy) {
		err = l.followKeys(ctx, signed)
		if err != nil && bad != nil {
			return nil, fmt.Errorf("the log of %s is not signed by the key that is trusted: %w; %w", l.c.base, bad, err)
		}
	}
	tree, err := l.follow(ctx, signed)
	if err != nil {
		return nil, err
	}
	t.Policy = string(l.policy)
	if tree.N < l.tree.N {
		return nil, fmt.Errorf("the log of %s has %d entries, and had %d: it was set back, or this is not it", c.base, tree.N, l.tree.N)
	}
	t.Checkpoint = string(signed)
	return l, t.remember()
}

// follow returns the tree of a checkpoint that is signed as is trusted, and is of the same log as the largest that was seen.
func (l *provedLog) follow(ctx context.Context, signed []byte) (tlog.Tree, error) {
	tree, err := logbook.OpenCheckpoint(signed, l.policy)
	if err != nil {
		return tree, fmt.Errorf("the log of %s is not signed by the key that is trusted: %w", l.c.base, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.goesOn(ctx, l.tree, tree); err != nil {
		return tree, err
	}
	if l.tree.N < tree.N {
		l.tree = tree
	}
	return tree, nil
}

// goesOn demands that the larger of two trees has all that the smaller one has.
func (l *provedLog) goesOn(ctx context.Context, small, large tlog.Tree) error {
	if small.N > large.N {
		small, large = large, small
	}
	switch {
	case small == large, small.N == 0:
	case small.N == large.N:
		return fmt.Errorf("the log of %s was forked: two trees of %d entries are signed", l.c.base, small.N)
	default:
		proof, err := tlog.ProveTree(large.N, small.N, torchwood.TileHashReaderWithContext(ctx, large, l.tiles))
		if err == nil {
			err = tlog.CheckTree(proof, large.N, large.Hash, small.N, small.Hash)
		}
		if err != nil {
			return fmt.Errorf("the log of %s cannot be proved to have with %d entries what it had with %d: %w", l.c.base, large.N, small.N, err)
		}
	}
	return nil
}

// prove demands a proof that a package with that hash was published.
func (l *provedLog) prove(ctx context.Context, hash string) error {
	proof, err := l.c.get(ctx, route.Path(route.Zig, hash+route.ProofSuffix), nil)
	if err != nil {
		return fmt.Errorf("%s: no proof: %w", hash, err)
	}
	text, err := torchwood.ProofExtraData(proof)
	if err != nil {
		return fmt.Errorf("%s: %w", hash, err)
	}
	policy, err := torchwood.ParsePolicy(l.policy)
	if err != nil {
		return err
	}
	if err := torchwood.VerifyProof(policy, tlog.RecordHash(text), proof); err != nil {
		return fmt.Errorf("%s: the proof does not hold: %w", hash, err)
	}
	entry, err := logbook.ParseEntry(text)
	if err != nil {
		return fmt.Errorf("%s: %w", hash, err)
	}
	if hash != entry.Value("zig") && hash != entry.Value("zig-legacy") {
		return fmt.Errorf("%s: the proof is of another package: %s", hash, cmp.Or(entry.Value("zig"), entry.Value("zig-legacy"), entry.Kind()))
	}
	_, signed, _ := bytes.Cut(proof, []byte("\n\n"))
	if _, err := l.follow(ctx, signed); err != nil {
		return fmt.Errorf("%s: %w", hash, err)
	}
	return nil
}
