package pages

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/francescobianco/packbase/storage"
)

// A sizeChart is the size of a package's releases over time, from the first
// commit to the last, drawn in steps.
type sizeChart struct {
	Points                   string // of an SVG polyline in a view box of 600 by 100
	First, Last, Least, Most storage.TagRef
	Count                    int
}

// minSizes are releases below which a chart says no more than the table, and
// maxSizes are those that can be told apart.
const (
	minSizes = 4
	maxSizes = 300
)

// newSizeChart draws releases in any order; it is nil of few.
func newSizeChart(tags []storage.TagRef) *sizeChart {
	if len(tags) < minSizes {
		return nil
	}
	all := slices.Clone(tags)
	slices.SortFunc(all, func(a, b storage.TagRef) int {
		return cmp.Or(a.CommitTime.Compare(b.CommitTime), cmp.Compare(a.ID, b.ID))
	})
	bySize := func(a, b storage.TagRef) int { return cmp.Compare(a.Size, b.Size) }
	c := &sizeChart{First: all[0], Last: all[len(all)-1], Least: slices.MinFunc(all, bySize), Most: slices.MaxFunc(all, bySize), Count: len(all)}
	span := c.Last.CommitTime.Sub(c.First.CommitTime)
	if span <= 0 || c.Most.Size <= 0 {
		return nil
	}
	var b strings.Builder
	y := 0.0
	for i, ref := range all {
		if i%(1+len(all)/maxSizes) != 0 && i != len(all)-1 {
			continue
		}
		x := 600 * float64(ref.CommitTime.Sub(c.First.CommitTime)) / float64(span)
		if i > 0 {
			fmt.Fprintf(&b, "%.1f,%.1f ", x, y)
		}
		y = 100 - 96*float64(ref.Size)/float64(c.Most.Size)
		fmt.Fprintf(&b, "%.1f,%.1f ", x, y)
	}
	c.Points = strings.TrimSpace(b.String())
	return c
}

// A chart is a row of bars over time. Its units are those of an SVG view box
// that is Width by Height.
type chart struct {
	Unit          string // hour, day, week or month
	Bars          []bar
	Most, Total   int
	Width, Height int
}

// A bar is one unit of time.
type bar struct {
	X, Y, W, H float64
	N          int
	Label      string
}

// chartSpan returns the unit that suits an age, and when its chart begins.
func chartSpan(age time.Duration, now time.Time) (unit string, since time.Time) {
	now = now.UTC()
	today := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, time.UTC)
	switch {
	case age < 36*time.Hour:
		return "hour", now.Truncate(time.Hour).Add(-35 * time.Hour)
	case age < 60*24*time.Hour:
		return "day", today.AddDate(0, 0, -41)
	case age < 2*365*24*time.Hour:
		monday := today.AddDate(0, 0, -(int(today.Weekday())+6)%7)
		return "week", monday.AddDate(0, 0, -7*51)
	}
	return "month", time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC).AddDate(0, -47, 0)
}

// newChart draws counts from since until now. Units without a count are empty.
func newChart(unit string, since, now time.Time, counts []storage.Count) chart {
	c := chart{Unit: unit, Width: 600, Height: 120}
	n := map[time.Time]int{}
	for _, count := range counts {
		n[count.At.UTC()] = count.N
		c.Most = max(c.Most, count.N)
		c.Total += count.N
	}
	var at []time.Time
	for t := since; !t.After(now); t = next(unit, t) {
		at = append(at, t)
	}
	step := float64(c.Width) / float64(len(at))
	for i, t := range at {
		h := 0.0
		if n[t] > 0 {
			h = max(3, float64(n[t])/float64(c.Most)*float64(c.Height))
		}
		c.Bars = append(c.Bars, bar{
			X: float64(i) * step, W: step * 0.72, Y: float64(c.Height) - h, H: h, N: n[t], Label: label(unit, t),
		})
	}
	return c
}

// From and To are what the chart's ends say.
func (c chart) From() string { return c.Bars[0].Label }

// To is what the chart's end says.
func (c chart) To() string { return c.Bars[len(c.Bars)-1].Label }

// Number writes a coordinate.
func (chart) Number(f float64) string { return fmt.Sprintf("%.1f", f) }

func next(unit string, t time.Time) time.Time {
	switch unit {
	case "hour":
		return t.Add(time.Hour)
	case "day":
		return t.AddDate(0, 0, 1)
	case "week":
		return t.AddDate(0, 0, 7)
	}
	return t.AddDate(0, 1, 0)
}

func label(unit string, t time.Time) string {
	switch unit {
	case "hour":
		return t.Format("2 Jan, 15:00")
	case "day":
		return t.Format("2 Jan")
	case "week":
		return t.Format("2 Jan 2006")
	}
	return t.Format("Jan 2006")
}
