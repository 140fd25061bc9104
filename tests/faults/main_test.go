// Package faults kills, freezes, fills and cuts what packbase stands on, and
// gives it hostile upstreams, and checks each time that nothing came of it.
//
// Tests are named after the test plan's ids. What a test says of the counts:
// the smaller runs with `make test`, the larger with `make test-faults`.
package faults

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/francescobianco/packbase/tests/harness"
)

func TestMain(m *testing.M) {
	// These tests wait for leases and time limits most of the time.
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		if err := flag.Set("test.parallel", "4"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	harness.Main(m)
}

// rounds returns how often to do what a test does.
func rounds(short, long int) int {
	if atLength {
		return long
	}
	return short
}

// faults is rounds for the campaign; PACKBASE_TEST_FAULTS sets another number.
func faults(t *testing.T, short, long int) int {
	t.Helper()
	text := os.Getenv("PACKBASE_TEST_FAULTS")
	if text == "" {
		return rounds(short, long)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("PACKBASE_TEST_FAULTS: %v", err)
	}
	return n
}

// random returns numbers that are the same again if PACKBASE_TEST_SEED is set
// to the seed that it logs.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("PACKBASE_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("PACKBASE_TEST_SEED: %v", err)
		}
	}
	t.Logf("PACKBASE_TEST_SEED=%d repeats this", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// upTo returns a time from 0 to most.
func upTo(rnd *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(rnd.Int64N(int64(most) + 1))
}
