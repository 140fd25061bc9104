package proxy

import (
	"slices"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
)

// How much is kept for GET /why.
const (
	maxClients  = 1000
	maxRefusals = 20
)

// refusals are the last refusals of each client, the oldest first.
type refusals struct {
	mu   sync.Mutex
	last *lru.Cache[string, []string]
}

func (k *refusals) add(client, reason string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.last == nil {
		k.last, _ = lru.New[string, []string](maxClients) // the error is about sizes below one
	}
	all, _ := k.last.Get(client)
	all = slices.DeleteFunc(slices.Clone(all), func(r string) bool { return r == reason })
	all = append(all, reason)
	k.last.Add(client, all[max(0, len(all)-maxRefusals):])
}

func (k *refusals) of(client string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.last == nil {
		return nil
	}
	all, _ := k.last.Get(client)
	return slices.Clone(all)
}
