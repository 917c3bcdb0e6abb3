// Package witness shows what became of a program whose node was lost. The program, a
// stepper, takes a step every StepEvery; each step names the one before it by its hash,
// so that two copies of the program cannot be mistaken for one. It writes every step to
// its log and sends it to a witness outside the nodes. From both, Judge tells whether two
// copies ever ran at the same time, which step a restored copy went on from, and
// whether Lifeboat's own records say the same.
package witness

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// StepEvery is the time from one step of a stepper to the next.
const StepEvery = 20 * time.Millisecond

// Hash names a step and all before it. It is hexadecimal, as in a log.
type Hash string

// Step is one step of a stepper.
type Step struct {
	// Workload is the stepper's name; its copies all have the same.
	Workload string
	// Number counts from 1, the first step after the stepper's birth.
	Number int64
	// Previous is the hash of the step before, for the first step that of the birth.
	Previous, Hash Hash
	// Nonce makes steps of two copies differ.
	Nonce uint64
	// At is when the step was made, by the host's time of day, which all nodes of a local
	// cluster share. The clocks that count from boot would not do: CRIU has them go on,
	// in a restored copy, from where they were in the old one.
	At time.Time
}

// Birth is the hash before the first step of a stepper that was born with the nonce.
func Birth(workload string, nonce uint64) Hash { return link(Hash("birth of "+workload), 0, nonce) }

// Next is the step after the one with the number and the hash. When it was made is not
// part of its hash and left open.
func Next(workload string, number int64, previous Hash, nonce uint64) Step {
	return Step{
		Workload: workload, Number: number + 1, Previous: previous,
		Hash: link(previous, number+1, nonce), Nonce: nonce,
	}
}

// Sound says whether the step's hash is right.
func (s Step) Sound() bool { return s.Hash == link(s.Previous, s.Number, s.Nonce) }

func link(previous Hash, number int64, nonce uint64) Hash {
	text := binary.BigEndian.AppendUint64([]byte(previous), uint64(number))
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(text, nonce))
	return Hash(hex.EncodeToString(sum[:12]))
}

// String is the step as a line of a log, without its end.
func (s Step) String() string {
	return fmt.Sprintf("step %s %d %s %s %016x %d",
		s.Workload, s.Number, s.Previous, s.Hash, s.Nonce, s.At.UnixNano())
}

// ParseStep reads a line that String wrote.
func ParseStep(line string) (Step, error) {
	var s Step
	var at int64
	fields, err := fmt.Sscanf(strings.TrimSpace(line), "step %s %d %s %s %x %d",
		&s.Workload, &s.Number, &s.Previous, &s.Hash, &s.Nonce, &at)
	if err != nil {
		return Step{}, fmt.Errorf("read step %q: field %d: %w", line, fields+1, err)
	}
	s.At = time.Unix(0, at)
	if !s.Sound() {
		return Step{}, fmt.Errorf("read step %q: its hash is wrong", line)
	}
	return s, nil
}
