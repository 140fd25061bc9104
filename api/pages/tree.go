package pages

import (
	"cmp"
	"net/http"
	"net/url"
	"strings"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/tree"
)

// What a page shows of a tree at most. Strangers make trees as large as they
// like, by the manifests of what is captured.
const (
	treesEach  = 50
	treeLines  = 500 // packages are drawn again below each that names them
	treeHoles  = 100
	treeURLs   = 4 // of one package
	treeTries  = 6 // of one hole
	treeLetter = 400
)

// A treeList is the page /trees.
type treeList struct {
	frame
	Trees []treeView
	Next  string // the path of the next page
}

func (*treeList) template() string { return "trees" }

// getTreeList serves GET /trees?after= to browsers.
func (s *Site) getTreeList(w http.ResponseWriter, r *http.Request) error {
	frame, err := s.frame(r, "Trees", "trees")
	if err != nil {
		return err
	}
	all, err := s.opt.Trees(r.Context(), r.URL.Query().Get("after"), treesEach)
	if err != nil {
		return err
	}
	page := &treeList{frame: frame, Trees: make([]treeView, len(all))}
	for i, t := range all {
		page.Trees[i] = treeView{wire.Tree(t)}
	}
	if len(all) == treesEach {
		page.Next = "/trees?" + url.Values{"after": {all[treesEach-1].Name}}.Encode()
	}
	return s.renderer.render(w, http.StatusOK, page)
}

// A treeView is a tree in words.
type treeView struct{ wire.Tree }

// Survival says whether the tree would build today from its upstreams alone, "" if
// they were not all asked yet.
func (t treeView) Survival() condition {
	switch {
	case t.Lost > 0:
		return condition{"warn", "needs packbase", "Without packbase it would not build today: upstream has no more, or has other files of, " + counted(t.Lost, "package", "packages") + "."}
	case t.CheckedAt != nil && t.Untold > 0:
		return condition{"warn", "", "Upstream did not say whether it still has " + counted(t.Untold, "package", "packages") + "; of all others it has what is pinned, as far as that is told without a download."}
	case t.CheckedAt != nil:
		return condition{"ok", "", "Upstream still has all of it, as far as that is told without a download."}
	}
	return condition{}
}

// Path is where the tree's page is.
func (t treeView) Path() string { return treePath(t.Name) }

func treePath(name string) string { return "/trees/" + name }

// State is how the tree is.
func (t treeView) State() condition {
	switch t.Tree.State {
	case tree.Open:
		return condition{"busy", "capturing", "What it needs is being brought; this page shows it as it comes."}
	case tree.Holes:
		return condition{"bad", number(t.Missing) + " missing", "A build that needs what is missing has to ask upstream for it."}
	}
	return condition{"ok", "whole", "All that it needs is here: it builds without upstream."}
}

// A treePage is the page /trees/<name>.
type treePage struct {
	frame
	Tree     treeView
	Holes    []*treeNode
	Waiting  int
	Roots    []string
	Drawn    []*treeNode // below the roots
	Problems []wire.TreeProblem
	More     struct{ Holes, Lines, Problems int } // that are not on the page
}

func (*treePage) template() string { return "tree" }

// getTreePage serves GET /trees/{name} to browsers.
func (s *Site) getTreePage(w http.ResponseWriter, r *http.Request) error {
	frame, err := s.frame(r, "", "tree")
	if err != nil {
		return err
	}
	return s.renderLarge(w, r, func() (view, error) {
		info, err := s.opt.Tree(r)
		if err != nil {
			return nil, err
		}
		return newTreePage(frame, &info), nil
	})
}

