package probe

import "testing"

// What zig prints is shown to everybody: where it ran is nobody's business.
func TestWithoutFolder(t *testing.T) {
	t.Parallel()
	const printed = "/tmp/packbase-zig-17/cache/p/a/build.zig.zon:3:1: error: unable to open '/private/tmp/packbase-zig-17/x'\n"
	want := "cache/p/a/build.zig.zon:3:1: error: unable to open 'x'"
	if got := withoutFolder(printed, "/tmp/packbase-zig-17", "/private/tmp/packbase-zig-17"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
