// Package health says in one word how a package is, and the work that goes by
// itself. Lists, pages and badges say more about that word, and nothing else.
package health

import (
	"time"

	"github.com/francescobianco/packbase/storage"
)

// What a package can be.
const (
	Removed   = "removed"
	Frozen    = "frozen"    // under review
	Failing   = "failing"   // not mirrored yet, as that fails
	Waiting   = "waiting"   // to be mirrored
	Unhealthy = "unhealthy" // a client would not get the newest release
	Stale     = "stale"     // served, but the last look at upstream failed
	Healthy   = "healthy"   // the newest release was fetched back as a client would
	Unchecked = "unchecked" // not fetched back yet
)

// Of returns how the package is: the first of these that holds.
func Of(p *storage.Package) string {
	failed := p.SyncOK != nil && !*p.SyncOK
	switch {
	case p.State == storage.Removed:
		return Removed
	case p.State == storage.Frozen:
		return Frozen
	case failed && !p.Local():
		return Failing
	case p.SyncAt == nil && !p.Local():
		return Waiting
	case p.ProbedAt != nil && !p.Healthy:
		return Unhealthy
	case failed:
		return Stale
	case p.Healthy:
		return Healthy
	}
	return Unchecked
}

// NextTry returns when an update tries the package again at the earliest, whose
// last sync failed; nil if no update does.
func NextTry(p *storage.Package) *time.Time {
	if !p.Registered || p.State != storage.Active {
		return nil
	}
	return p.NextSyncAt
}

// Class is the word of those that are counted and listed by: Healthy, Unhealthy, Stale, Frozen or Waiting.
func Class(p *storage.Package) string {
	switch word := Of(p); word {
	case Healthy, Frozen, Stale, Unhealthy:
		return word
	case Failing:
		return Unhealthy
	}
	return Waiting
}
