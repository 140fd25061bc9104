package zigpkg

import "math/bits"

// releases is a set of Zig's minor releases.
type releases uint8

// The releases between which the rules changed.
const (
	zig012 releases = 1 << iota
	zig013
	zig014
	zig015
	zig016
	zig017

	allReleases = 1<<iota - 1
	upTo013     = zig012 | zig013
	upTo014     = upTo013 | zig014
	from014     = allReleases &^ upTo013
	from016     = zig016 | zig017
)

// releaseNames are the names of the bits, lowest first.
var releaseNames = [...]string{"0.12", "0.13", "0.14", "0.15", "0.16", "0.17"}

// names returns the releases of the set, oldest first.
func (r releases) names() []string {
	var names []string
	for i, name := range releaseNames {
		if r&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// String describes a set without gaps: "0.12 to 0.14".
func (r releases) String() string {
	first, last := bits.TrailingZeros8(uint8(r)), bits.Len8(uint8(r))-1
	switch {
	case r == 0:
		return "none"
	case first == last:
		return releaseNames[first]
	}
	return releaseNames[first] + " to " + releaseNames[last]
}
