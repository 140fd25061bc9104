// Package deploy_test holds what deploy/ and compose.yml say about packbase to
// the packbase that there is.
package deploy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"packbase/tests/harness"
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
