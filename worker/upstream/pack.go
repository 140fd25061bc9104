package upstream

import (
	"bufio"
	"fmt"
	"io"

	"github.com/francescobianco/packbase/storage/pktline"
)

// Channels of a multiplexed pack. gitprotocol-pack(5), "Packfile Data".
const (
	bandPack     = 1
	bandProgress = 2
	bandError    = 3
)

// copyPack writes the pack that r multiplexes to w. It is ours because
// go-git's takes an answer that is cut between two packets for complete.
// Progress texts are dropped.
func (s *Session) copyPack(r io.Reader, w io.Writer, progress func(bytes int64)) error {
	limit := s.limits.PackBytes
	tooLarge := &Error{Code: CodePackTooLarge, Message: fmt.Sprintf("the pack of upstream has more than %d bytes", limit)}
	// The rest is for packet heads and for progress that was not asked for.
	s.guard.body.left, s.guard.body.over = limit+limit/8+16<<20, tooLarge

	src := bufio.NewReaderSize(r, pktline.MaxSize)
	var written int64
	for {
		band, payload, err := bandPacket(src)
		if err != nil {
			return err
		}
		switch band {
		case 0: // flush
			drain(src)
			return nil
		case bandPack:
			if written += int64(len(payload)); written > limit {
				return tooLarge
			}
			if _, err := w.Write(payload); err != nil {
				return fmt.Errorf("write pack: %w", err)
			}
			if len(payload) > 0 { // else a keepalive
				s.guard.body.begun(s.limits.minBytes())
				if progress != nil {
					progress(written)
				}
			}
		case bandProgress:
		case bandError:
			return s.guard.refused(string(payload))
		default:
			return noChannel()
		}
	}
}

// bandPacket returns the channel and the payload of the next packet, valid
// until the next call, or channel 0 for a flush.
func bandPacket(src *bufio.Reader) (band byte, payload []byte, err error) {
	n, err := packetLength(src)
	switch {
	case n == 0 || err != nil:
		return 0, nil, err
	case n == pktline.HeaderSize:
		return 0, nil, notGit("a packet of the pack is empty")
	}
	// A packet fits the buffer, so it can be used where it lies.
	packet, err := src.Peek(n - pktline.HeaderSize)
	if err != nil {
		return 0, nil, cut(err)
	}
	src.Discard(n - pktline.HeaderSize) // cannot fail
	if packet[0] == 0 {                 // it would pass for a flush
		return 0, nil, noChannel()
	}
	return packet[0], packet[1:], nil
}

func noChannel() *Error { return notGit("a packet of the pack has no channel") }
