package strangejson

import (
	"strings"
	"testing"
)

func TestUnmarshal(t *testing.T) {
	t.Parallel()
	many := func(element string, n int) string { return strings.Repeat(element+",", n) + element }
	type part struct {
		A, B, C, D string
		Parts      []part
	}
	for text, ok := range map[string]bool{
		`{"parts":[` + many("{}", MaxElements-10) + `]}`:                  true,
		`{"parts":[` + many("{}", MaxElements+1) + `]}`:                   false,
		`{"parts":[` + many("0", MaxElements+1) + `]}`:                    false,
		`{"parts":[` + many(`{"parts":[{},{},{}]}`, MaxElements/2) + `]}`: false,
		`{"a":"` + many(`[{\"`, MaxElements+1) + `"}`:                     true, // a string
		`{"a":"","parts":[{` + many(`"b":""`, MaxElements+1) + `}]}`:      true, // one object
		`]]}}` + strings.Repeat("[", 1000):                                false,
		`"` + `\`:                                                         false,
	} {
		var v part
		if err := Unmarshal([]byte(text), &v); (err == nil) != ok {
			t.Errorf("%.30s... of %d bytes: %v, want it read: %t", text, len(text), err, ok)
		}
	}
}
