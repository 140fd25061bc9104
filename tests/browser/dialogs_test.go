package browser_test

import (
	"net/http"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/francescobianco/packbase/tests/harness"
)

// Enter in the token's dialog goes on, and what cannot be undone is asked about.
func TestDialogs(t *testing.T) {
	t.Parallel()
	s, up := harness.Start(t), harness.NewUpstream(t)
	library(up.Repo("agrs"), "agrs", "v0.1.0", "v0.2.0")
	first := s.Fetch(up.URL + "/agrs").JobID
	b := newTab(t, s.URL)
	b.open("/jobs/" + first)
	b.await("#job .trail", "Building tarballs")
	b.await("#job", "Upstream")
	b.shoot("job-trail")
	b.open("/agrs")
	b.click("#sync")
	b.write("#token", "wrong")
	b.do(chromedp.KeyEvent("\r"))
	b.await("#ask-wrong", "not the token")
	b.write("#token", s.Token)
	b.do(chromedp.KeyEvent("\r"))
	b.await("#job", "Nothing was new")

	// Nothing is done before it is said yes to.
	b.open("/agrs")
	b.click("#manage > summary")
	b.write("#new-name", "args")
	b.click("#rename [type=submit]")
	b.do(chromedp.WaitVisible(chromedp.CSS("#sure")))
	b.shoot("sure-rename")
	b.click("#sure [data-cancel]")
	if got := eval[bool](b, `document.querySelector("#sure").open`); got {
		t.Error("Cancel leaves the dialog open")
	}
	if got := s.Info("agrs").Package; got != "agrs" {
		t.Errorf("Cancel renamed the package to %s", got)
	}
	b.click("#rename [type=submit]")
	b.click("#sure-go")
	b.await("h1", "args")

	b.click("#manage > summary")
	b.write("#reason", "a typo")
	eval[bool](b, `document.querySelector("#remove-what").value = "v0.2.0", true`)
	b.click("#remove [type=submit]")
	b.await("#sure-text", "for good")
	b.shoot("sure-remove")
	b.click("#sure-go")
	b.await("h1", "Packages")
	if got := s.Do(http.MethodGet, "/p/args/tag/v0.2.0.tar.gz", "", nil).Status; got != http.StatusGone {
		t.Errorf("the release that was removed is answered %d", got)
	}
	if got := s.Do(http.MethodGet, "/p/args/tag/v0.1.0.tar.gz", "", nil).Status; got != http.StatusOK {
		t.Errorf("the release beside it is answered %d", got)
	}
	b.open("/args")
	b.await("#release h2", "v0.1.0")
}
