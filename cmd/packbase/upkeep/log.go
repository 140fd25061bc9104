package upkeep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/cmd/packbase/serve"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/engines"
	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/logbook"
)

func (p *program) logCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "log",
		GroupID: "keep",
		Short:   "Look after the log of what is published",
		Long:    "Look after the log of what is published, which anybody can check: docs/log.md says what is in it.",
		Example: "  packbase log key --root ./data",
	}
	cmd.AddCommand(p.logKeyCommand(), p.logRotateCommand())
	return cmd
}

func (p *program) logKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print the public key of the log",
		Long: `Print the public key with which anybody can check the log of what is published
here, from the file of the private key. The first worker that runs on a database
makes that file; with --new it is made now, if there is none, to be brought to
where the worker runs. On an edge it is the key of its cosignatures.`,
		Example: "  packbase log key --root ./data\n  packbase log key --new --log-name mirror.example.org/log --log-key-file ./log.key",
		Args:    cobra.NoArgs,
	}
	fresh := cmd.Flags().Bool("new", false, "make a key, for a registry that has no log yet")
	cfg := serve.AddSettings(p.Program, cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		opt := serve.LogOptions(cfg, nil)
		if cfg.Central != "" {
			key, err := ledger.ReadKey(serve.MirrorOptions(cfg, nil).KeyFile)
			public := ""
			if err == nil {
				public, err = key.Cosigner()
			}
			if err == nil {
				fmt.Fprintln(p.Stdout, public)
			}
			return err
		}
		if *fresh {
			key, err := logbook.NewSigner(opt.Name)
			if err != nil {
				return term.Usage("PACKBASE_LOG_NAME: %w", err)
			}
			if err := ledger.WriteKey(opt.KeyFile, key); err != nil {
				return err
			}
		}
		key, err := ledger.ReadKey(opt.KeyFile)
		if err == nil {
			fmt.Fprintln(p.Stdout, key.Public)
		}
		return err
	}
	return cmd
}

func (p *program) logRotateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Have another key sign the log",
		Long: `Make a new key for the log, in the file of the old one. The worker, which need
not be started anew, logs which key takes the place of the old one, and signs with
both. Clients that trusted the old key follow. Tell witnesses of the new key, and
whoever else checks the log; then --finish takes the old key out of the file. On
several machines, copy the file to each after both steps.`,
		Example: "  packbase log rotate --root ./data\n  packbase log rotate --finish --root ./data",
		Args:    cobra.NoArgs,
	}
	finish := cmd.Flags().Bool("finish", false, "sign with the new key alone from now on")
	cfg := serve.AddSettings(p.Program, cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		opt := serve.LogOptions(cfg, nil)
		if folder, ok := strings.CutPrefix(cfg.Blobs, "file://"); ok {
			opt.Folder = ledger.FolderBeside(folder)
		}
		key, err := ledger.ReadKey(opt.KeyFile)
		switch {
		case err != nil:
			return err
		case *finish && len(key.Older) == 0:
			return term.Usage("only one key signs the log: packbase log rotate makes another")
		case *finish:
			if err = opt.Folder.FinishRotation(key); err == nil {
				key, err = key.Alone()
			}
		default:
			key, err = key.Next()
		}
		if err == nil {
			err = ledger.ReplaceKey(opt.KeyFile, key)
		}
		if err == nil {
			fmt.Fprintln(p.Stdout, key.Public)
		}
		return err
	}
	return cmd
}

// lateLog is how long an entry may wait for its number before somebody should look.
const lateLog = time.Minute

