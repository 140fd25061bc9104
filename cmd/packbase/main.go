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
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "packbase:", err)
		os.Exit(exitCode(err))
	}
}

// A program is one run of the command.
type program struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
}

// run executes the command line.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) error {
	p := &program{getenv: getenv, stdin: stdin, stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:           "packbase",
		Short:         "A self-hosted registry and mirror for Zig packages",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       release,
	}
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.AddGroup(
		&cobra.Group{ID: "serve", Title: "Servers:"},
		&cobra.Group{ID: "use", Title: "Using a server (PACKBASE_URL):"},
		&cobra.Group{ID: "keep", Title: "Looking after the data:"},
	)
	root.AddCommand(p.upCommand(), p.apiCommand(), p.workerCommand(), p.migrateCommand(), p.ingestCommand(), p.configCommand())
	return root.ExecuteContext(ctx)
}

// release is the version of packbase, set when it is built.
var release = "dev"

// Exit codes of the commands.
const (
	exitFailed = 1 // it did not work
	exitUsage  = 2 // the command line or a setting is wrong
)

// exitCode is the one table from errors to exit codes.
func exitCode(err error) int {
	return exitFailed
}
