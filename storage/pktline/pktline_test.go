package pktline_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/pktline"
)

func TestReadLength(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int{"0000": 0, "0001": 1, "0004": 4, "000a": 10, "000A": 10, "fff0": pktline.MaxSize, "0005xxxx": 5} {
		if n, err := pktline.ReadLength(strings.NewReader(in)); n != want || err != nil {
			t.Errorf("%q: %d, %v, want %d", in, n, err, want)
		}
	}
	for _, in := range []string{"0002", "0003", "fff1", "ffff", "00zz", "+011", " 011", "0x11", "-001"} {
		var bad pktline.LengthError
		if n, err := pktline.ReadLength(strings.NewReader(in)); !errors.As(err, &bad) || string(bad[:]) != in || n != 0 {
			t.Errorf("%q: %d, %v, want that it is no length", in, n, err)
		}
	}
	for in, want := range map[string]error{"": io.EOF, "0": io.ErrUnexpectedEOF, "000": io.ErrUnexpectedEOF} {
		if _, err := pktline.ReadLength(strings.NewReader(in)); err != want {
			t.Errorf("%q: %v, want %v", in, err, want)
		}
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	got := pktline.Lines("command=fetch\n", pktline.Delim, "", strings.Repeat("x", pktline.MaxSize-pktline.HeaderSize), pktline.Flush)
	if want := "0012command=fetch\n" + "0001" + "0004" + "fff0" + strings.Repeat("x", 65516) + "0000"; got != want {
		t.Errorf("got %.60q, want %.60q", got, want)
	}
	if got := string(pktline.Append([]byte("0000"), "NAK\n")); got != "00000008NAK\n" {
		t.Errorf("got %q", got)
	}
}
