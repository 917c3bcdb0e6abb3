package main

import (
	"runtime"
	"strings"
	"testing"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// seed makes the histories of these tests.
const seed = 1

// TestHistories plays as many histories as a test of the whole repository wants,
// and checks that what they should try out did happen in them.
func TestHistories(t *testing.T) {
	count := uint64(100_000)
	if testing.Short() {
		count = 2_000
	}
	total, found := campaign(options{seed: seed, terms: permission.Default}, count, runtime.NumCPU())
	var summary strings.Builder
	total.print(&summary)
	t.Logf("seed %d\n%s", seed, summary.String())
	if found != nil {
		t.Fatalf("seed %d, %s\ntell it with: go run ./e2e/simulate -seed %d -history %d -v", seed, found, seed, found.history)
	}
	if total.Histories != count {
		t.Errorf("%d histories were played, %d were wanted", total.Histories, count)
	}
	if testing.Short() {
		return
	}
	for kind, n := range total.Faults {
		if n == 0 {
			t.Errorf("no history has %s", faultNames[kind])
		}
	}
	for _, proof := range []v1alpha1.FenceProof{v1alpha1.ProofWaited, v1alpha1.ProofRebooted, v1alpha1.ProofOutOfService} {
		if total.Proofs[proof] == 0 {
			t.Errorf("no node was fenced with the proof %s", proof)
		}
	}
	for _, reason := range []v1alpha1.HeldReason{v1alpha1.HeldPaused, v1alpha1.HeldStormGuard, v1alpha1.HeldCoolDown, v1alpha1.HeldAPIUnreachable,
		v1alpha1.HeldTooFewPeers, v1alpha1.HeldFencerSilent} {
		if total.Refusals[reason] == 0 {
			t.Errorf("nothing was held for %s", reason)
		}
	}
	if total.Refutations == 0 || total.Returns == 0 || total.Extensions == 0 || total.Recoveries == 0 || total.Beyond == 0 {
		t.Error("refutations, returns, extended permissions, recoveries and stalls beyond the terms must all happen")
	}
}

// TestSameAgain plays histories in worlds that have played others before: each must
// come out the same, event by event.
func TestSameAgain(t *testing.T) {
	o := options{seed: 7, terms: permission.Default}
	one, other := newWorld(o), newWorld(o)
	first := map[uint64][2]uint64{}
	for history := range uint64(120) {
		one.play(history)
		first[history] = [2]uint64{one.digest, one.events}
	}
	distinct := map[uint64]bool{}
	for i := range uint64(120) {
		history := 119 - i
		other.play(history)
		if got := [2]uint64{other.digest, other.events}; got != first[history] {
			t.Fatalf("history %d: digest and events were %v, and are %v", history, first[history], got)
		}
		distinct[other.digest] = true
	}
	if len(distinct) != 120 {
		t.Errorf("120 histories have %d digests: it does not tell them apart", len(distinct))
	}
}

// TestFindsWhatIsBroken breaks the protocol in one place at a time, and wants that
// noticed.
func TestFindsWhatIsBroken(t *testing.T) {
	within := uint64(60_000) // the rarest need some thousands
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			if rare := map[string]bool{"no-drift": true, "early-wait": true, "check-first": true, "blind-refute": true, "poll-seldom": true, "other-boot": true}; testing.Short() && rare[v.name] {
				t.Skip("it takes thousands of histories to find")
			}
			_, found := campaign(options{seed: seed, terms: permission.Default, broken: v.broken}, within, runtime.NumCPU())
			if found == nil {
				t.Fatalf("%s: not found in %d histories", v.meaning, within)
			}
			t.Logf("%s: %s", v.meaning, found)
		})
	}
}
