package tests_test

import (
	"encoding/pem"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// A forge whose certificate only this company trusts is mirrored where SSL_CERT_FILE names it, and nowhere else.
func TestOwnCertificates(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	repo := up.Repo("hello")
	repo.Tag("v1.0.0", repo.Commit(harness.Files{"a.txt": "a\n"}))
	behind, err := url.Parse(up.URL)
	if err != nil {
		t.Fatal(err)
	}
	forge := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(behind))
	defer forge.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: forge.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	harness.Start(t, "SSL_CERT_FILE="+file).Fetch(forge.URL + "/hello")
	if a := harness.Start(t).TryFetch(forge.URL + "/hello"); a.Code() != "upstream_tls" {
		t.Errorf("without the certificate: %d %s", a.Status, a.Body)
	}
}
