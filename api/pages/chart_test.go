package pages

import (
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage"
)

func TestSizeChart(t *testing.T) {
	t.Parallel()
	var tags []storage.TagRef
	for i, size := range []int64{400, 100, 300, 200} { // the newest first
		tags = append(tags, storage.TagRef{ID: int64(4 - i), Tag: string(rune('a' + i)), Size: size, CommitTime: time.Unix(int64(1000-100*i), 0)})
	}
	c := newSizeChart(tags)
	if want := "0.0,52.0 200.0,52.0 200.0,28.0 400.0,28.0 400.0,76.0 600.0,76.0 600.0,4.0"; c.Points != want {
		t.Errorf("points are %q, want %q", c.Points, want)
	}
	if c.First.Tag != "d" || c.Last.Tag != "a" || c.Least.Tag != "b" || c.Most.Tag != "a" {
		t.Errorf("first %s, last %s, least %s, most %s", c.First.Tag, c.Last.Tag, c.Least.Tag, c.Most.Tag)
	}
	if c := newSizeChart(tags[1:]); c != nil {
		t.Errorf("three releases have the chart %q", c.Points)
	}
	for i := range tags {
		tags[i].CommitTime = time.Unix(0, 0)
	}
	if c := newSizeChart(tags); c != nil {
		t.Errorf("releases of one moment have the chart %q", c.Points)
	}
	var many []storage.TagRef
	for i := range 20_000 {
		many = append(many, storage.TagRef{ID: int64(i), Size: 1, CommitTime: time.Unix(int64(i), 0)})
	}
	if n := strings.Count(newSizeChart(many).Points, " "); n > 2*maxSizes+2 {
		t.Errorf("a chart of 20,000 releases has %d points", n)
	}
}
