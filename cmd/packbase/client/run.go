package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/cmd/packbase/localproxy"
	"github.com/francescobianco/packbase/cmd/packbase/term"
)

// stopCommand is how long a command may take to end once it was told to.
const stopCommand = 10 * time.Second

func (p *program) runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG]...",
		Short: "Run a command whose zig takes all packages from a server",
		Long: `Run a command with a proxy on this machine that has zig take every package from
the server, whatever host a build.zig.zon names. The proxy speaks HTTPS and the
token to the server, which Zig cannot. When the command fails, what could not be
had is told, with the reason. The exit code is the command's.

What other programs send through the proxy goes where they want it to go.`,
		Example: "  PACKBASE_URL=https://packbase.example.org packbase run -- zig build",
		Args:    cobra.MinimumNArgs(1),
	}
	r := p.addRemote(cmd)
	_ = cmd.Flags().MarkHidden("json") // it is there
	onlyZig := cmd.Flags().Bool("only-zig", false, "refuse what other programs want from elsewhere")
	cmd.Flags().SetInterspersed(false) // the command's flags are the command's
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := p.client(r)
		if err != nil {
			return err
		}
		proxy, err := localproxy.Start(cmd.Context(), localproxy.Options{Remote: c.base, Token: c.token, Others: !*onlyZig, HTTP: c.http})
		if err != nil {
			return err
		}
		defer proxy.Close()
		err = p.run(cmd.Context(), args, proxy.URL)
		if reasons := proxy.Reasons(); err != nil && len(reasons) > 0 {
			fmt.Fprintf(p.Stderr, "packbase: not to be had from %s:\n", c.base)
			for _, reason := range reasons {
				fmt.Fprintf(p.Stderr, "  %s\n", term.Printable(reason))
			}
		}
		return err
	}
	return cmd
}

// run runs a command with a proxy. The error is a *CommandError if it ran and failed.
func (p *program) run(ctx context.Context, args []string, proxy string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Stdin, p.Stdout, p.Stderr
	cmd.Env = withProxy(os.Environ(), proxy)
	// A terminal tells the command of Ctrl-C itself; what it has begun it may end.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopCommand
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || ctx.Err() != nil {
		return err
	}
	code := exit.ExitCode()
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		code = 128 + int(status.Signal()) // as shells have it
	}
	return &CommandError{code}
}

// withProxy returns an environment in which http and https go by a proxy.
func withProxy(env []string, proxy string) []string {
	var all []string
	for _, e := range env {
		switch name, _, _ := strings.Cut(e, "="); strings.ToLower(name) {
		case "http_proxy", "https_proxy":
		default:
			all = append(all, e)
		}
	}
	for _, name := range []string{"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"} {
		all = append(all, name+"="+proxy)
	}
	return all
}

// A CommandError is how a command ended that somebody else wrote, and has explained.
type CommandError struct{ Code int }

func (e *CommandError) Error() string {
	return fmt.Sprintf("the command ended with exit code %d", e.Code)
}
