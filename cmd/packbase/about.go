package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"github.com/francescobianco/packbase/cmd/packbase/term"
)

func versionCommand(p *term.Program) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this program",
		Example: "  packbase version",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(p.Stdout, "packbase %s%s %s %s/%s\n", release, revision(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// build returns what tells this build from others: the release, and the commit
// of one that is between releases.
func build() string {
	if id := builtFrom(); id != "" && strings.HasSuffix(release, "-dev") {
		return release + "+" + id
	}
	return release
}

// revision is builtFrom for people.
func revision() string {
	if id := builtFrom(); id != "" {
		return " (" + id + ")"
	}
	return ""
}

// builtFrom returns the commit that this program was built from, "" if it is
// not known.
func builtFrom() string {
	id := commit
	if info, ok := debug.ReadBuildInfo(); ok && id == "" {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				id = s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return id
}

func completionCommand(p *term.Program) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print what makes a shell complete commands, packages and tags",
		Example: `  source <(packbase completion bash)
  mkdir -p ~/.zfunc && packbase completion zsh > ~/.zfunc/_packbase
  packbase completion fish > ~/.config/fish/completions/packbase.fish`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []cobra.Completion{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				if err := root.GenBashCompletionV2(p.Stdout, true); err != nil {
					return err
				}
				_, err := io.WriteString(p.Stdout, bashWords)
				return err
			case "zsh":
				return root.GenZshCompletion(p.Stdout)
			default:
				return root.GenFishCompletion(p.Stdout, true)
			}
		},
	}
}

// bashWords replaces what cobra's script takes from the package bash-completion,
// and calls where that is not loaded: there words are what spaces divide.
const bashWords = `
__packbase_init_completion()
{
    COMPREPLY=()
    local line=${COMP_LINE:0:COMP_POINT}
    read -ra words <<<"$line"
    if [[ $line == *[[:space:]] ]]; then
        words+=("")
    fi
    cword=$((${#words[@]} - 1))
    cur=${words[cword]}
    prev=${words[cword > 0 ? cword - 1 : 0]}
}
`

func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages of all commands into a folder",
		Example: "  packbase man ~/.local/share/man/man1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("make the folder of the pages: %w", err)
			}
			cmd.Root().DisableAutoGenTag = true
			plainFlags(cmd.Root())
			if err := doc.GenManTree(cmd.Root(), &doc.GenManHeader{Section: "1", Source: "packbase " + build()}, args[0]); err != nil {
				return fmt.Errorf("write the pages: %w", err)
			}
			return nil
		},
	}
}

// plainFlags keeps what flags are for from being read as Markdown, in which pages are made.
func plainFlags(cmd *cobra.Command) {
	marks := strings.NewReplacer("[", `\[`, "<", `\<`, "*", `\*`)
	cmd.Flags().VisitAll(func(f *pflag.Flag) { f.Usage = marks.Replace(f.Usage) })
	for _, below := range cmd.Commands() {
		plainFlags(below)
	}
}

// exitCodesTopic is `packbase help exit-codes`.
func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `Exit codes:

    0  it worked
    1  it did not work: the job, the probe or a check failed
    2  the command line or a setting is wrong; nothing was done
    3  there is no such package, release or job
    4  the server does not answer, or cannot now: the same may work soon
    5  the server refuses: no token, another token, or it is read-only
    6  not done within --timeout: the job goes on
  130  interrupted by Ctrl-C; a job that was waited for goes on`,
	}
}
