package logbook

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"filippo.io/torchwood"
)

// ParsePolicy reads a policy (c2sp.org/tlog-policy). Each of its signatures has to be by a key of its own: what the log, or one witness, could
// sign twice would be counted as two who have seen it.
func ParsePolicy(policy []byte) (torchwood.Policy, error) {
	p, err := torchwood.ParsePolicy(policy)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(policy), "\n")
	owners := map[string]string{} // by key
	for _, kind := range []string{"log", "witness"} {
		for i, line := range lines {
			line, _, _ = strings.Cut(line, "#")
			fields := strings.Fields(line)
			if len(fields) == 0 || fields[0] != kind {
				continue
			}
			owner, vkey := "the log", fields[1]
			if kind == "witness" {
				owner, vkey = "the witness "+fields[1], fields[2]
			}
			key := keyOf(vkey)
			if other := owners[key]; other != "" {
				return nil, fmt.Errorf("line %d: %s has the key of %s, so its signature says nothing more: want another key", i+1, owner, other)
			}
			owners[key] = owner
		}
	}
	for i, line := range lines {
		line, _, _ = strings.Cut(line, "#")
		if fields := strings.Fields(line); len(fields) > 3 && fields[0] == "group" {
			members := slices.Sorted(slices.Values(fields[3:]))
			if len(slices.Compact(members)) < len(fields)-3 {
				return nil, fmt.Errorf("line %d: the group %s names somebody twice", i+1, fields[1])
			}
		}
	}
	return p, nil
}

// keyOf returns the key in a public key that was read as one, without the name and the algorithm.
func keyOf(vkey string) string {
	fields := strings.SplitN(vkey, "+", 3) // the last has plus signs of its own
	raw, err := base64.StdEncoding.DecodeString(fields[len(fields)-1])
	if err != nil || len(raw) < 2 {
		return vkey
	}
	return string(raw[1:])
}
