package ingest

import (
	"fmt"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// limitProcess makes the kernel hold this process to lim. The Go runtime
// collects garbage well before the address space runs out.
func limitProcess(lim Limits) error {
	debug.SetMemoryLimit(min(lim.Memory/8, 160<<20))
	for _, l := range []struct {
		what     int
		name     string
		cur, max uint64
	}{
		{unix.RLIMIT_AS, "memory", uint64(lim.Memory), uint64(lim.Memory)},
		// At the first limit the kernel sends SIGXCPU, at the second SIGKILL.
		{unix.RLIMIT_CPU, "processor time", uint64(lim.CPU.Seconds()), uint64(lim.CPU.Seconds()) + 1},
		{unix.RLIMIT_FSIZE, "file size", uint64(lim.File), uint64(lim.File)},
		{unix.RLIMIT_NOFILE, "open files", 256, 256},
		{unix.RLIMIT_CORE, "core file", 0, 0},
	} {
		if err := unix.Setrlimit(l.what, &unix.Rlimit{Cur: l.cur, Max: l.max}); err != nil {
			return fmt.Errorf("limit %s: %w", l.name, err)
		}
	}
	return nil
}
