package zigpkg

import (
	"errors"
	"strconv"
	"strings"
)

// The two errors of std.SemanticVersion.parse, under Zig's names.
var (
	errInvalidVersion = errors.New("InvalidVersion")
	errOverflow       = errors.New("Overflow")
)

// parseVersion checks a semantic version and returns it as Zig prints it.
// Source: std.SemanticVersion.
func parseVersion(s string) (string, error) {
	required, extra := s, ""
	if i := strings.IndexAny(s, "-+"); i >= 0 {
		required, extra = s[:i], s[i:]
	}
	numbers := strings.SplitN(required, ".", 4)
	if len(numbers) != 3 {
		return "", errInvalidVersion
	}
	for i, n := range numbers {
		v, err := parseNumber(n)
		if err != nil {
			return "", err
		}
		numbers[i] = strconv.FormatUint(v, 10)
	}

	pre, build, hasBuild := strings.Cut(extra, "+")
	if pre, ok := strings.CutPrefix(pre, "-"); ok {
		for id := range strings.SplitSeq(pre, ".") {
			if err := checkIdentifier(id); err != nil {
				return "", err
			}
			if strings.Trim(id, "0123456789") != "" {
				continue
			}
			if _, err := parseNumber(id); err != nil {
				return "", err
			}
		}
	}
	if hasBuild {
		for id := range strings.SplitSeq(build, ".") {
			if err := checkIdentifier(id); err != nil {
				return "", err
			}
		}
	}
	return strings.Join(numbers, ".") + extra, nil
}

// parseNumber is Zig's parseUnsigned, which passes over "_" between digits.
func parseNumber(s string) (uint64, error) {
	if s == "" || len(s) > 1 && s[0] == '0' || s[0] == '_' || s[len(s)-1] == '_' {
		return 0, errInvalidVersion
	}
	v, err := strconv.ParseUint(strings.ReplaceAll(s, "_", ""), 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, errOverflow
	case err != nil:
		return 0, errInvalidVersion
	}
	return v, nil
}

func checkIdentifier(id string) error {
	for i := range len(id) {
		if c := id[i]; !isWordByte(c) && c != '-' || c == '_' {
			return errInvalidVersion
		}
	}
	if id == "" {
		return errInvalidVersion
	}
	return nil
}
