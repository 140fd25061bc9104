package bench

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"text/tabwriter"

	"github.com/francescobianco/packbase/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m, printTable) }

// table is what a run ends with: each benchmark adds its rows.
var table [][]any

// A goal is what a figure is held to.
type goal struct {
	most  bool // it may be less, else more
	value float64
	unit  string
}

func atLeast(value float64, unit string) goal { return goal{false, value, unit} }
func atMost(value float64, unit string) goal  { return goal{true, value, unit} }

// result adds a row. The detail says what else there is to know.
func result(what string, to goal, figure float64, detail string, args ...any) {
	words, verdict := "at least", "not met"
	if to.most {
		words = "at most"
	}
	if figure == to.value || figure < to.value == to.most {
		verdict = "met"
	}
	table = append(table, []any{what, words + " " + number(to.value), number(figure), to.unit, verdict, fmt.Sprintf(detail, args...)})
}

// number writes three digits, or all that stand before the point.
func number(x float64) string {
	if x >= 1000 {
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	return strconv.FormatFloat(x, 'g', 3, 64)
}

func printTable() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "\nrow\tgoal\tfigure\t\tverdict\t\n")
	for _, row := range table {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", row...)
	}
	_ = w.Flush()
}

// pairs measures both in turns, for the machine may be busy for a while, and returns the median of the ratios of ours to
// theirs, with words for what it is the median of.
func pairs(rounds int, ours, theirs func() float64) (ratio float64, detail string) {
	var xs, ys []float64
	for range rounds {
		xs, ys = append(xs, ours()), append(ys, theirs())
	}
	return ratios(xs, ys)
}

func ratios(xs, ys []float64) (ratio float64, detail string) {
	var all []float64
	for i := range xs {
		all = append(all, xs[i]/ys[i])
	}
	return median(all), fmt.Sprintf("%s to %s, pairs from %s to %s", number(median(slices.Clone(xs))), number(median(slices.Clone(ys))), number(all[0]), number(all[len(all)-1]))
}

func median[T cmp.Ordered](all []T) T {
	slices.Sort(all)
	return all[len(all)/2]
}
