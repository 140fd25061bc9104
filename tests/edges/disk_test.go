package edges

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// smallDisk returns a folder on a file system of its own with so many MiB, and
// what gives it another size. The test is skipped unless it runs as root.
func smallDisk(t *testing.T, mib int) (dir string, resize func(mib int)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	dir = t.TempDir()
	size := func(mib int) string { return fmt.Sprintf("size=%dm,mode=0755", mib) }
	if err := syscall.Mount("packbase-test", dir, "tmpfs", 0, size(mib)); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir, func(mib int) {
		if err := syscall.Mount("packbase-test", dir, "tmpfs", syscall.MS_REMOUNT, size(mib)); err != nil {
			t.Fatal(err)
		}
	}
}

// noise returns bytes that do not compress.
func noise(seed uint64, n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b) // never fails
	return string(b)
}

// ED-06. An edge whose disk is full serves what it has, shows nothing in part,
// and goes on by itself when there is room.
func TestEdgeDiskFull(t *testing.T) {
	t.Parallel()
	dir, resize := smallDisk(t, 20)
	up := harness.NewUpstream(t)
	big := up.Repo("big")
	central := harness.Start(t)
	for i := range 6 {
		big.Tag(fmt.Sprintf("v1.%d.0", i), big.Commit(harness.Files{"noise.bin": noise(uint64(i), 3<<20)}))
		central.Fetch(big.URL)
	}
	edge := harness.StartEdge(t, central.URL, "PACKBASE_ROOT="+dir)
	harness.Eventually(t, "the disk is full", func() bool {
		return strings.Contains(edge.Worker.Log(), "storage full") || edge.Worker.Said("no space left")
	})
	all, part := served(t, central), served(t, edge)
	within(t, part, all)
	if len(part) == len(all) {
		t.Fatal("all fitted, want a full disk")
	}
	if halted := status(t, edge).Halted; halted != "" {
		t.Errorf("halted: %s", halted)
	}
	if len(part) > 0 {
		if _, err := clone(t, edge.URL, "big"); err != nil {
			t.Error(err)
		}
	}
	edge.Restart() // also starts with a full disk
	within(t, part, served(t, edge))

	resize(200)
	inStep(t, edge, central)
	same(t, served(t, edge), all)
	harness.Eventually(t, "the package is healthy", func() bool {
		var info struct{ Healthy bool }
		decode(t, edge.Get("/api/info/big"), &info)
		return info.Healthy
	})
	edge.Stop()
	clean(t, edge)
	if left, err := filepath.Glob(dir + "/staging/*"); err != nil || len(left) > 0 {
		t.Errorf("staging holds %q", left)
	}
}
