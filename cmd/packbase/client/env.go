package client

import (
	"fmt"
	"net"
	"net/url"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/cmd/packbase/term"
)

// forms are how the proxy variables are set, by where. %s is the URL.
var forms = map[string]string{
	"sh":         "# For zig alone: packbase run -- zig build\nexport http_proxy=%[1]s\nexport https_proxy=%[1]s\n",
	"fish":       "# For zig alone: packbase run -- zig build\nset -gx http_proxy %[1]s\nset -gx https_proxy %[1]s\n",
	"powershell": "# For zig alone: packbase run -- zig build\n$env:http_proxy = '%[1]s'\n$env:https_proxy = '%[1]s'\n",
	"github":     workflow,
	"forgejo":    workflow,
}

// A workflow sets them for the step that runs zig: others, as the one that clones the project, could do nothing with
// such a proxy.
const workflow = "- run: zig build\n  env:\n    http_proxy: %[1]s\n    https_proxy: %[1]s\n"

func (p *program) envCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print the lines that have zig take all packages from a server",
		Long: `Print the lines that have zig take every package from the server, as its proxy.
Zig speaks to a proxy in clear text only: for a server with HTTPS, and from
networks that others can listen to, there is ` + "`packbase run`" + `. Programs that want a
tunnel of a proxy, as git and curl do for https, get none of this one.`,
		Example: `  eval "$(packbase env)"
  packbase env --for fish | source
  packbase env --for github --url http://mirror.example.org:8080`,
		Args: cobra.NoArgs,
	}
	r := p.addRemote(cmd)
	_ = cmd.Flags().MarkHidden("json") // it is there
	where := cmd.Flags().String("for", "", "sh, fish, powershell, github or forgejo (default by $SHELL)")
	withToken := cmd.Flags().Bool("with-token", false, "for private packages; of a workflow: the secret PACKBASE_TOKEN")
	cmd.RunE = func(*cobra.Command, []string) error {
		if *where == "" {
			*where = "sh"
			if path.Base(p.Getenv("SHELL")) == "fish" {
				*where = "fish"
			}
		}
		form, ok := forms[*where]
		if !ok {
			return term.Usage("--for: %q is none of sh, fish, powershell, github and forgejo", *where)
		}
		c, err := p.client(r)
		if err != nil {
			return err
		}
		proxy, err := proxyURL(c.base)
		if err != nil {
			return err
		}
		if *withToken {
			token := c.token
			if form == workflow {
				token = "${{ secrets.PACKBASE_TOKEN }}"
			} else if !plainToken(token) {
				return term.Usage("--with-token: there is no token, or one with characters that Zig cannot send to a proxy; `packbase token create` makes one that it can")
			}
			proxy = strings.Replace(proxy, "://", "://"+token+"@", 1)
		}
		fmt.Fprintf(p.Stdout, form, proxy)
		return nil
	}
	return cmd
}

// proxyURL returns a server's URL as every Zig reads it.
func proxyURL(base *url.URL) (string, error) {
	if base.Scheme != "http" || base.Path != "" {
		return "", term.Usage("Zig cannot speak to %s as a proxy: it wants http://, and no path; `packbase run -- zig build` can", base)
	}
	host, port := base.Hostname(), base.Port()
	if port == "" {
		port = "80"
	}
	return "http://" + net.JoinHostPort(host, port), nil
}

// plainToken tells whether a token can stand in a URL as it is: Zig decodes nothing there.
func plainToken(token string) bool {
	return token != "" && !strings.ContainsFunc(token, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._~", r))
	})
}