func newTreePage(f frame, info *wire.TreeInfo) *treePage {
	f.Title = info.Name
	p := &treePage{frame: f, Tree: treeView{info.Tree}, Roots: info.Roots, Problems: info.Problems}
	d := treeDrawing{nodes: map[string]*wire.TreeNode{}, below: info.Below(), drawn: map[string]bool{}, left: treeLines}
	for i := range info.Packages {
		n := &info.Packages[i]
		d.nodes[n.Hash] = n
		switch n.State {
		case tree.Hole:
			p.Holes = append(p.Holes, &treeNode{TreeNode: n, parents: d.nodes})
		case tree.Waiting:
			p.Waiting++
		}
	}
	p.Drawn = d.draw("")
	p.More.Lines = len(d.nodes) - len(d.drawn)
	p.More.Holes, p.Holes = cut(p.Holes, treeHoles)
	p.More.Problems, p.Problems = cut(p.Problems, treeHoles)
	p.Roots = p.Roots[:min(len(p.Roots), treeURLs)]
	return p
}

// Warm is the command that fills Zig's cache.
func (p *treePage) Warm() string { return "packbase warm --url " + shellWord(p.Base) }

// Bundle is the command that downloads the tree as one file.
func (p *treePage) Bundle() string {
	partial := ""
	if p.Tree.Missing > 0 {
		partial = "?partial=1"
	}
	return "curl -fLo " + shellWord(p.Tree.Name+".tar") + " " + shellWord(p.Base+route.Path(route.TreeBundle, p.Tree.Name)+partial)
}

// FromBundle is the command that uses it.
func (p *treePage) FromBundle() string {
	return "packbase warm --from " + shellWord(p.Tree.Name+".tar")
}

// SBOM is the command that downloads the bill of materials.
func (p *treePage) SBOM() string {
	return "curl -fLo " + shellWord(p.Tree.Name+".cdx.json") + " " + shellWord(p.Base+p.SBOMPath())
}

// SBOMPath is where that is.
func (p *treePage) SBOMPath() string { return route.Path(route.TreeSBOM, p.Tree.Name) }

// Retry is the path that has holes tried again.
func (p *treePage) Retry() string { return route.Path(route.TreeRetry, p.Tree.Name) }

// JSON is all of the tree for programs.
func (p *treePage) JSON() string { return route.Path(route.Tree, p.Tree.Name) }

// treeDrawing draws each package below the first that names it, and in one
// line where others do.
type treeDrawing struct {
	nodes map[string]*wire.TreeNode
	below map[string][]*wire.TreeNode // by the parent's hash
	drawn map[string]bool
	left  int // lines
}

func (d *treeDrawing) draw(parent string) (drawn []*treeNode) {
	for _, n := range d.below[parent] {
		if d.left == 0 {
			return drawn
		}
		d.left--
		line := &treeNode{TreeNode: n, parents: d.nodes, Again: d.drawn[n.Hash]}
		drawn = append(drawn, line)
		if !line.Again {
			d.drawn[n.Hash] = true
			line.Below = d.draw(n.Hash)
		}
	}
	return drawn
}

// A treeNode is a package of a tree in words.
type treeNode struct {
	*wire.TreeNode
	Again   bool // it is told of further up
	Below   []*treeNode
	parents map[string]*wire.TreeNode // all nodes, by hash
}

// Title is what people know the package by.
func (n *treeNode) Title() string { return nodeTitle(n.TreeNode) }

func nodeTitle(n *wire.TreeNode) string {
	if title := n.Title(); len(n.URLs) == 0 || title != n.URLs[0] {
		return title
	}
	return shortURL(n.URLs[0])
}

// shortURL is a URL as far as it tells what is there.
func shortURL(u string) string {
	_, rest, _ := strings.Cut(u, "://")
	return answer.Cut(cmp.Or(rest, u), 100)
}

// Version is that of its manifest, "" if there is none.
func (n *treeNode) Version() string {
	if n.Source == nil {
		return ""
	}
	return n.Source.Version
}

// Links are the first of the declared URLs.
func (n *treeNode) Links() []link {
	links := make([]link, 0, treeURLs)
	for _, u := range n.URLs[:min(len(n.URLs), treeURLs)] {
		links = append(links, newLink(u))
	}
	return links
}

