// Command packbase is a self-hosted registry and mirror for Zig packages.
//
// `packbase up` runs all of it in one process, with a private Postgres and
// Redis. `packbase api`, `worker` and `migrate` are its parts, for when they
// run apart. The other commands are clients of a running server, or look
// after its data. Each has --help with an example.
//
// Settings are flags, or environment variables of the same name:
// --update-cooldown is PACKBASE_UPDATE_COOLDOWN.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/cmd/packbase/client"
	"github.com/francescobianco/packbase/cmd/packbase/serve"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/cmd/packbase/upkeep"
	"github.com/francescobianco/packbase/storage/queue"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	queue.Quiet()
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr); err != nil {
		code := exitCode(err)
		var ran *client.CommandError
		if code != exitInterrupted && !errors.As(err, &ran) { // whoever did that knows
			fmt.Fprintln(os.Stderr, "packbase:", term.PrintableLines(err.Error()))
		}
		os.Exit(code)
	}
}

// run executes the command line.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) error {
	root := commands(&term.Program{Release: build(), Getenv: getenv, Stdin: stdin, Stdout: stdout, Stderr: stderr})
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)

	// What goes wrong before a command begins is the command line's fault.
	begun := false
	root.PersistentPreRun = func(*cobra.Command, []string) { begun = true }
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !begun {
		return term.Usage("%w\n`%s --help` shows how it goes.", err, cmd.CommandPath())
	}
	return err
}

// commands returns the command tree.
func commands(p *term.Program) *cobra.Command {
	root := &cobra.Command{
		Use:           "packbase",
		Short:         "A self-hosted registry and mirror for Zig packages",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       release,
	}
	root.AddGroup(
		&cobra.Group{ID: "serve", Title: "Servers:"},
		&cobra.Group{ID: "use", Title: "Using a server (PACKBASE_URL):"},
		&cobra.Group{ID: "keep", Title: "Looking after the data:"},
	)
	root.AddCommand(serve.Commands(p)...)
	root.AddCommand(client.Commands(p)...)
	root.AddCommand(upkeep.Commands(p)...)
	root.AddCommand(versionCommand(p), completionCommand(p), manCommand(), exitCodesTopic())
	root.CompletionOptions.DisableDefaultCmd = true
	return root
}

// What this program is. A build of a tag sets release to the tag, and each that
// can tell sets commit.
var (
	release = "0.2.0-dev"
	commit  = ""
)

// Exit codes of the commands, as `packbase help exit-codes` explains them.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitAway        = 4
	exitRefused     = 5
	exitGoingOn     = 6
	exitInterrupted = 130 // 128 and SIGINT, as shells have it
)

// exitCode is the one table from errors to exit codes.
func exitCode(err error) int {
	var bad term.UsageError
	var answer *client.AnswerError
	var away *client.AwayError
	var goingOn *client.GoingOnError
	var ran *client.CommandError
	var unanswered *url.Error // of logs, which are read without the client
	switch {
	case errors.As(err, &ran):
		return ran.Code
	case errors.As(err, &bad):
		return exitUsage
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &goingOn):
		return exitGoingOn
	case errors.As(err, &away), client.IsBusy(err), errors.As(err, &unanswered) && unanswered.Op != "parse":
		return exitAway
	case errors.As(err, &answer) && answer.JobID == "":
		return exitCodeOf(answer.Status)
	}
	return exitFailed
}

// exitCodeOf is the part of the table for answers of a server.
func exitCodeOf(status int) int {
	switch status {
	case http.StatusBadRequest:
		return exitUsage
	case http.StatusNotFound, http.StatusGone:
		return exitNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		return exitRefused
	}
	return exitFailed
}
