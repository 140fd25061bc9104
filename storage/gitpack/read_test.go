package gitpack

import (
	"bytes"
	"testing"
)

func TestReadObject(t *testing.T) {
	t.Parallel()
	s := newSegmented(t)
	for i, id := range s.order {
		o := s.objects[id]
		got, err := s.Set.Read(id, o.Type, o.Size, s.opener)
		if err != nil || int64(len(got)) != o.Size {
			t.Fatalf("object %d: %d bytes, %v; want %d", i, len(got), err, o.Size)
		}
	}
	first := s.objects[s.order[0]]
	if _, err := s.Set.Read(first.OID, Tree, first.Size, s.opener); err == nil {
		t.Error("a blob was read as a tree")
	}
	if _, err := s.Set.Read(first.OID, Blob, first.Size-1, s.opener); err == nil {
		t.Error("an object larger than the limit was read")
	}
	if _, err := s.Set.Read(OID{1}, Blob, 1<<20, s.opener); err == nil {
		t.Error("an object of no segment was read")
	}
	// Other whole bytes in its place.
	other, _ := writeSegment(t, blobs(350, 4000, 7), blobs(350, 4000, 7).order)
	s.segments[0] = append(other, bytes.Repeat([]byte{0}, len(s.segments[0]))...)
	if _, err := s.Set.Read(first.OID, Blob, 1<<20, s.opener); err == nil {
		t.Error("what is not the object was read as the object")
	}
	if s.open != 0 {
		t.Errorf("%d segments are open still", s.open)
	}
}

func TestParseTreeObject(t *testing.T) {
	t.Parallel()
	id := OID{1, 2, 3}
	raw := append([]byte("100644 a\x00"), id[:]...)
	raw = append(append(raw, "40000 b\x00"...), id[:]...)
	files, err := ParseTree(raw)
	if err != nil || len(files) != 2 || files[0] != (File{Path: "a", Mode: ModeFile, OID: id}) || files[1] != (File{Path: "b", Mode: ModeDir, OID: id}) {
		t.Errorf("got %v, %v", files, err)
	}
	if _, err := ParseTree(raw[:len(raw)-1]); err == nil {
		t.Error("a tree that is cut was read")
	}
}