// MoreLinks is how many others there are.
func (n *treeNode) MoreLinks() int { return max(0, len(n.URLs)-treeURLs) }

// A link is a URL that a manifest names.
type link struct{ Text, Href string } // Href is "" if a browser cannot go there

func newLink(u string) link {
	l := link{Text: answer.Cut(u, treeLetter)}
	if d, err := name.ParseDependency(u); err == nil {
		l.Href = strings.TrimPrefix(d.URL, "git+")
	}
	return l
}

// Stored says what is stored for it, and where that is looked at.
func (n *treeNode) Stored() link {
	src := n.Source
	if src == nil {
		return link{}
	}
	return sourceLink(src.Kind, src.Package, src.Tag, src.Commit, src.URL)
}

func sourceLink(kind, pkg, tag, commit, archive string) link {
	switch {
	case kind == "archive":
		return link{Text: "archive", Href: route.Archives + "?" + url.Values{"url": {archive}}.Encode()}
	case tag != "":
		return link{Text: pkg + " " + tag, Href: "/" + pkg + "?" + url.Values{"tag": {tag}}.Encode()}
	}
	return link{Text: pkg + " " + short(commit), Href: "/" + pkg + "?commit=" + commit}
}

// Tarball is where its files are.
func (n *treeNode) Tarball() string { return route.Path(route.Zig, n.Hash+route.TarballSuffix) }

// Condition is how the package is; the word is "" if nothing is to be said.
func (n *treeNode) Condition() condition {
	switch n.TreeNode.State {
	case tree.Hole:
		return condition{Level: "bad", Word: "missing"}
	case tree.Waiting:
		return condition{Level: "busy", Word: "waiting"}
	}
	return condition{}
}

// Upstream is what upstream had when it was last asked.
func (n *treeNode) Upstream() condition {
	switch n.UpstreamState {
	case tree.Same:
		return condition{"ok", "upstream", ""}
	case tree.Moved:
		return condition{"warn", "changed upstream", ""}
	case tree.Gone:
		return condition{"bad", "gone upstream", ""}
	case tree.Away:
		return condition{"idle", "upstream away", ""}
	}
	return condition{}
}

// NamedBy says which packages depend on it.
func (n *treeNode) NamedBy() string {
	const most = 3
	var by []string
	for _, hash := range n.Parents[:min(len(n.Parents), most)] {
		parent, ok := n.parents[hash]
		switch {
		case hash == "":
			by = append(by, "the project")
		case ok:
			by = append(by, nodeTitle(parent))
		}
	}
	text := strings.Join(by, ", ")
	if more := len(n.Parents) - most; more > 0 {
		text += " and " + counted(more, "other", "others")
	}
	return text
}

// Tries are the ways in which it could not be had, one sentence each.
func (n *treeNode) Tries() []string {
	var all []string
	for _, t := range n.Tried[:min(len(n.Tried), treeTries)] {
		if t.Message != "" && !strings.Contains(n.Reason, t.Message) {
			all = append(all, shortURL(t.URL)+": "+answer.Cut(t.Message, treeLetter))
		}
	}
	return all
}

// Why is the reason of a hole.
func (n *treeNode) Why() string { return answer.Cut(n.Reason, 2*treeLetter) }

// Advice is what can be done about a hole.
func (n *treeNode) Advice() string {
	switch n.Code {
	case "hash_mismatch":
		return "What is at the URL today is not what the manifest pins. Somebody who still has the files can send them with `packbase bundle`; else the manifest has to pin what is there now."
	case "upstream_not_found", "no_such_ref", "upstream_no_such_commit":
		return "Upstream does not have it any more. Another packbase may: name it in PACKBASE_FALLBACKS, and try again."
	case "removed":
		return "It was removed here for good, and is not brought again."
	}
	return cmp.Or(fault.Advice(n.Code), "Mend the cause, and have it tried again.")
}
