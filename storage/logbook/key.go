package logbook

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// A Signer has the key of a log. The key's name is the log's origin.
type Signer struct {
	Secret string // as note.NewSigner reads it
	Public string // as note.NewVerifier reads it
	signer note.Signer
}

// ValidName reports whether a log may be called so: as what a URL has behind https://, without spaces, plus signs and what
// is not ASCII.
func ValidName(name string) bool {
	odd := func(r rune) bool { return r <= ' ' || r > '~' || r == '+' }
	return name != "" && len(name) <= 255 && !strings.ContainsFunc(name, odd)
}

// NewSigner makes a key for a log of that name.
func NewSigner(name string) (Signer, error) {
	if !ValidName(name) {
		return Signer{}, fmt.Errorf("%q cannot be the name of a log", name)
	}
	secret, _, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return Signer{}, err
	}
	return ParseSigner(secret)
}

// ParseSigner reads the secret of a Signer. Its errors do not quote it.
func ParseSigner(secret string) (Signer, error) {
	secret = strings.TrimSpace(secret)
	signer, err := note.NewSigner(secret)
	if err != nil {
		return Signer{}, errors.New("it is no private key of a log (PRIVATE+KEY+...)")
	}
	fields := strings.SplitN(secret, "+", 5) // the last is a byte for the algorithm, and the seed
	seed, err := base64.StdEncoding.DecodeString(fields[len(fields)-1])
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return Signer{}, errors.New("it is no Ed25519 key of a log")
	}
	public, err := note.NewEd25519VerifierKey(signer.Name(), ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey))
	if err != nil {
		return Signer{}, err
	}
	return Signer{Secret: secret, Public: public, signer: signer}, nil
}

// Name returns the log's origin.
func (k Signer) Name() string { return k.signer.Name() }

// Sign returns a checkpoint of the tree, as c2sp.org/tlog-checkpoint has it. Of one tree it always has the same bytes.
func (k Signer) Sign(tree tlog.Tree) ([]byte, error) {
	text := torchwood.Checkpoint{Origin: k.Name(), Tree: tree}.String()
	return note.Sign(&note.Note{Text: text}, k.signer)
}

// Policy returns what a checkpoint of the log with that public key has to be signed with, as c2sp.org/tlog-policy writes it.
func Policy(public string) []byte { return []byte("log " + public + "\nquorum none\n") }

// OpenCheckpoint returns the tree that a checkpoint is of, if it is signed as the policy wants.
func OpenCheckpoint(signed, policy []byte) (tlog.Tree, error) {
	p, err := torchwood.ParsePolicy(policy)
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("log policy: %w", err)
	}
	c, _, err := torchwood.VerifyCheckpoint(signed, p)
	if err == nil {
		return c.Tree, nil
	}
	if alone := Policy(PolicyKey(policy)); !bytes.Equal(alone, policy) {
		if _, bad := OpenCheckpoint(signed, alone); bad == nil {
			err = errors.New("fewer witnesses cosigned it than the policy wants")
		}
	}
	return tlog.Tree{}, fmt.Errorf("checkpoint: %w", err)
}

// PolicyKey returns the public key of the log that a policy is of, "" if it has none.
func PolicyKey(policy []byte) string {
	for line := range strings.Lines(string(policy)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "log" {
			return fields[1]
		}
	}
	return ""
}
