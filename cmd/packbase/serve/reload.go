package serve

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// reloaded are the settings that may change while a server runs.
var reloaded = []string{
	"log", "max-jobs", "pull-wait", "update-cooldown", "update-interval",
	"max-bytes", "max-package-bytes", "max-releases", "max-ratio", "min-free",
}

// onReload has f called with the settings when they were read again.
func (c *Config) onReload(f func(next *Config)) {
	if c.reloads != nil {
		c.reloads <- f
	}
}

// Reload has SIGHUP read the settings again, until ctx ends. What can change does, and what needs a restart is named; a mistake
// leaves all as it is.
func (c *Config) Reload(ctx context.Context, log *slog.Logger) {
	c.reloads = make(chan func(*Config), 2) // of an api and a worker
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		defer signal.Stop(hangups)
		var apply []func(*Config)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
				for len(c.reloads) > 0 {
					apply = append(apply, <-c.reloads)
				}
				c.readAgain(log, apply)
			}
		}
	}()
}

func (c *Config) readAgain(log *slog.Logger, apply []func(*Config)) {
	next := &Config{Release: c.Release}
	values, err := c.read(next)
	if err != nil {
		log.Error("settings not read again: all stay as they are", "err", err)
		return
	}
	var changed, waiting []string
	for i, v := range values {
		switch {
		case v.text == c.values[i].text:
		case slices.Contains(reloaded, v.name):
			changed = append(changed, v.name)
			c.values[i] = v
		default:
			waiting = append(waiting, v.name)
		}
	}
	c.level.Set(next.level.Level())
	for _, f := range apply {
		f(next)
	}
	log.Warn("settings read again", "changed", strings.Join(changed, ","), "need a restart", strings.Join(waiting, ","))
}
