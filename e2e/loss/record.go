package loss

import (
	"errors"
	"fmt"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart"
)

// Moment is one step of a recovery.
type Moment struct {
	// Name says what happened then.
	Name string
	At   time.Time
}

// Names of the moments, in the order in which they come.
const (
	Declared   = "loss noticed, node declared lost"
	Fenced     = "old copy fenced"
	Deleted    = "old pod gone from the API"
	Created    = "successor created"
	Scheduled  = "successor has a node"
	Restoring  = "runtime asks for the checkpoint"
	PodReady   = "successor ready"
	FirstReply = "first answer to the shopper"
)

// Moments are the names of all moments in their order.
var Moments = []string{Declared, Fenced, Deleted, Created, Scheduled, Restoring, PodReady, FirstReply}

var momentOf = map[v1alpha1.Phase]string{
	v1alpha1.PhaseDetected: Declared, v1alpha1.PhaseFenced: Fenced, v1alpha1.PhaseDeleted: Deleted,
	v1alpha1.PhaseCreated: Created, v1alpha1.PhaseScheduled: Scheduled,
	v1alpha1.PhaseRestoring: Restoring, v1alpha1.PhaseReady: PodReady,
}

// Record is what one loss did to a cart.
type Record struct {
	// Source is the node whose power was cut, Target the one that took over.
	Source, Target string
	// CutAt is when the power was cut.
	CutAt time.Time
	// LeaderLost is whether the leading watcher ran on the lost node.
	LeaderLost bool
	// Checkpoint is the pod's Checkpoint shortly before the cut.
	Checkpoint v1alpha1.Checkpoint
	// Migration is Lifeboat's own record of the recovery.
	Migration v1alpha1.Migration
	// Before and After are everything in the cart, shortly before the cut and
	// after the recovery.
	Before, After cart.Snapshot
	// Report is everything that the shopper noted.
	Report cart.Report
	// Moments are the steps of the recovery that happened, in order.
	Moments []Moment

	seeded map[string][]cart.Item
}

// Outage is the interval around the cut in which the shopper got no answer.
func (r *Record) Outage() (cart.Outage, bool) { return r.Report.Around(r.CutAt) }

// ClientRTO is the time from the cut to the first answer that the shopper got
// again; 0 when it got none.
func (r *Record) ClientRTO() time.Duration {
	outage, found := r.Outage()
	if !found {
		return 0
	}
	return outage.FirstSuccess.Sub(r.CutAt)
}

// RTO is Lifeboat's own figure.
func (r *Record) RTO() time.Duration { return seconds(r.Migration.Status.RTOSeconds) }

// RPO is Lifeboat's own figure.
func (r *Record) RPO() time.Duration { return seconds(r.Migration.Status.RPOSeconds) }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// TakenAt is the moment whose state came back; zero when none did.
func (r *Record) TakenAt() time.Time {
	restore := r.Migration.Status.Restore
	if restore == nil || restore.TakenAt == nil {
		return time.Time{}
	}
	return restore.TakenAt.Time
}

// Since returns the time from the cut to a moment, and whether it happened.
func (r *Record) Since(name string) (time.Duration, bool) {
	for _, m := range r.Moments {
		if m.Name == name {
			return m.At.Sub(r.CutAt), true
		}
	}
	return 0, false
}

// Writes counts the shopper's writes that were acknowledged before the outage.
type Writes struct {
	// Acked is how many there were.
	Acked int
	// Restored is how many of them are in the cart after the recovery.
	Restored int
	// InWindow is how many are missing that were acknowledged after the
	// checkpoint that came back: the loss that the RPO announces.
	InWindow int
	// Older are those missing though acknowledged before that checkpoint was
	// taken. There must be none.
	Older []cart.Write
}

// Writes compares the shopper's notes with the cart after the recovery.
func (r *Record) Writes() Writes {
	var w Writes
	outage, found := r.Outage()
	for _, write := range r.Report.Writes {
		if found && write.AckedAt.After(outage.LastSuccess) {
			break
		}
		w.Acked++
		switch {
		case r.After.Has(r.Report.Cart, write.SKU):
			w.Restored++
		case write.AckedAt.After(r.TakenAt()):
			w.InWindow++
		default:
			w.Older = append(w.Older, write)
		}
	}
	return w
}

// SeededBefore and SeededAfter are the checksums of the carts that were filled
// once and never changed, as written and as they came back.
func (r *Record) SeededBefore() string { return cart.Checksum(r.seeded) }

// SeededAfter is described at SeededBefore.
func (r *Record) SeededAfter() string {
	after := map[string][]cart.Item{}
	for name := range r.seeded {
		after[name] = r.After.Carts[name]
	}
	return cart.Checksum(after)
}

// Verdict returns everything that speaks against the cart having survived: nil
// when the same process went on, with all that it held at its last checkpoint.
func (r *Record) Verdict() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	status := r.Migration.Status
	if status.Result != v1alpha1.ResultRestored {
		fault("the Migration's result is %q: %s: %s", status.Result, status.Reason, status.Message)
	}
	if r.After.Birth != r.Before.Birth {
		fault("the cart started anew: it was born as %s and now is %s", r.Before.Birth, r.After.Birth)
	}
	if before, after := r.SeededBefore(), r.SeededAfter(); before != after {
		fault("carts that nobody changed differ: checksum %s before and %s after", before, after)
	}
	writes := r.Writes()
	if len(writes.Older) > 0 {
		first := writes.Older[0]
		fault("%d acknowledged items are missing that are older than the checkpoint of %s, the first is %s of %s",
			len(writes.Older), r.TakenAt().Format(time.RFC3339Nano), first.SKU, first.AckedAt.Format(time.RFC3339Nano))
	}
	if r.TakenAt().IsZero() {
		fault("the Migration does not say which moment came back")
	} else if err := r.checkTicks(); err != nil {
		faults = append(faults, err)
	}
	if _, found := r.Outage(); !found {
		fault("the shopper noted no outage that ended after the cut")
	}
	return errors.Join(faults...)
}

// checkTicks compares the process's own count of time with the last one that the
// shopper saw before the checkpoint.
func (r *Record) checkTicks() error {
	for i := len(r.Report.Writes) - 1; i >= 0; i-- {
		if w := r.Report.Writes[i]; w.AckedAt.Before(r.TakenAt()) {
			if r.After.Ticks < w.Ticks {
				return fmt.Errorf("the cart counted %d ticks before the checkpoint and %d after the recovery", w.Ticks, r.After.Ticks)
			}
			return nil
		}
	}
	return nil
}
