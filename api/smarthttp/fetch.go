package smarthttp

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/pktline"
)

// A plan is what a fetch is answered with.
type plan struct {
	*request
	common  []gitpack.OID   // the haves that are held here
	shallow []gitpack.OID   // commits that the client must note as shallow
	one     *gitpack.Stored // the pack to send, if it is that of one release
	objects *roaring.Bitmap // of the pack, else
}

// pack returns the pack to send.
func (pl *plan) pack(set *gitpack.Set) (*gitpack.Pack, error) {
	if pl.one == nil {
		return set.Pack(pl.objects, nil)
	}
	objects, err := pl.one.Ordinals()
	if err != nil {
		return nil, err
	}
	return set.Pack(objects, &pl.one.Trailer)
}

// fetch answers a fetch of any version.
func (h *Handler) fetch(w http.ResponseWriter, r *http.Request, repo *Repository, req *request, version int) error {
	pl, err := h.plan(r.Context(), repo, req)
	if err != nil {
		return err
	}
	var head bytes.Buffer // what goes before the pack
	p := &packetWriter{w: &head}
	sendPack := false
	if version == 2 {
		sendPack = pl.negotiate(p)
	} else {
		sendPack = pl.negotiateV0(p)
	}
	if !sendPack {
		return h.send(w, func(p *packetWriter) { p.raw(head.Bytes()) })
	}
	h.log.DebugContext(r.Context(), "git fetch", "package", repo.Package, "agent", r.UserAgent(),
		"wants", len(pl.wants), "haves", len(pl.haves))
	req.free() // from here on nothing needs it
	sideband := pl.sideband
	if version == 2 {
		sideband = pktline.MaxSize
	}
	read := func() (*gitpack.PackReader, int64, error) {
		pack, err := pl.pack(repo.Set)
		if err != nil {
			return nil, 0, fmt.Errorf("plan fetch of %s: %w", repo.Package, err)
		}
		return pack.Reader(func(i int) (gitpack.Segment, error) {
			return h.store.Segment(r.Context(), repo, i)
		}, h.opts.Window), pack.Size, nil
	}
	if pl.one != nil && sideband > 0 && h.kept.begin(pl.one.Size) {
		defer h.kept.end(pl.one.Size)
		key := packKey{repo.Package, pl.one.Trailer, pl.one.Size, sideband}
		b, err := h.kept.get(key, func() ([]byte, error) {
			pack, _, err := read()
			if err != nil {
				return nil, err
			}
			defer pack.Close()
			return framed(pack, key)
		})
		if err != nil {
			return err
		}
		return sendWhole(w, head.Bytes(), b)
	}
	pack, size, err := read()
	if err != nil {
		return err
	}
	defer pack.Close()
	if err := pack.Begin(); err != nil {
		return err
	}
	return h.sendPack(w, head.Bytes(), pack, size, sideband)
}

// plan looks up what req names and works out what to send.
func (h *Handler) plan(ctx context.Context, repo *Repository, req *request) (*plan, error) {
	req.wants, req.haves = unique(req.wants), unique(req.haves)
	tags := repo.tagsOf(req)
	ids := append(append(tags, req.wants...), req.haves...)
	packs, err := h.store.Packs(ctx, repo, ids)
	if err != nil {
		return nil, err
	}
	pl := &plan{request: req}
	for _, id := range req.haves {
		if _, ok := packs[id]; ok {
			pl.common = append(pl.common, id)
		}
	}
	wanted := make(map[gitpack.OID]gitpack.Stored)
	for _, id := range req.wants {
		st, ok := packs[id]
		if reason, removed := repo.Removed[id]; removed && !ok {
			return nil, &Error{Status: http.StatusGone, Code: "removed", Message: fmt.Sprintf("%s was removed: %s", id, reason)}
		}
		if !ok {
			return nil, refuse("upload-pack: not our ref %s", id)
		}
		wanted[id] = st
	}
	pl.shallow = req.newShallow(wanted)
	for _, id := range tags {
		if st, ok := packs[id]; ok {
			wanted[id] = st
		}
	}
	if pl.one, pl.objects, err = toSend(wanted, pl.common, packs); err != nil {
		return nil, fmt.Errorf("plan fetch of %s: %w", repo.Package, err)
	}
	return pl, nil
}

// tagsOf returns the tag objects that include-tag adds to a request: those of
// the commits it wants.
func (repo *Repository) tagsOf(req *request) []gitpack.OID {
	if !req.includeTag {
		return nil
	}
	wanted := make(map[gitpack.OID]bool, 2*len(req.wants))
	for _, id := range req.wants {
		wanted[id] = true
	}
	for _, ref := range repo.Refs {
		if wanted[ref.OID] {
			wanted[ref.Commit()] = true
		}
	}
	var tags []gitpack.OID
	for _, ref := range repo.Refs {
		if wanted[ref.Peeled] && !wanted[ref.OID] {
			tags = append(tags, ref.OID)
		}
	}
	return tags
}

