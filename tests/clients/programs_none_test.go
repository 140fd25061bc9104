//go:build !clients

package clients

import "testing"

// programs returns the clients that have to be built: none without the build
// tag clients.
func programs(testing.TB) []client { return nil }
