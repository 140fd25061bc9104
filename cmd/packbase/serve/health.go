package serve

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/cmd/packbase/term"
)

// healthCommand is for those that ask by running a program: container engines
// and init systems. The image has neither a shell nor curl.
func (p *program) healthCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "health",
		GroupID: "serve",
		Short:   "Ask the packbase on this machine whether it is ready",
		Long: `Ask the packbase on this machine, or in this container, whether it is ready, with
the settings that it was started with: /readyz on PACKBASE_PORT. Exit code 0 says
that it is. A worker or a replica has no such port: --admin asks PACKBASE_ADMIN_ADDR.`,
		Example: "  PACKBASE_PORT=8081 packbase health\n  packbase health --admin",
		Args:    cobra.NoArgs,
	}
	admin := cmd.Flags().Bool("admin", false, "ask the admin listener whether it answers")
	cfg := AddSettings(p.Program, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		addr, path := net.JoinHostPort(cfg.Addr, strconv.Itoa(cfg.Port)), "/readyz"
		if *admin {
			if cfg.AdminAddr == "" {
				return term.Usage("PACKBASE_ADMIN_ADDR is off: there is nobody to ask")
			}
			addr, path = cfg.AdminAddr, "/metrics"
		}
		return p.askHealth(cmd.Context(), "http://"+nearest(addr)+path)
	}
	return cmd
}

// nearest returns where to dial what listens on addr, a host:port.
func nearest(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost" // of whichever family
	}
	return net.JoinHostPort(host, port)
}

func (p *program) askHealth(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := new(http.Transport).RoundTrip(req) // no proxy, no redirect
	if err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask %s: %s: %s", url, resp.Status, bytes.TrimSpace(body))
	}
	_, err = fmt.Fprintln(p.Stdout, "ready")
	return err
}
