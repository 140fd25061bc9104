package directory

import (
	"cmp"
	"slices"
	"strings"

	"github.com/francescobianco/packbase/storage/name"
)

// Near returns the packages whose names are most like pkg, the nearest first.
func (v *View) Near(pkg string, most int) []*Listing {
	pkg = strings.ToLower(pkg)
	if pkg == "" || len(pkg) > name.MaxPackageName {
		return nil
	}
	type candidate struct {
		*Listing
		far int
	}
	var found []candidate
	limit := min(1+len(pkg)/4, 4) // typing errors; more would be another name, and cost more
	for _, p := range v.Packages {
		other, _, _ := strings.Cut(p.folded, "\x00")
		far := distance(pkg, other, limit)
		if len(pkg) > 2 && (strings.Contains(other, pkg) || strings.Contains(pkg, other) && len(other) > 2) {
			far = min(far, 2)
		}
		if far <= limit {
			found = append(found, candidate{p, far})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.far, b.far), a.byCount(b.Listing))
	})
	var names []*Listing
	for _, c := range found[:min(most, len(found))] {
		names = append(names, c.Listing)
	}
	return names
}

// distance is how many letters to insert, drop or replace to get from a to b,
// or limit+1 if it is more than limit. Names have at most MaxPackageName bytes.
//
// Only cells within limit of the diagonal can lead to such an end.
func distance(a, b string, limit int) int {
	if max(len(a)-len(b), len(b)-len(a)) > limit {
		return limit + 1
	}
	var cells [name.MaxPackageName + 1]int
	row := cells[:len(b)+1]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		from, to := max(0, i-limit), min(len(b), i+limit+1)
		corner, least := row[from], limit+1
		row[from] = limit + 1
		if from == 0 {
			row[0] = i + 1
		}
		for j := from; j < to; j++ {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
			least = min(least, row[j+1])
		}
		if min(least, row[from]) > limit {
			return limit + 1
		}
	}
	return min(row[len(b)], limit+1)
}
