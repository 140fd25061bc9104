// Package deploy_test holds what deploy/ and compose.yml say about packbase to
// the packbase that there is.
package deploy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// Each metric that an alert or a panel looks at is one that api or worker has,
// or the api of an edge.
func TestMetrics(t *testing.T) {
	t.Parallel()
	admin := fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
	s := harness.Up(t, "PACKBASE_ADMIN_ADDR="+admin) // api and worker in one
	s.TryFetch(harness.NewUpstream(t).URL + "/nothing")
	edgeAdmin := fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
	harness.StartEdge(t, s.URL).AddAPI("edge-metrics", "PACKBASE_ADMIN_ADDR="+edgeAdmin)
	has := scrape(t, admin) + scrape(t, edgeAdmin)

	var dashboard struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	b, err := os.ReadFile("../../deploy/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &dashboard); err != nil {
		t.Fatalf("grafana.json: %v", err)
	}
	alerts, err := os.ReadFile("../../deploy/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	asked := string(alerts)
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			asked += target.Expr + "\n"
		}
	}
	names := regexp.MustCompile(`\b(packbase|process|go)_[a-z_]+`).FindAllString(asked, -1)
	if len(names) < 20 {
		t.Errorf("found %d names of metrics, want more", len(names))
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if !strings.Contains(has, "\n"+name+"{") && !strings.Contains(has, "\n"+name+" ") {
			t.Errorf("%s is asked for, and there is none", name)
		}
	}
}

// What is told to end is not killed before it can have ended, and the document
// says how long that takes.
func TestStopTimes(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(harness.Binary(t), "config")
	cmd.Env = []string{} // for the defaults
	settings, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	duration := func(text, pattern string) time.Duration {
		t.Helper()
		m := regexp.MustCompile(pattern).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("no %s in\n%s", pattern, text)
		}
		d, err := time.ParseDuration(m[1])
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	stop := duration(string(settings), `PACKBASE_STOP_TIMEOUT +(\w+)`)
	least := duration(string(settings), `PACKBASE_DRAIN +(\w+)`) + stop + 15*time.Second
	for file, times := range map[string]struct {
		pattern string
		n       int
	}{
		"compose.yml":                    {`stop_grace_period: \$\{STOP_GRACE:-(\w+)\}`, 4},
		"deploy/packbase-api.service":    {`TimeoutStopSec=(\w+)`, 1},
		"deploy/packbase-worker.service": {`TimeoutStopSec=(\w+)`, 1},
		"docs/backup.md":                 {"kill what has not ended after (\\d+ s)", 1},
	} {
		b, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		all := regexp.MustCompile(times.pattern).FindAllStringSubmatch(string(b), -1)
		if len(all) != times.n {
			t.Errorf("%s: found %q, want %d times", file, all, times.n)
		}
		for _, m := range all {
			if kill, err := time.ParseDuration(strings.ReplaceAll(m[1], " ", "")); err != nil || kill < least {
				t.Errorf("%s kills after %s, want %v or more", file, m[1], least)
			}
		}
		if said := fmt.Sprintf("`PACKBASE_STOP_TIMEOUT` (%d s)", int(stop.Seconds())); file == "docs/backup.md" && !strings.Contains(string(b), said) {
			t.Errorf("%s does not say %s", file, said)
		}
	}
}

func scrape(t *testing.T, addr string) string {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return "\n" + string(b)
}
