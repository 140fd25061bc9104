package proxy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/francescobianco/packbase/tests/harness"
)

// A proxy is one in front of an api, which speaks HTTPS.
type proxy struct {
	URL string // https://localhost:port
	CA  string // file with the certificate to trust

	Plain string // http://127.0.0.1:port, for http_proxy; "" if it is none
}

// client returns a client that trusts the proxy, and speaks HTTP/2 or not.
func (p *proxy) client(t *testing.T, http2 bool) *http.Client {
	t.Helper()
	b, err := os.ReadFile(p.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		t.Fatalf("no certificate in %s", p.CA)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: http2, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// program finds a program. Without it the test is skipped, or fails if CI is set.
func program(t *testing.T, name string) string {
	t.Helper()
	for _, try := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(try); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed", name)
	}
	t.Skipf("%s is not installed", name)
	return ""
}

// builtCaddy returns a Caddy that the go command has built, which takes a
// minute the first time. That of Debian is years older than what compose.yml
// runs, and reads other settings.
func builtCaddy(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("go", "tool", "-n", "caddy")
	cmd.Dir = "../tools/caddy"
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build caddy: %v\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// adapted returns a configuration file of ours with its places and names
// replaced by those of the test. All of them must be there.
func adapted(t *testing.T, file string, pairs ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../docker", file))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(string(b), pairs[i]) {
			t.Fatalf("%s has no %q", file, pairs[i])
		}
	}
	return strings.NewReplacer(pairs...).Replace(string(b))
}

func startNginx(t *testing.T, api string, pairs ...string) *proxy {
	nginx := program(t, "nginx")
	dir := t.TempDir()
	port, plain := harness.FreePort(t), harness.FreePort(t)
	ca, cert, key := certificate(t, dir)
	u, err := url.Parse(api)
	if err != nil {
		t.Fatal(err)
	}
	site := adapted(t, "nginx.conf", append(pairs,
		"127.0.0.1:8080", u.Host,
		"listen 443", fmt.Sprintf("listen 127.0.0.1:%d", port),
		"listen 8079", fmt.Sprintf("listen 127.0.0.1:%d", plain),
		"packbase.example.org", "localhost",
		"/etc/ssl/packbase.crt", cert, "/etc/ssl/packbase.key", key)...)
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // else it would drop to one who may not look here
	}
	config := user + "daemon off;\nworker_processes 2;\npid nginx.pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n" +
		"client_body_temp_path body;\nproxy_temp_path proxy;\nfastcgi_temp_path fastcgi;\nuwsgi_temp_path uwsgi;\nscgi_temp_path scgi;\n" +
		site + "}\n"
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, exec.Command(nginx, "-p", dir, "-c", file, "-e", "stderr"))
	return ready(t, &proxy{URL: fmt.Sprintf("https://localhost:%d", port), CA: ca, Plain: fmt.Sprintf("http://127.0.0.1:%d", plain)})
}

func startCaddy(t *testing.T, api string, _ ...string) *proxy {
	caddy := builtCaddy(t)
	dir := t.TempDir()
	port := harness.FreePort(t)
	config := adapted(t, "Caddyfile", "\tadmin off\n", fmt.Sprintf("\tadmin off\n\thttp_port %d\n\tdefault_bind 127.0.0.1\n", harness.FreePort(t)))
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(api)
	if err != nil {
		t.Fatal(err)
	}
	site := fmt.Sprintf("https://localhost:%d", port)
	cmd := exec.Command(caddy, "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "PACKBASE_SITE=" + site, "PACKBASE_API=" + u.Host}
	run(t, cmd)
	p := &proxy{URL: site, CA: filepath.Join(dir, "caddy/pki/authorities/local/root.crt")}
	harness.Eventually(t, "Caddy has made its certificate", func() bool {
		b, err := os.ReadFile(p.CA)
		return err == nil && len(b) > 0
	})
	return ready(t, p)
}

// run runs a server until the test ends, and shows what it said if that failed.
func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		err := cmd.Wait()
		log.Close()
		if b, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("%s ended with %v:\n%s", cmd.Path, err, b)
		}
	})
}

// ready waits until the api answers through the proxy.
func ready(t *testing.T, p *proxy) *proxy {
	t.Helper()
	client := p.client(t, false)
	harness.Eventually(t, p.URL+" is ready", func() bool {
		resp, err := client.Get(p.URL + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return p
}

// certificate makes a certificate for localhost and the authority behind it,
// and returns the files of that, of the certificate and of its key.
func certificate(t *testing.T, dir string) (authority, cert, key string) {
	t.Helper()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "packbase tests"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: root.NotBefore, NotAfter: root.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	rootKey, leafKey := newKey(t), newKey(t)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	authority, cert, key = filepath.Join(dir, "root.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePEM(t, authority, "CERTIFICATE", sign(t, root, root, rootKey, rootKey))
	writePEM(t, cert, "CERTIFICATE", sign(t, leaf, root, leafKey, rootKey))
	writePEM(t, key, "PRIVATE KEY", pkcs8)
	return authority, cert, key
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, cert, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
