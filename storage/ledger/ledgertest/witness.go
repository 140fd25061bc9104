package ledgertest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// A Witness is litewitness, a process of its own with its own key.
type Witness struct {
	Name, Key, URL string

	t    testing.TB
	dir  string
	args []string
	cmd  *exec.Cmd
	said *output
}

// NewWitness starts a witness that knows no log yet.
func NewWitness(t testing.TB, name string) *Witness {
	t.Helper()
	w := &Witness{Name: name, t: t, dir: t.TempDir()}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	w.must(err)
	signer, err := torchwood.NewCosignatureSigner(name, key)
	w.must(err)
	sshKey, err := ssh.NewPublicKey(public)
	w.must(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	addr := ln.Addr().String()
	w.must(ln.Close())
	w.Key, w.URL = signer.Verifier().String(), "http://"+addr
	w.args = []string{"-name", name, "-db", w.file("db"), "-ssh-agent", w.agent(key), "-listen", addr, "-key", ssh.FingerprintSHA256(sshKey)}
	t.Cleanup(w.Stop)
	w.Start()
	return w
}

// Line is the line of a policy that has the witness.
func (w *Witness) Line() string { return fmt.Sprintf("witness %s %s %s\n", w.Name, w.Key, w.URL) }

// Know tells the witness of a log.
func (w *Witness) Know(origin string, keys ...string) {
	w.t.Helper()
	out, err := exec.CommandContext(w.t.Context(), Tool(w.t, "github.com/francescobianco/packbase/tests/tools/log/register"),
		append([]string{w.file("db"), origin}, keys...)...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("register the log: %v\n%s", err, out)
	}
}

// Start starts the witness, with what it knew before, and waits until it can be asked.
func (w *Witness) Start() {
	w.t.Helper()
	w.said = &output{}
	w.cmd = exec.Command(Tool(w.t, "filippo.io/torchwood/cmd/litewitness"), w.args...)
	w.cmd.Stderr = w.said
	w.must(w.cmd.Start())
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		conn, err := (&net.Dialer{}).DialContext(context.WithoutCancel(w.t.Context()), "tcp", w.URL[len("http://"):])
		if err == nil {
			w.must(conn.Close())
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the witness does not listen: %v\n%s", err, w.said)
		}
	}
}

// Stop ends the witness.
func (w *Witness) Stop() {
	if w.cmd != nil && w.cmd.Process != nil {
		_ = w.cmd.Process.Kill()
		_ = w.cmd.Wait()
		w.cmd = nil
	}
}

// Hang has the witness take connections and say nothing, until Resume.
func (w *Witness) Hang() { w.must(w.cmd.Process.Signal(syscall.SIGSTOP)) }

// Resume has it go on.
func (w *Witness) Resume() { w.must(w.cmd.Process.Signal(syscall.SIGCONT)) }

// agent serves a key as litewitness wants it: by an agent of ssh.
func (w *Witness) agent(key ed25519.PrivateKey) (socket string) {
	w.t.Helper()
	ring := agent.NewKeyring()
	w.must(ring.Add(agent.AddedKey{PrivateKey: key}))
	socket = w.file("agent")
	ln, err := net.Listen("unix", socket)
	w.must(err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				wg.Go(func() { _ = agent.ServeAgent(ring, conn) })
			}
		}
	})
	w.t.Cleanup(func() {
		_ = ln.Close()
		w.Stop() // its connection ends with it
		wg.Wait()
	})
	return socket
}

func (w *Witness) file(name string) string { return filepath.Join(w.dir, name) }

func (w *Witness) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// An output collects what a process says.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