// log checks that the log can go on from here.
func (d *doctor) log(ctx context.Context) {
	if d.cfg.ReadOnly || d.cfg.Central != "" {
		d.ok("log", "an edge adds nothing to it")
		return
	}
	st, known := d.logState(ctx)
	file := serve.LogOptions(d.cfg, nil).KeyFile
	key, err := ledger.ReadKey(file)
	info, bad := os.Stat(file)
	var policy error
	if err == nil {
		_, policy = logbook.ParsePolicy(d.cfg.Witnesses.Policy(key.Public))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && known && len(st.Keys) > 0:
		d.fail("log", "its key %s is not in %s: bring that file back, or nothing more is logged", st.Keys[len(st.Keys)-1], file)
	case errors.Is(err, fs.ErrNotExist):
		d.ok("log", "a worker will make its key, in %s", file)
	case err != nil:
		d.fail("log", "%v", err)
	case bad == nil && info.Mode()&0o077 != 0:
		d.fail("log", "others may read %s, and could sign in our name; chmod 600", file)
	case known && len(st.Keys) > 0 && st.Keys[len(st.Keys)-1] != key.Public:
		d.fail("log", "it is signed by %s, whose private key is not in %s: bring that file back, or nothing more is logged", st.Keys[len(st.Keys)-1], file)
	case policy != nil:
		d.fail("log", "PACKBASE_LOG_WITNESSES cannot be wanted of it: the policy that has them from its second line on: %v", policy)
	case known && st.Ahead > lateLog:
		d.warn("log", "its newest entry is dated %s after now: the database's clock was ahead, or is behind; set it right, what is logged keeps its date", st.Ahead.Round(time.Second))
	case known && st.Oldest > lateLog:
		d.warn("log", "waiting to be logged: %d, the first for %s; is a worker running, and what does it say?", st.Pending, st.Oldest.Round(time.Second))
	case known:
		d.ok("log", "%s has %d entries that are signed", key.Name(), st.Signed)
		d.witnesses(st)
		d.comparisons(st)
	default:
		d.ok("log", "its key is in %s", file)
	}
}

// witnesses says who does not cosign the log.
func (d *doctor) witnesses(st logState) {
	missing := 0
	for _, w := range st.witnesses {
		if w.Problem != "" {
			missing++
			d.warn("log", "its witness %s does not cosign: %s", w.Name, w.Problem)
		}
	}
	switch {
	case !st.quorum:
		d.fail("log", "fewer witnesses cosign it than its policy wants: who trusts that policy takes nothing new until the witnesses are back")
	case len(st.witnesses) > 0:
		d.ok("log", "cosigned by %d of %s", len(st.witnesses)-missing, term.Plural(len(st.witnesses), "witness"))
	}
}

// comparisons says what the logs of others and this one contradict each other in.
func (d *doctor) comparisons(st logState) {
	for _, c := range st.comparisons {
		if c.Problem != "" {
			d.warn("log", "it is not compared with that of %s: %s", c.Peer, c.Problem)
		} else {
			d.ok("log", "compared with that of %s %s ago", c.Peer, time.Since(c.At).Round(time.Second))
		}
	}
	for _, f := range st.differences {
		d.fail("log", "it and that of %s contradict each other about %s: packbase verify --evidence %s explains it", f.Peer, f.About, filepath.Join(d.cfg.Root, "evidence", f.Name))
	}
	if n := st.allDifferences - len(st.differences); n > 0 {
		d.fail("log", "and %d contradictions more", n)
	}
}

// toldDifferences is how many of them the doctor tells of one by one.
const toldDifferences = 10

// A logState is what the database knows of the log.
type logState struct {
	ledger.State
	witnesses []ledger.WitnessState
	quorum    bool

	comparisons    []ledger.Comparison
	differences    []ledger.Difference
	allDifferences int
}

// logState returns how far the log is, if the database can be asked now.
func (d *doctor) logState(ctx context.Context) (st logState, ok bool) {
	url := d.cfg.DatabaseURL
	if url == "" {
		if url, ok = engines.Running(d.cfg.Root); !ok {
			return st, false
		}
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	db, err := storage.Open(ctx, url)
	if err != nil {
		return st, false // which another check tells
	}
	defer db.Close()
	log := ledger.New(db.DB)
	if st.State, err = log.State(ctx); err == nil {
		st.witnesses, st.quorum, err = log.Witnesses(ctx)
	}
	if err == nil {
		st.comparisons, err = log.Comparisons(ctx)
	}
	if err == nil {
		st.differences, st.allDifferences, err = log.Differences(ctx, toldDifferences)
	}
	return st, err == nil
}
