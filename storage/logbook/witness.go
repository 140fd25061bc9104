package logbook

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Witnesses are those who cosign a log, and which of them have to: the lines of a policy (c2sp.org/tlog-policy) without
// those of the log. The zero Witnesses are none.
type Witnesses struct {
	All  []Witness
	text string // "" for none
}

// A Witness sees to it that a log only grows, and says so with a cosignature (c2sp.org/tlog-cosignature).
type Witness struct {
	Name string // in the policy
	Key  string // as torchwood.NewCosignatureVerifier reads it
	URL  string // where it is asked, as c2sp.org/tlog-witness has it; without a slash at the end

	verifier note.Verifier
}

// ParseWitnesses reads lines witness, group and quorum. Each witness has to have a URL.
func ParseWitnesses(text []byte) (Witnesses, error) {
	w := Witnesses{text: strings.TrimRight(string(text), "\n") + "\n"}
	log, err := NewSigner("log")
	if err == nil {
		_, err = ParsePolicy([]byte(w.text + "log " + log.Public + "\n")) // behind, so that lines have the numbers that they have
	}
	if err != nil {
		return Witnesses{}, fmt.Errorf("witnesses: %w", err)
	}
	for line := range strings.SplitSeq(w.text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || fields[0] == "group" || fields[0] == "quorum":
			continue
		case fields[0] != "witness":
			return Witnesses{}, fmt.Errorf("witnesses: a line begins with %.20q: only witness, group and quorum do", fields[0])
		case len(fields) != 4:
			return Witnesses{}, fmt.Errorf("witnesses: want witness, a name, a key and a URL: %.200q", line)
		}
		u, err := url.Parse(fields[3])
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return Witnesses{}, fmt.Errorf("witness %s: want a URL like https://witness.example.org", fields[1])
		}
		verifier, err := torchwood.NewCosignatureVerifier(fields[2])
		if err != nil {
			return Witnesses{}, fmt.Errorf("witness %s: %w", fields[1], err)
		}
		w.All = append(w.All, Witness{Name: fields[1], Key: fields[2], URL: strings.TrimRight(u.String(), "/"), verifier: verifier})
	}
	return w, nil
}

// Policy returns what a checkpoint of the log with that public key has to be signed with.
func (w Witnesses) Policy(public string) []byte {
	if w.text == "" {
		return Policy(public)
	}
	return []byte("log " + public + "\n" + w.text)
}

// Quorum reports whether the policy wants no more signatures than those of the log and of cosigners. All are public keys.
func Quorum(policy []byte, log string, cosigners []string) (bool, error) {
	p, err := ParsePolicy(policy)
	if err != nil {
		return false, fmt.Errorf("log policy: %w", err)
	}
	v, err := note.NewVerifier(log)
	if err != nil {
		return false, err
	}
	sigs := []note.Signature{{Name: v.Name(), Hash: v.KeyHash()}}
	for _, key := range cosigners {
		c, err := torchwood.NewCosignatureVerifier(key)
		if err != nil {
			return false, err
		}
		sigs = append(sigs, note.Signature{Name: c.Name(), Hash: c.KeyHash()})
	}
	return p.Check(v.Name(), sigs) == nil, nil
}

// Request returns what a witness is asked with: to cosign a checkpoint, which goes on from the tree of the old size.
func (Witness) Request(old int64, proof tlog.TreeProof, signed []byte) []byte {
	b := fmt.Appendf(nil, "old %d\n", old)
	for _, h := range proof {
		b = fmt.Appendf(b, "%s\n", h)
	}
	return append(append(b, '\n'), signed...)
}

// Signed reports whether the checkpoint has a signature of the witness.
func (w Witness) Signed(signed []byte) bool {
	_, err := note.Open(signed, note.VerifierList(w.verifier))
	return err == nil
}

// maxSkew is how far the clock of a witness may be from ours.
const maxSkew = 24 * time.Hour

// Cosignature returns the line of the answer that is the witness's signature of the checkpoint.
func (w Witness) Cosignature(signed, answer []byte) (line string, err error) {
	text, _, _ := bytes.Cut(signed, []byte("\n\n"))
	n, err := note.Open(append(append(bytes.Clone(text), "\n\n"...), answer...), note.VerifierList(w.verifier))
	if err != nil {
		return "", errors.New("what it answers is no cosignature of this checkpoint by its key")
	}
	at, err := torchwood.CosignatureTimestamp(n.Sigs[0])
	if err != nil {
		return "", err
	}
	if skew := time.Since(time.Unix(at, 0)).Abs(); skew > maxSkew {
		return "", fmt.Errorf("its cosignature says that it is %s: its clock is wrong, or ours", time.Unix(at, 0).UTC().Format(seenForm))
	}
	return fmt.Sprintf("— %s %s\n", n.Sigs[0].Name, n.Sigs[0].Base64), nil
}
