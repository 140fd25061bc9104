package logbook

import (
	"bytes"
	"fmt"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
)

// ProofSuffix ends the name of a proof, which is beside what it proves.
const ProofSuffix = ".tlog-proof"

// OpenProof returns the entry that a proof is of, as c2sp.org/tlog-proof has it with the entry as extra data, and the
// checkpoint that it is under, if that is signed as the policy wants.
func OpenProof(proof, policy []byte) (e Entry, checkpoint []byte, err error) {
	text, err := torchwood.ProofExtraData(proof)
	if err != nil {
		return nil, nil, fmt.Errorf("it is no whole proof: %w", err)
	}
	p, err := ParsePolicy(policy)
	if err != nil {
		return nil, nil, fmt.Errorf("log policy: %w", err)
	}
	checkpoint = ProofCheckpoint(proof)
	if err := torchwood.VerifyProof(p, tlog.RecordHash(text), proof); err != nil {
		if _, bad := OpenCheckpoint(checkpoint, policy); bad != nil {
			err = bad
		}
		return nil, nil, fmt.Errorf("the proof does not hold: %w", err)
	}
	e, err = ParseEntry(text)
	return e, checkpoint, err
}

// ProofCheckpoint returns the checkpoint that a proof is under. It has not been checked.
func ProofCheckpoint(proof []byte) []byte {
	_, checkpoint, _ := bytes.Cut(proof, []byte("\n\n"))
	return checkpoint
}
