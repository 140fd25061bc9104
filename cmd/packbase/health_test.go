package main

import (
	"context"
	"net"
	"net/url"
	"strconv"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/francescobianco/packbase/cmd/packbase/serve"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	health := func(env map[string]string, args ...string) result {
		return cli(t.Context(), env, append([]string{"health"}, args...)...)
	}
	port := map[string]string{"PACKBASE_PORT": u.Port()}
	health(port).check(t, 0, "ready")
	health(port, "--addr", "0.0.0.0").check(t, 0, "ready")
	s.stores.DB.Close()
	health(port).check(t, exitFailed, "503", `"postgres":"down"`)

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close() // now nobody listens there
	admin := map[string]string{"PACKBASE_ADMIN_ADDR": ":" + strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)}
	health(admin, "--admin").check(t, exitFailed, "refused")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := serve.ServeAdmin(ctx, &serve.Config{AdminAddr: admin["PACKBASE_ADMIN_ADDR"]}, prometheus.NewRegistry()); err != nil {
		t.Fatal(err)
	}
	health(admin, "--admin").check(t, 0, "ready")
	health(nil, "--admin", "--admin-addr", "off").check(t, exitUsage, "PACKBASE_ADMIN_ADDR")
}
