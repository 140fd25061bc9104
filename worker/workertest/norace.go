//go:build !race

package workertest

// raceEnabled says whether the tests run with the race detector.
const raceEnabled = false
