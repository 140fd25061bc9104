// Package browser_test looks at the pages as people do: in a real browser.
//
// PACKBASE_SCREENSHOTS names a folder for pictures of each state, wide and
// narrow, light and dark; without it none are taken. Without a Chromium the tests are skipped, or fail if
// CI is set.
package browser_test

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/francescobianco/packbase/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// A tab is one page of a browser.
type tab struct {
	t    *testing.T
	ctx  context.Context
	base string // what paths are below
	dir  string // of the pictures; "" for none
}

// newTab opens a page in a browser of its own. What the page logs as an error
// fails the test.
func newTab(t *testing.T, base string, more ...chromedp.ExecAllocatorOption) *tab {
	t.Helper()
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium(t)), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()), chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.WindowSize(1280, 900))
	opts = append(opts, more...)
	ctx, cancel := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &tab{t: t, ctx: ctx, base: base, dir: os.Getenv("PACKBASE_SCREENSHOTS")}
	if b.dir != "" {
		if err := os.MkdirAll(b.dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The browser lives as long as the context that starts it.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	b.do(b.wantTidy("wide-light"))
	messages := chromedp.Console(ctx)
	go func() {
		for m, err := range messages {
			if err != nil {
				return // the tab is closed
			}
			if m.IsException() || m.Source == "security" || strings.Contains(m.Text, "Content Security Policy") {
				t.Errorf("the page logged: %s", m)
			}
		}
	}()
	return b
}

func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "google-chrome", "chromium-browser"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("there is no Chromium; run make test")
	}
	t.Skip("there is no Chromium; `apt install chromium` brings one")
	return ""
}

// do runs actions, which must end within a minute.
func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// open goes to a path.
func (b *tab) open(path string) {
	b.t.Helper()
	b.do(chromedp.Navigate(b.base + path))
}

func (b *tab) click(selector string) {
	b.t.Helper()
	b.do(chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// write replaces what a field holds by what is typed.
func (b *tab) write(selector, text string) {
	b.t.Helper()
	b.do(chromedp.WaitVisible(chromedp.CSS(selector)))
	eval[bool](b, fmt.Sprintf(`document.querySelector(%q).select(), true`, selector))
	b.do(chromedp.SendKeys(chromedp.CSS(selector), text))
}

// eval returns what an expression is.
func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	v, err := tryEval[T](b, expression)
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

func tryEval[T any](b *tab, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// text returns what people read of an element, "" if it is not there.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return eval[string](b, innerText(selector))
}

func innerText(selector string) string {
	return fmt.Sprintf(`document.querySelector(%q)?.innerText ?? ""`, selector)
}

// await waits until an element says want, without a reload.
func (b *tab) await(selector, want string) {
	b.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		got, err := tryEval[string](b, innerText(selector)) // fails while another page comes
		if err == nil && strings.Contains(strings.ReplaceAll(got, "\u00a0", " "), want) {
			return
		}
		if time.Now().After(deadline) {
			b.shoot("gave-up")
			b.t.Fatalf("%s says %q (%v), want %q in it", selector, got, err, want)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// wantTidy makes the page wide or narrow and light or dark: "wide-light".
func (b *tab) wantTidy(kind string) chromedp.Action[chromedp.Void] {
	width, scheme := int64(1280), "light"
	if strings.HasPrefix(kind, "narrow") {
		width = 390
	}
	if strings.HasSuffix(kind, "dark") {
		scheme = "dark"
	}
	return looks(width, scheme)
}

// looks makes the page so wide, and light or dark.
func looks(width int64, scheme string) chromedp.Action[chromedp.Void] {
	return chromedp.Steps(chromedp.EmulateViewport(width, 860), chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
		return err
	}))
}

//go:embed audit.js
var audit string

// shoot holds the page as it is to what people with other eyes and hands than
// ours need, and takes pictures of it.
func (b *tab) shoot(name string) {
	b.t.Helper()
	for _, kind := range []string{"wide-dark", "narrow-dark", "narrow-light", "wide-light"} {
		b.do(b.wantTidy(kind))
		for _, problem := range eval[[]string](b, audit) {
			b.t.Errorf("%s, %s: %s", name, kind, problem)
		}
		if b.dir != "" {
			b.picture(name + "-" + kind + ".png")
		}
	}
}

func (b *tab) picture(file string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatalf("%s: %v", file, err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, file), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// withoutScripts keeps pages that are opened from now on from running scripts.
func (b *tab) withoutScripts() {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		return err
	}))
}

// mayCopy lets the page write to the clipboard, and the test read it.
func (b *tab) mayCopy() {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		for _, name := range []string{"clipboard-read", "clipboard-write"} {
			_, err := chromedp.CallBrowser(ctx, cdpbrowser.SetPermission, cdpbrowser.SetPermissionParams{
				Permission: &cdpbrowser.PermissionDescriptor{Name: name}, Setting: cdpbrowser.PermissionSettingGranted})
			if err != nil {
				return err
			}
		}
		return nil
	}))
}
