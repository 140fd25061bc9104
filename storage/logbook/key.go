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

// A Signer has the key of a log, whose name is the log's origin. While it takes the place of older ones, these sign, too.
type Signer struct {
	Secret string   // as note.NewSigner reads it; each older one on a line before
	Public string   // as note.NewVerifier reads it
	Older  []string // public keys, the oldest first

	signers []note.Signer // its own is the first
}

// ValidName reports whether a log may be called so: as what a URL has behind https://, without spaces, plus signs, what is
// not ASCII, and the sign that begins a comment in a policy.
func ValidName(name string) bool {
	odd := func(r rune) bool { return r <= ' ' || r > '~' || r == '+' || r == '#' }
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
	var k Signer
	for line := range strings.Lines(strings.TrimSpace(secret) + "\n") {
		one, err := parseSecret(line)
		switch {
		case err != nil:
			return Signer{}, err
		case k.Public == "":
			k = one
			continue
		case one.Name() != k.Name():
			return Signer{}, errors.New("its keys are of logs of several names")
		}
		k = Signer{k.Secret + "\n" + one.Secret, one.Public, append(k.Older, k.Public), append(one.signers, k.signers...)}
	}
	return k, nil
}

// Next returns a Signer with a new key, along with which all others sign until Alone.
func (k Signer) Next() (Signer, error) {
	next, err := NewSigner(k.Name())
	if err != nil {
		return Signer{}, err
	}
	return ParseSigner(k.Secret + "\n" + next.Secret)
}

// Alone returns the Signer without the older keys.
func (k Signer) Alone() (Signer, error) {
	return ParseSigner(k.Secret[strings.LastIndexByte(k.Secret, '\n')+1:])
}

func parseSecret(secret string) (Signer, error) {
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
	return Signer{Secret: secret, Public: public, signers: []note.Signer{signer}}, nil
}

// Name returns the log's origin.
func (k Signer) Name() string { return k.signers[0].Name() }

// Sign returns a checkpoint of the tree, as c2sp.org/tlog-checkpoint has it. Of one tree it always has the same bytes.
func (k Signer) Sign(tree tlog.Tree) ([]byte, error) {
	text := torchwood.Checkpoint{Origin: k.Name(), Tree: tree}.String()
	return note.Sign(&note.Note{Text: text}, k.signers...)
}

// Cosigner returns the public key of the cosignatures that the Signer makes of the logs of others.
func (k Signer) Cosigner() (string, error) {
	c, err := k.cosigner()
	if err != nil {
		return "", err
	}
	return c.Verifier().String(), nil
}

// Cosign returns the line that cosigns a checkpoint of another log now, as c2sp.org/tlog-cosignature has it.
func (k Signer) Cosign(signed []byte) (line string, err error) {
	c, err := k.cosigner()
	if err != nil {
		return "", err
	}
	text, _, _ := bytes.Cut(signed, []byte("\n\n"))
	all, err := note.Sign(&note.Note{Text: string(text) + "\n"}, c)
	if err != nil {
		return "", err
	}
	_, sig, _ := bytes.Cut(all, []byte("\n\n"))
	return string(sig), nil
}

func (k Signer) cosigner() (*torchwood.CosignatureSigner, error) {
	fields := strings.SplitN(k.Secret[strings.LastIndexByte(k.Secret, '\n')+1:], "+", 5)
	seed, err := base64.StdEncoding.DecodeString(fields[len(fields)-1])
	if err != nil || len(seed) != 1+ed25519.SeedSize { // which was checked
		return nil, errors.New("it is no Ed25519 key")
	}
	return torchwood.NewCosignatureSigner(k.Name(), ed25519.NewKeyFromSeed(seed[1:]))
}

// Policy returns what a checkpoint of the log with that public key has to be signed with, as c2sp.org/tlog-policy writes it.
func Policy(public string) []byte { return []byte("log " + public + "\nquorum none\n") }

// OpenCheckpoint returns the tree that a checkpoint is of, if it is signed as the policy wants.
func OpenCheckpoint(signed, policy []byte) (tlog.Tree, error) {
	p, err := ParsePolicy(policy)
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

// KeyProofFile returns where the proof is, below /log/, that another key has taken the place of that public one.
func KeyProofFile(public string) string {
	_, rest, _ := strings.Cut(public, "+")
	id, _, _ := strings.Cut(rest, "+")
	return "key/" + id + ProofSuffix
}

// FollowKey returns the policy with the key that has taken the place of its own, by a proof which that one signed, and the
// tree that the proof is under.
func FollowKey(policy, proof []byte) (next []byte, tree tlog.Tree, err error) {
	old := PolicyKey(policy)
	e, checkpoint, err := OpenProof(proof, Policy(old))
	if err != nil {
		return nil, tree, err
	}
	public := e.Value("vkey")
	v, err := note.NewVerifier(public)
	if err != nil || e.Kind() != "key" || public == old || v.Name() != strings.SplitN(old, "+", 2)[0] {
		return nil, tree, errors.New("the proof is not of another key of this log")
	}
	tree, err = OpenCheckpoint(checkpoint, Policy(old))
	return withKey(policy, old, public), tree, err
}

// withKey returns a policy with another key of the log in the place of the old one.
func withKey(policy []byte, old, public string) []byte {
	var next []byte
	for line := range strings.Lines(string(policy)) { // comments may have the key, too
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "log" && fields[1] == old {
			line = strings.Replace(line, old, public, 1)
		}
		next = append(next, line...)
	}
	return next
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
