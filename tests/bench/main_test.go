package bench

import (
	"testing"

	"packbase/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
