package gitpack

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
)

const (
	// Bases up to this size are read whole; of others, each copied range is.
	maxBaseBytes = 16 << 20
	// Git makes no delta whose result is smaller than this part of its base.
	// Without a bound, reading bases costs a hostile pack nothing.
	baseRatio = 32
)

// A deltaReader reads delta instructions, one byte after the other.
type deltaReader struct {
	*bufio.Reader
	left int64  // bytes that the header of the entry promises
	base []byte // reused
}

func (d *deltaReader) byte() (byte, error) {
	if d.left--; d.left < 0 {
		return 0, errors.New("delta ends in the middle of an instruction")
	}
	return d.ReadByte()
}

// size reads one of the two sizes at the start of a delta.
func (d *deltaReader) size() (n int64, err error) {
	for shift := 0; ; shift += 7 {
		b, err := d.byte()
		if err != nil {
			return 0, err
		}
		if shift > 49 {
			return 0, errors.New("delta size does not fit 56 bits")
		}
		n |= int64(b&0x7f) << shift
		if b&0x80 == 0 {
			return n, nil
		}
	}
}

// copyRange reads the offset and length of the copy instruction op.
func (d *deltaReader) copyRange(op byte) (off, n int64, err error) {
	for bit := range 7 {
		if op>>bit&1 == 0 {
			continue
		}
		b, err := d.byte()
		if err != nil {
			return 0, 0, err
		}
		if bit < 4 {
			off |= int64(b) << (8 * bit)
		} else {
			n |= int64(b) << (8 * (bit - 4))
		}
	}
	if n == 0 {
		n = 1 << 16
	}
	return off, n, nil
}

// applyDelta stores entry i: the object that the size bytes of instructions in
// x.inflater make from the entry base. gitformat-pack(5), "Deltified representation".
func (x *unpacker) applyDelta(ctx context.Context, i int, base uint32, size int64) error {
	from := &x.entries[base]
	depth := int(from.depth) + 1
	if depth > min(x.lim.DeltaDepth, math.MaxUint16) {
		return errorf(codeDeltaTooDeep, "pack has a chain of more than %d deltas", x.lim.DeltaDepth)
	}
	d := &x.deltas
	if d.Reader == nil {
		d.Reader = bufio.NewReaderSize(nil, 16<<10)
	}
	d.Reset(x.inflater)
	d.left = size
	baseSize, err := d.size()
	if err != nil {
		return err
	}
	if baseSize != from.size {
		return fmt.Errorf("delta is for a base of %d bytes, its base has %d", baseSize, from.size)
	}
	resultSize, err := d.size()
	if err != nil {
		return err
	}
	if err := x.charge(resultSize); err != nil {
		return err
	}
	// The base may be in the buffer still.
	if from.off+from.size > x.flushed {
		if err := x.flush(); err != nil {
			return err
		}
	}
	copyBase, err := x.baseCopier(base, resultSize)
	if err != nil {
		return err
	}
	e := entry{typ: from.typ, depth: uint16(depth), size: resultSize}
	return x.store(i, e, func() error {
		if err := x.runDelta(ctx, resultSize, baseSize, copyBase); err != nil {
			return err
		}
		return atEnd(d, size)
	})
}

// baseCopier returns a function that copies a range of the entry base to x.out.
func (x *unpacker) baseCopier(base uint32, resultSize int64) (func(off, n int64) error, error) {
	from := &x.entries[base]
	if from.size > min(maxBaseBytes, baseRatio*(resultSize+1)) {
		return func(off, n int64) error {
			_, err := io.CopyN(x.out, io.NewSectionReader(x.spool, from.off+off, n), n)
			x.ioErr = cmp.Or(x.ioErr, err)
			return err
		}, nil
	}
	d := &x.deltas
	if int64(cap(d.base)) < from.size {
		d.base = make([]byte, from.size)
	}
	d.base = d.base[:from.size]
	if _, err := x.spool.ReadAt(d.base, from.off); err != nil {
		x.ioErr = err
		return nil, err
	}
	return func(off, n int64) error {
		_, err := x.out.Write(d.base[off : off+n])
		return err
	}, nil
}

// runDelta executes the instructions of x.deltas.
func (x *unpacker) runDelta(ctx context.Context, resultSize, baseSize int64, copyBase func(off, n int64) error) error {
	d := &x.deltas
	left := resultSize
	for steps := 0; d.left > 0; steps++ {
		if steps%4096 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		op, err := d.byte()
		if err != nil {
			return err
		}
		var n int64
		switch {
		case op == 0:
			return errors.New("delta has the reserved instruction 0")
		case op < 0x80:
			n = int64(op)
			if d.left -= n; d.left < 0 {
				return errors.New("delta ends in the middle of an instruction")
			}
			if n <= left {
				_, err = io.CopyN(x.out, d, n)
			}
		default:
			var off int64
			off, n, err = d.copyRange(op)
			if err == nil && off+n > baseSize {
				return fmt.Errorf("delta copies up to byte %d of a base of %d", off+n, baseSize)
			}
			if err == nil && n <= left {
				err = copyBase(off, n)
			}
		}
		if err != nil {
			return err
		}
		if left -= n; left < 0 {
			break
		}
	}
	if left != 0 {
		return fmt.Errorf("delta makes %d bytes, not the %d that it says", resultSize-left, resultSize)
	}
	return nil
}
