// Package strangejson reads JSON that somebody else wrote. It hides how much memory a text can come to: encoding/json makes a whole
// element of each [0,0,...], even where it then says that none fits, and 64 MiB of those are more than 10 GiB.
package strangejson

import (
	"encoding/json"
	"fmt"
)

// MaxElements bounds how many elements all arrays of a text have together. A package with 20,000 tags has less than half of that.
const MaxElements = 500_000

// Unmarshal is json.Unmarshal for texts of strangers.
func Unmarshal(text []byte, into any) error {
	if n := commas(text); n > MaxElements {
		return fmt.Errorf("its arrays have more than %d elements", MaxElements)
	}
	return json.Unmarshal(text, into)
}

// commas counts those between elements of arrays.
func commas(text []byte) (n int) {
	var arrays []bool // for each array and object that is open
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		case '[', '{':
			arrays = append(arrays, text[i] == '[')
		case ']', '}':
			arrays = arrays[:max(0, len(arrays)-1)]
		case ',':
			if len(arrays) > 0 && arrays[len(arrays)-1] {
				n++
			}
		}
	}
	return n
}
