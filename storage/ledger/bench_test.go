package ledger_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage/logbook"
)

// An entry costs its hashes and little more; the rest of the time is the database's. With -benchtime=200000x this holds the
// promise of at most 2 µs each: cpu-ns/op, as machines have other things to do.
func BenchmarkEdge(b *testing.B) {
	entry := make([]byte, 700) // as that of a release
	edge := &logbook.Edge{}
	defer cpu(b)()
	for b.Loop() {
		edge.Append(tlog.RecordHash(entry), func(int, int64, []byte) {})
	}
}

// All of a sequencer's work: time of an entry, signing, files and all that is sent to the database included.
func BenchmarkSequence(b *testing.B) {
	s := newBook(b)
	for left := b.N; left > 0; left -= 10_000 {
		s.publish("hello", min(left, 10_000))
	}
	defer cpu(b)()
	b.ResetTimer()
	s.step()
}

// What the files of proofs cost, and how many bytes one has.
func BenchmarkProofFiles(b *testing.B) {
	s := newBook(b)
	for left := b.N; left > 0; left -= 10_000 {
		s.publish("hello", min(left, 10_000))
	}
	s.step()
	s.must(os.RemoveAll(filepath.Join(s.folder().Dir, "proof")))
	defer cpu(b)()
	b.ResetTimer()
	s.step()
}

// cpu reports processor time.
func cpu(b *testing.B) (end func()) {
	used := func() int64 {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}
