//go:build !faults

package edges

// atLength asks for the counts of a nightly run.
const atLength = false

// rounds is how often an edge is killed.
const rounds = 10
