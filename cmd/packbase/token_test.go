package main

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/cmd/packbase/serve"
)

// A token that can be guessed is refused where the operator says so and others
// can reach the port.
func TestShortToken(t *testing.T) {
	t.Parallel()
	cfg := &serve.Config{Token: "secret", MinToken: 16}
	if _, err := serve.NewAPI(cfg, &serve.Stores{}, nil, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "6 characters") || exitCode(err) != exitUsage {
		t.Errorf("NewAPI = %v, want that 6 characters are too few", err)
	}
}
