//go:build race

package harness

// RaceEnabled says that the tests and packbase have the race detector, which
// takes several times the memory and the time.
const RaceEnabled = true
