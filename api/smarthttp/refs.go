package smarthttp

import (
	"bytes"
	"slices"
	"strings"

	"github.com/francescobianco/packbase/storage/gitpack"
)

// advertise writes the answer of info/refs.
func advertise(p *packetWriter, repo *Repository, version int, agent string) {
	if version == 2 {
		advertiseCapabilities(p, agent)
		return
	}
	p.linef("# service=git-upload-pack\n")
	p.flush()
	if version == 1 {
		p.linef("version 1\n")
	}
	advertiseRefs(p, repo, agent)
}

// advertiseCapabilities writes what this server can do in version 2.
// gitprotocol-v2(5), "Capability Advertisement".
func advertiseCapabilities(p *packetWriter, agent string) {
	p.linef("version 2\n")
	p.linef("agent=%s\n", agent)
	p.linef("ls-refs=unborn\n")
	p.linef("fetch=shallow wait-for-done\n")
	p.linef("object-format=sha1\n")
	p.flush()
}

// advertiseRefs writes the refs of versions 0 and 1, each tag object followed
// by its commit, and the commits that lack their parents: a clone without
// --depth learns it here and nowhere else. git upload-pack does the same in
// a shallow repository. gitprotocol-pack(5), "Reference Discovery".
func advertiseRefs(p *packetWriter, repo *Repository, agent string) {
	capabilities := "\x00multi_ack side-band side-band-64k ofs-delta shallow no-progress include-tag" +
		" multi_ack_detailed allow-tip-sha1-in-want allow-reachable-sha1-in-want no-done" +
		" symref=HEAD:" + mainRef + " object-format=sha1 agent=" + agent
	for ref := range repo.all() {
		p.linef("%s %s%s\n", ref.OID, ref.Name, capabilities)
		capabilities = ""
		if !ref.Peeled.IsZero() {
			p.linef("%s %s^{}\n", ref.Peeled, ref.Name)
		}
	}
	for _, id := range repo.commits() {
		p.linef("shallow %s\n", id)
	}
	p.flush()
}

// commits returns every commit of repo once, sorted.
func (repo *Repository) commits() []gitpack.OID {
	ids := slices.Clone(repo.Snapshots)
	for ref := range repo.all() {
		ids = append(ids, ref.Commit())
	}
	slices.SortFunc(ids, func(a, b gitpack.OID) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(ids)
}

// listRefs answers the command ls-refs.
// gitprotocol-v2(5), "ls-refs".
func listRefs(p *packetWriter, repo *Repository, req *request) {
	for ref := range repo.all() {
		if !req.wantsRef(ref.Name) {
			continue
		}
		attributes := ""
		if req.symrefs && ref.Name == "HEAD" {
			attributes += " symref-target:" + mainRef
		}
		if req.peel && !ref.Peeled.IsZero() {
			attributes += " peeled:" + ref.Peeled.String()
		}
		p.linef("%s %s%s\n", ref.OID, ref.Name, attributes)
	}
	p.flush()
}

func (req *request) wantsRef(name string) bool {
	// Prefixes only spare the client some lines: with too many of them it is
	// cheaper for all to send everything.
	if len(req.prefixes) == 0 || len(req.prefixes) > maxPrefixes {
		return true
	}
	return slices.ContainsFunc(req.prefixes, func(prefix string) bool {
		return strings.HasPrefix(name, prefix)
	})
}

const (
	maxPrefixes = 256
	maxPrefix   = 1 << 10 // bytes of one; longer than any ref, so the rest of it says nothing
)