// newShallow returns the commits of wanted that the client does not know to be
// without parents.
func (req *request) newShallow(wanted map[gitpack.OID]gitpack.Stored) []gitpack.OID {
	known := make(map[gitpack.OID]bool)
	for _, id := range req.shallows {
		known[id] = true
	}
	if !req.deepen {
		// What the client has and does not call shallow, it has with its
		// history, from elsewhere.
		for _, id := range req.haves {
			known[id] = true
		}
	}
	var ids []gitpack.OID
	for _, id := range req.wants {
		if commit := wanted[id].Commit; !known[commit] {
			known[commit] = true
			ids = append(ids, commit)
		}
	}
	return ids
}

// toSend returns the pack of what is wanted without what is common, or the objects of one that is nobody's.
func toSend(wanted map[gitpack.OID]gitpack.Stored, common []gitpack.OID, packs map[gitpack.OID]gitpack.Stored) (one *gitpack.Stored, objects *roaring.Bitmap, err error) {
	if len(wanted) == 1 && len(common) == 0 {
		for _, st := range wanted {
			return &st, nil, nil
		}
	}
	objects = roaring.New()
	largest := gitpack.Stored{}
	tagged := make(map[gitpack.OID]bool) // commits of which a tag object is wanted
	for id, st := range wanted {
		tagged[st.Commit] = tagged[st.Commit] || id != st.Commit
		b, err := st.Ordinals()
		if err != nil {
			return nil, nil, err
		}
		if objects.Or(b); st.Objects > largest.Objects {
			largest = st
		}
	}
	all := objects.GetCardinality()
	for _, id := range common {
		// Who has a commit need not have the tag objects in its pack. If one of
		// them is wanted, the rest is sent again: that is rare.
		if tagged[id] {
			continue
		}
		b, err := packs[id].Ordinals()
		if err != nil {
			return nil, nil, err
		}
		objects.AndNot(b)
	}
	if n := uint64(largest.Objects); n > 0 && n == all && n == objects.GetCardinality() {
		return &largest, nil, nil
	}
	return nil, objects, nil
}

// negotiate writes the sections of version 2 before the pack, and reports
// whether the pack follows. gitprotocol-v2(5), "fetch".
func (pl *plan) negotiate(p *packetWriter) bool {
	if len(pl.haves) > 0 && !pl.done {
		p.linef("acknowledgments\n")
		for _, id := range pl.common {
			p.linef("ACK %s\n", id)
		}
		if len(pl.common) == 0 {
			p.linef("NAK\n")
		}
		// Releases share most of their trees: one in common is as good as all.
		if len(pl.common) == 0 || pl.waitForDone {
			p.flush()
			return false
		}
		p.linef("ready\n")
		p.delim()
	}
	if len(pl.shallow) > 0 || pl.deepen {
		p.linef("shallow-info\n")
		pl.writeReshallow(p)
		for _, id := range pl.shallow {
			p.linef("shallow %s\n", id)
		}
		p.delim()
	}
	p.linef("packfile\n")
	return true
}

// writeReshallow makes a plain git fetch into a shallow clone accept commits
// without parents. Git rejects refs that need them ("shallow roots are not
// allowed to be updated") unless the fetch changes depth, for which it takes
// any fetch that unshallows something (fetch-pack.c, receive_shallow_info). So
// one of the client's own shallow commits is unshallowed and made shallow
// again, which leaves it as it was. Only dulwich would then miss its parents:
// it reads both lines in any order.
func (pl *plan) writeReshallow(p *packetWriter) {
	if pl.deepen || len(pl.shallow) == 0 || pl.noReshallow {
		return
	}
	mine := make(map[gitpack.OID]bool)
	for _, id := range pl.common {
		mine[id] = true
	}
	for _, id := range pl.shallows {
		if mine[id] {
			p.linef("unshallow %s\n", id)
			p.linef("shallow %s\n", id)
			return
		}
	}
}

// negotiateV0 writes the lines of versions 0 and 1 before the pack, and
// reports whether the pack follows. It does what git's upload-pack.c does in
// get_common_commits for a stateless client, and is ready to send after the first
// commit in common. gitprotocol-pack(5), "Packfile Negotiation".
func (pl *plan) negotiateV0(p *packetWriter) bool {
	if pl.deepen {
		for _, id := range pl.shallow {
			p.linef("shallow %s\n", id)
		}
		p.flush()
	}
	if pl.onlyWants {
		return false
	}
	for i, id := range pl.common {
		switch {
		case pl.multiAck == multiAckDetailed:
			p.linef("ACK %s common\n", id)
		case pl.multiAck == multiAck:
			p.linef("ACK %s continue\n", id)
		case i == 0:
			p.linef("ACK %s\n", id)
		}
	}
	if len(pl.common) == 0 {
		p.linef("NAK\n")
		return pl.done
	}
	last := pl.common[len(pl.common)-1]
	ready := false
	if !pl.done && pl.multiAck == multiAckDetailed {
		p.linef("ACK %s ready\n", last)
		ready = true
	}
	if !pl.done && pl.multiAck != singleAck {
		p.linef("NAK\n")
	}
	if pl.done && pl.multiAck == singleAck {
		return true // its one ACK is above
	}
	if pl.done || pl.noDone && ready {
		p.linef("ACK %s\n", last)
		return true
	}
	return false
}
