//go:build faults

package faults

// atLength asks for the counts of a nightly run.
const atLength = true
