package edges

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/francescobianco/packbase/tests/harness"
)

// A redisServer is a redis-server, or a sentinel, of one test.
type redisServer struct {
	addr string
	cmd  *exec.Cmd
	end  chan struct{}
}

// startRedis starts redis-server with settings on a port of its own.
func startRedis(t *testing.T, port int, args ...string) *redisServer {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("there is no redis-server")
	}
	dir := t.TempDir()
	// #nosec G204: a test's own program
	cmd := exec.Command(program, append(args, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--loglevel", "warning")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &redisServer{addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), cmd: cmd, end: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // it is killed
		close(s.end)
	}()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			if b, err := os.ReadFile(log.Name()); err == nil {
				t.Logf("redis at %s:\n%s", s.addr, b)
			}
		}
	})
	harness.Eventually(t, "redis answers", func() bool { return s.do(t, "PING") == nil })
	return s
}

func (s *redisServer) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.end
}

// do sends a command to this server alone.
func (s *redisServer) do(t *testing.T, args ...any) error {
	_, err := s.ask(t, args...)
	return err
}

func (s *redisServer) ask(t *testing.T, args ...any) (any, error) {
	client := redis.NewClient(&redis.Options{Addr: s.addr, MaxRetries: -1})
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Second)
	defer cancel()
	return client.Do(ctx, args...).Result()
}

// free returns a port whose cluster bus, 10000 above, is free as well.
func free(t *testing.T) int {
	t.Helper()
	for {
		port := harness.FreePort(t)
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port+10_000)))
		if err == nil {
			ln.Close()
			return port
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

// A Redis Cluster carries the queue and the locks; a job that is told of while
// a node is away is done all the same.
func TestRedisCluster(t *testing.T) {
	t.Parallel()
	long(t)
	nodes := make([]*redisServer, 3)
	for i := range nodes {
		nodes[i] = startRedis(t, free(t), "--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--appendonly", "no")
	}
	for i, n := range nodes {
		from, to := 16384*i/3, 16384*(i+1)/3-1
		if err := n.do(t, "CLUSTER", "ADDSLOTSRANGE", from, to); err != nil {
			t.Fatal(err)
		}
		host, port, _ := net.SplitHostPort(nodes[0].addr)
		if err := n.do(t, "CLUSTER", "MEET", host, port); err != nil {
			t.Fatal(err)
		}
	}
	var addrs []string
	for _, n := range nodes {
		addrs = append(addrs, n.addr)
		harness.Eventually(t, "the cluster agrees", func() bool {
			info, err := n.ask(t, "CLUSTER", "INFO")
			return err == nil && strings.Contains(fmt.Sprint(info), "cluster_state:ok") && strings.Contains(fmt.Sprint(info), "cluster_known_nodes:3")
		})
	}
	mirrors(t, "redis-cluster://"+strings.Join(addrs, ","), func() {})
}

// Redis by Sentinel: when the master dies, its replica takes over, and so do
// api and worker.
func TestRedisSentinel(t *testing.T) {
	t.Parallel()
	long(t)
	master := startRedis(t, free(t))
	host, port, err := net.SplitHostPort(master.addr)
	if err != nil {
		t.Fatal(err)
	}
	replica := startRedis(t, free(t), "--replicaof", host+" "+port)
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	settings := fmt.Sprintf("sentinel monitor packbase %s %s 1\nsentinel down-after-milliseconds packbase 500\nsentinel failover-timeout packbase 5000\n", host, port)
	if err := os.WriteFile(conf, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel := startRedis(t, free(t), conf, "--sentinel")
	harness.Eventually(t, "the replica follows, and sentinel knows of it", func() bool {
		link, err := replica.ask(t, "INFO", "replication")
		known, err2 := sentinel.ask(t, "SENTINEL", "REPLICAS", "packbase")
		list, _ := known.([]any)
		return err == nil && err2 == nil && strings.Contains(fmt.Sprint(link), "master_link_status:up") && len(list) == 1
	})
	mirrors(t, "redis-sentinel://"+sentinel.addr+"/0?master=packbase", master.kill)
}

// mirrors tests the queue and the locks of the Redis at url. harm is done to it
// in between.
func mirrors(t *testing.T, url string, harm func()) {
	t.Helper()
	up := harness.NewUpstream(t)
	hello := up.Repo("hello")
	hello.Release("v1.0.0")
	catalog := filepath.Join(t.TempDir(), "catalog.json")
	if err := os.WriteFile(catalog, []byte(`{"protocol":"v1","packages":[{"id":"1","title":"hello","repository":{"url":"`+hello.URL+`"}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	// Without the queue, a job would wait for the reconciler.
	s := harness.Start(t, "PACKBASE_REDIS_URL="+url, "PACKBASE_RECONCILE=20s", "PACKBASE_SOURCE=file://"+catalog, "PACKBASE_UPDATE_COOLDOWN=1h")
	began := time.Now()
	s.Fetch(hello.URL)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the fetch took %v: the queue did not tell of it", took)
	}
	if a := s.Do("POST", "/api/update?wait=300", "", nil); a.Status != 200 || !strings.Contains(string(a.Body), `"ok"`) {
		t.Errorf("update = %d %s, want ok", a.Status, a.Body)
	}
	if a := s.Do("POST", "/api/update", "", nil); !strings.Contains(string(a.Body), "cooldown") {
		t.Errorf("second update = %d %s, want cooldown", a.Status, a.Body)
	}
	var ready struct{ Dependencies map[string]string }
	decode(t, s.Get("/readyz"), &ready)
	if ready.Dependencies["redis"] != "ok" {
		t.Errorf("readiness says %v, want redis ok", ready.Dependencies)
	}
	harm()
	for i := range 3 {
		hello.Release(fmt.Sprintf("v2.%d.0", i))
		s.Fetch(hello.URL)
	}
}
