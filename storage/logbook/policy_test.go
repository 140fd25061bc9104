package logbook

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"

	"filippo.io/torchwood"
)

// Whoever signs once is counted once.
func TestPolicyWantsKeysOfTheirOwn(t *testing.T) {
	t.Parallel()
	log, err := NewSigner("log")
	if err != nil {
		t.Fatal(err)
	}
	cosigner := func(name string, of Signer) string {
		seed, err := base64.StdEncoding.DecodeString(strings.SplitN(of.Secret, "+", 5)[4])
		if err != nil {
			t.Fatal(err)
		}
		c, err := torchwood.NewCosignatureSigner(name, ed25519.NewKeyFromSeed(seed[1:]))
		if err != nil {
			t.Fatal(err)
		}
		return c.Verifier().String()
	}
	one, err := NewSigner("one")
	two, err2 := NewSigner("two")
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	own, a, b := cosigner("me", log), cosigner("one", one), cosigner("two", two)
	for policy, want := range map[string]string{
		"witness a " + a + "\nwitness b " + b + "\ngroup g all a b\nquorum g\n":     "",
		"witness a " + a + "\n# \n witness me " + own + " # mine\nquorum me\n":      "line 4: the witness me has the key of the log",
		"witness me " + own + "\nwitness a " + a + "\nquorum a\n":                   "line 2: the witness me has the key of the log",
		"witness a " + a + "\nwitness b " + b + "\nwitness c " + a + "\nquorum a\n": "line 4: the witness c has the key of the witness a",
		"witness a " + a + "\nwitness b " + b + "\ngroup g 2 a a b\nquorum g\n":     "line 4: the group g names somebody twice",
		"witness a " + a + "\nquorum b\n":                                           `quorum "b" not defined`,
		"witness a " + strings.Replace(a, "one+", "other+", 1) + "\nquorum a\n":     "line 2: invalid witness",
		"witness a " + a + "\nlog " + log.Public + "\nquorum a\n":                   "line 3: the log has the key of the log",
	} {
		if _, err := ParsePolicy([]byte("log " + log.Public + "\n" + policy)); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: err = %v, want %q", policy, err, want)
		}
	}
	text := "witness a " + a + " https://a.example\nwitness c " + a + " https://b.example\nquorum a\n"
	if _, err := ParseWitnesses([]byte(text)); err == nil || !strings.Contains(err.Error(), "line 2: the witness c has the key of the witness a") {
		t.Errorf("witnesses: %v", err)
	}
}
