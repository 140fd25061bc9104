package archive

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// tarBlocks returns the header of an entry, which edits change before its checksum is made, and its content.
func tarBlocks(kind byte, name, content string, edits ...func(h []byte)) []byte {
	h := make([]byte, tarBlock)
	copy(h, name)
	copy(h[100:], "0000644\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", len(content)))
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	for _, edit := range edits {
		edit(h)
	}
	if h[148] == 0 {
		copy(h[148:], "        ")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	}
	return slices.Concat(h, []byte(content), make([]byte, -len(content)&(tarBlock-1)))
}

// put returns an edit that writes text into a header.
func put(at int, text string) func([]byte) { return func(h []byte) { copy(h[at:], text) } }

func paxName(name string) []byte { return tarBlocks('x', "pax", paxRecord("path", name)) }

func paxRecord(key, value string) string {
	n := len(key) + len(value) + 3
	for len(fmt.Sprint(n))+len(key)+len(value)+3 != n {
		n = len(fmt.Sprint(n)) + len(key) + len(value) + 3
	}
	return fmt.Sprintf("%d %s=%s\n", n, key, value)
}

// tarStreams are streams that readers of tar understand differently, each after the files of "flat".
func tarStreams(t testing.TB) map[string][]byte {
	hidden := string(tarBlocks('0', "src/hidden.zig", "hidden"))
	file := tarBlocks('0', "src/b.zig", "bbb")
	streams := map[string][]byte{
		"no end":                   {},
		"one empty block":          slices.Concat(make([]byte, tarBlock), file),
		"no padding":               file[:tarBlock+3],
		"cut header":               file[:100],
		"cut content":              file[:tarBlock+2],
		"wrong checksum":           tarBlocks('0', "src/b.zig", "bbb", put(148, "0001234\x00")),
		"signed checksum":          tarBlocks('0', "src/\xff", "", put(148, fmt.Sprintf("%06o\x00 ", signedSum(tarBlocks('0', "src/\xff", ""))))),
		"old file":                 tarBlocks(0, "src/b.zig", "bbb"),
		"~file with a slash":       tarBlocks('0', "src/b/", "bbb"),
		"~symlink with a slash":    tarBlocks('2', "src/b/", "", put(157, "a.zig")),
		"~file with dots":          tarBlocks('0', "./src/../src/./b", "bbb"),
		"pax size":                 slices.Concat(tarBlocks('x', "p", paxRecord("size", "600")), tarBlocks('0', "src/b", strings.Repeat("b", 600), put(124, "00000000000\x00"))),
		"pax size of nothing":      slices.Concat(tarBlocks('x', "p", paxRecord("size", "0")), file),
		"pax size, empty":          slices.Concat(tarBlocks('x', "p", paxRecord("size", "")), file),
		"pax size, negative":       slices.Concat(tarBlocks('x', "p", paxRecord("size", "-3")), file),
		"pax size of a folder":     slices.Concat(tarBlocks('x', "p", paxRecord("size", fmt.Sprint(len(hidden)))), tarBlocks('5', "src/d/", ""), []byte(hidden), file),
		"pax size for all":         slices.Concat(tarBlocks('g', "p", paxRecord("size", "600")), file),
		"pax name for all":         slices.Concat(tarBlocks('g', "p", paxRecord("path", "src/c")), file),
		"pax name, empty":          slices.Concat(paxName(""), file),
		"pax name with a zero":     slices.Concat(paxName("src/c\x00d"), file),
		"pax target":               slices.Concat(tarBlocks('x', "p", paxRecord("linkpath", "a.zig")), tarBlocks('2', "src/l", "", put(157, "other"))),
		"pax length too long":      slices.Concat(tarBlocks('x', "p", "99 path=src/c\n"), file),
		"pax length of nothing":    slices.Concat(tarBlocks('x', "p", "0 path=src/c\n"), file),
		"pax longer than its size": slices.Concat(tarBlocks('x', "p", paxRecord("comment", strings.Repeat("c", 507)), put(124, "00000000010\x00")), file),
		"pax without an end":       slices.Concat(tarBlocks('x', "p", "14 path=src/cd"), file),
		"pax without a value":      slices.Concat(tarBlocks('x', "p", "9 pathxyz\n"), file),
		"pax with zeros after":     slices.Concat(tarBlocks('x', "p", paxRecord("path", "src/c")+"\x00\x00"), file),
		"pax, and the end":         paxName("src/c"),
		"pax key":                  slices.Concat(tarBlocks('x', "p", paxRecord(strings.Repeat("k", 128), "v")), file),
		"~longer pax key":          slices.Concat(tarBlocks('x', "p", paxRecord(strings.Repeat("k", 129), "v")), file),
		"sparse by pax":            slices.Concat(tarBlocks('x', "p", paxRecord("GNU.sparse.major", "1")+paxRecord("GNU.sparse.minor", "0")+paxRecord("GNU.sparse.name", "src/s")+paxRecord("GNU.sparse.realsize", "600")), file),
		"sparse, left out":         slices.Concat(tarBlocks('S', "other/s", "", put(482, "\x01")), make([]byte, tarBlock), file),
		"sparse":                   slices.Concat(tarBlocks('S', "src/s", ""), file),
		"name of what is left out": slices.Concat(paxName("other/c"), tarBlocks('1', "src/b", "", put(157, "src/a.zig"))),
		"name of what counts":      slices.Concat(paxName("src/c"), tarBlocks('1', "other/b", "", put(157, "src/a.zig")), file),
		"prefix of what is":        tarBlocks('1', "b", "", put(157, "src/a.zig"), put(345, "src")),
		"long name, no zero":       slices.Concat(tarBlocks('L', "l", "src/c"), file),
		"long name, two zeros":     slices.Concat(tarBlocks('L', "l", "src/c\x00d\x00"), file),
		"long name, empty":         slices.Concat(tarBlocks('L', "l", "\x00"), file),
		"long name, too long":      slices.Concat(tarBlocks('L', "l", strings.Repeat("d/", 2048)+"x\x00"), file),
		"long name, not used":      slices.Concat(tarBlocks('L', "l", strings.Repeat("d/", 2048)+"x\x00"), paxName("src/c"), file),
		"binary size":              tarBlocks('0', "src/b", "bbb", put(124, "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03")),
		"negative size":            tarBlocks('0', "src/b", "", put(124, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfd")),
		"size of spaces":           tarBlocks('0', "src/b", "bbb", put(124, "        3   ")),
		"size after zeros":         tarBlocks('0', "src/b", "bbb", put(124, "\x00\x00\x003\x00\x00\x00\x00\x00\x00\x00\x00")),
		"two sizes":                tarBlocks('0', "src/b", "bbb", put(124, "3 7\x00\x00\x00\x00\x00\x00\x00\x00\x00")),
		"binary mode":              tarBlocks('0', "src/b", "bbb", put(100, "\x80\x00\x00\x00\x00\x00\x01\xa4")),
		"mode of letters":          tarBlocks('0', "src/b", "bbb", put(100, "abcdefgh")),
		"owner of letters":         tarBlocks('0', "src/b", "bbb", put(108, "abcdefgh")),
		"binary time":              tarBlocks('0', "src/b", "bbb", put(136, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")),
	}
	for _, kind := range "25" { // src/d, with an entry as content
		streams[fmt.Sprintf("content of a %c", kind)] = slices.Concat(tarBlocks(byte(kind), "src/d", hidden, put(157, "a.zig")), file)
	}
	for _, kind := range "134678SVXKN" {
		streams[fmt.Sprintf("content of a %c, left out", kind)] = slices.Concat(tarBlocks(byte(kind), "other", hidden), file)
	}
	for i, magic := range []string{"\x00\x00\x00\x00\x00\x00\x00\x00", "ustar  \x00", "ustar 00", "ustar\x00\x00\x00", "USTAR\x0000", "ustarxyz"} {
		streams[fmt.Sprintf("prefix and magic %d", i)] = tarBlocks('0', "b.zig", "bbb", put(257, magic), put(345, "src"))
	}
	said := map[rune][]byte{'x': paxName("src/x"), 'X': tarBlocks('x', "p", paxRecord("mtime", "1")), 'L': tarBlocks('L', "l", "src/l\x00"), 'K': tarBlocks('K', "k", "target\x00"), 'g': tarBlocks('g', "g", paxRecord("comment", "c"))}
	for _, kinds := range []string{"g", "gg", "gx", "gL", "Lg", "xg", "Kg", "Lx", "LX", "xL", "xX", "xx", "LL", "LK", "KL", "Kx"} {
		var b []byte
		for _, kind := range kinds {
			b = append(b, said[kind]...)
		}
		streams["extensions "+kinds] = append(b, file...)
		streams["extensions of a link "+kinds] = append(bytes.Clone(b), tarBlocks('2', "src/b", "", put(157, "a.zig"))...)
	}
	flat := bytes.TrimRight(makeTar(t, packages["flat"]), "\x00")
	flat = append(flat, make([]byte, -len(flat)&(tarBlock-1))...)
	for name, b := range streams {
		if streams[name] = slices.Concat(flat, b); !strings.HasPrefix(name, "no ") && !strings.HasPrefix(name, "cut ") {
			streams[name] = append(streams[name], make([]byte, 2*tarBlock)...)
		}
	}
	streams["~folder"] = append(tarBlocks('5', "x/", ""), make([]byte, 2*tarBlock)...)
	streams["~file"] = append(tarBlocks('0', "x", ""), make([]byte, 2*tarBlock)...)
	streams["~file in a folder of dots"] = slices.Concat(tarBlocks('0', "./x/a", ""), tarBlocks('0', "x/b", ""), make([]byte, 2*tarBlock))
	return streams
}

func signedSum(b []byte) (sum int) {
	for i, c := range b[:tarBlock] {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int(int8(c))
	}
	return sum
}

// A stream has the hash that all Zigs print. Where they differ, "~", the last ones count, and it is not plain.
func TestTarStreams(t *testing.T) {
	t.Parallel()
	eachZig(t, func(t *testing.T, path, version string) {
		streams := tarStreams(t)
		for _, name := range slices.Sorted(maps.Keys(streams)) {
			if name == "no padding" && version == "0.15.2" || name == "~folder" {
				continue // waits without end; only 0.17 makes a package of it, which has no files
			}
			var buf bytes.Buffer
			z := gzip.NewWriter(&buf)
			z.Write(streams[name])
			z.Close()
			compare(t, path, version, name, TarGz, buf.Bytes())
		}
	})
	for name, b := range map[string][]byte{
		"no padding": tarStreams(t)["no padding"],
		"folder":     tarStreams(t)["~folder"],
		"out":        slices.Concat(tarBlocks('0', "../a", ""), make([]byte, 2*tarBlock)),
		"no name":    slices.Concat(tarBlocks('0', ".", ""), make([]byte, 2*tarBlock)),
	} {
		refused(t, name, b, Tar)
	}
}
