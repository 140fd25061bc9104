package pages

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// number writes n with thin spaces between groups of three digits.
func number[N int | int64](n N) string {
	s := strconv.FormatInt(int64(n), 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// counted writes n with the word for one or for many.
func counted[N int | int64](n N, one, many string) string {
	if n == 1 {
		return "1\u00a0" + one
	}
	return number(n) + "\u00a0" + many
}

// size writes bytes with the units of all of packbase: KiB, MiB, GiB.
func size(n int64) string {
	return strings.ReplaceAll(humanize.IBytes(uint64(max(n, 0))), " ", "\u00a0")
}

// span writes a length of time with one unit, as people say it.
func span(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d\u00a0ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f\u00a0s", d.Seconds())
	case d < 100*time.Second:
		return fmt.Sprintf("%.0f\u00a0s", d.Seconds())
	case d < 100*time.Minute:
		return fmt.Sprintf("%.0f\u00a0min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f\u00a0h", d.Hours())
	}
	return fmt.Sprintf("%.0f\u00a0days", d.Hours()/24)
}

// ago writes how long ago t was, or how soon it will be. packbase.js does the
// same, to keep what it says true.
func ago(t, now time.Time) string {
	d := now.Sub(t)
	future := d < -time.Second
	n, unit := 0.0, ""
	switch abs := d.Abs(); {
	case abs < 45*time.Second && future:
		return "in a moment"
	case abs < 45*time.Second:
		return "just now"
	case abs < 45*time.Minute:
		n, unit = abs.Minutes(), "minute"
	case abs < 22*time.Hour:
		n, unit = abs.Hours(), "hour"
	case abs < 60*24*time.Hour:
		n, unit = abs.Hours()/24, "day"
	case abs < 700*24*time.Hour:
		n, unit = abs.Hours()/24/30.4, "month"
	default:
		n, unit = abs.Hours()/24/365.25, "year"
	}
	whole := int(max(math.Round(n), 1))
	text := fmt.Sprintf("%d %s", whole, unit)
	if whole != 1 {
		text += "s"
	}
	if future {
		return "in " + text
	}
	return text + " ago"
}

// timeLeft guesses how long the rest takes if it goes on as it went.
func timeLeft(done, total int64, since, now time.Time) string {
	took := now.Sub(since)
	if done <= 0 || total <= done || took < 2*time.Second {
		return ""
	}
	left := time.Duration(float64(took) * float64(total-done) / float64(done))
	if left < 5*time.Second {
		return "a few seconds left"
	}
	return "about " + span(left.Round(time.Second)) + " left"
}

// sentence makes one of a message: errors are written without capital and
// full stop, as they may be part of a larger one. A URL or a file that it
// begins with stays as it is.
func sentence(message string) string {
	if message == "" {
		return ""
	}
	first, _, _ := strings.Cut(message, " ")
	if c := message[0]; c >= 'a' && c <= 'z' && !strings.ContainsAny(first, "./:") {
		message = string(c-'a'+'A') + message[1:]
	}
	if last := strings.TrimRight(message, `)"'”`); strings.HasSuffix(last, "…") || last != "" && strings.ContainsAny(last[len(last)-1:], ".!?") {
		return message
	}
	return message + "."
}

func short(oid string) string { return oid[:min(len(oid), 12)] }

// shellWord quotes s for a POSIX shell, if it needs that. Tags may hold
// characters that a shell would act upon.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+=,#", r)
	}
	if s != "" && s[0] != '#' && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
