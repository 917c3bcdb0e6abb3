// Package detect turns what different sources say of a node into one typed
// fact: alive, suspected, unreachable or gone, and whether something said that it
// may go soon. It is pure: observations and a time go in, facts come out.
//
// docs/reference/signals.md lists the sources.
package detect

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/membership"
)

// State is what is believed of a node.
type State string

// The states of a node.
const (
	Alive       State = "Alive"
	Suspected   State = "Suspected"   // its checkpointer has just fallen silent
	Unreachable State = "Unreachable" // it has been silent for long enough that the sources agree
	Stopped     State = "Stopped"     // it answers, but cannot reach the API, and its protected pods stand still
	Gone        State = "Gone"        // its Node object was deleted, and it is no member
)

// Lost says whether a node in this state may be declared lost.
func (s State) Lost() bool { return s == Suspected || s == Unreachable || s == Stopped }

// stoppedAfter is how long a node must have said that its pods stand still for it to
// be given up: a short fault of the way to the API is over by then.
const stoppedAfter = 2 * time.Second

// Fact is what follows for a node.
type Fact struct {
	Node  string
	State State
	// LastAlive is the last moment for which there is evidence that the node
	// lived. It is zero when there never was any.
	LastAlive time.Time
	// Stopped is since when its protected pods stand still, in the state Stopped.
	Stopped time.Time
	// BootID is the boot that its kubelet last reported, empty where it has not.
	BootID string
	// Reason is the evidence, in words for an event.
	Reason string
	// Domain is the node's failure domain, its label topology.kubernetes.io/zone;
	// empty if it has none.
	Domain string
	// OutOfService is whether somebody other than Lifeboat tainted the node
	// node.kubernetes.io/out-of-service, and it gave no sign of life since: it is
	// powered off. A taint that the node has outlived was forgotten there, and says
	// nothing.
	OutOfService bool
	// Signals are what says at present that the node may go soon, the weightiest
	// first. Their messages stay the same while what they tell does.
	Signals []Signal
	// Why is the reason of a Migration if the node is lost now: that of the
	// weightiest signal of the last ten minutes.
	Why v1alpha1.MigrationReason
}

// LostAt is the last moment for which it is known that the node's protected pods
// could run; RTO and RPO count from it.
func (f Fact) LostAt() time.Time {
	if f.State == Stopped {
		return f.Stopped
	}
	return f.LastAlive
}

// Signal is one thing that says that a node may go soon.
type Signal struct {
	// Reason is the kind of the signal, and the reason of a Migration that follows.
	Reason v1alpha1.MigrationReason
	// Message says what was seen, in words for an event.
	Message string
	// Notice is how long after the signal the node goes at the earliest; 0 where that
	// is not known.
	Notice time.Duration
}

// fact judges a sighting.
func (s *sighting) fact(now time.Time, member membership.Member, leases hearing, limits Pressure) Fact {
	f := Fact{Node: s.node, LastAlive: member.LastAlive, BootID: s.bootID, Domain: s.domain, Signals: s.present(now, limits)}
	f.Why = s.why(now, f.Signals)
	if s.lease.alive.After(f.LastAlive) {
		f.LastAlive = s.lease.alive
	}
	f.OutOfService = !s.outOfService.IsZero() && !f.LastAlive.After(s.outOfService)
	switch member.State {
	case membership.Alive:
		f.State, f.Reason = Alive, "its checkpointer answers"
		if at := member.Stopped; !at.IsZero() && now.Sub(at) >= stoppedAfter {
			f.State, f.Stopped = Stopped, at
			f.Reason = fmt.Sprintf("it cannot reach the API, and its protected pods have stood still for %s", now.Sub(at).Round(10*time.Millisecond))
		}
	case membership.Suspect, membership.Dead:
		silence := now.Sub(member.LastAlive).Round(10 * time.Millisecond)
		switch {
		case s.lease.outlived(member.LastAlive, now):
			f.State = Alive
			f.Reason = fmt.Sprintf("its checkpointer has been silent for %s, but its kubelet renews its Lease", silence)
		case member.State == membership.Suspect:
			f.State = Suspected
			f.Reason = fmt.Sprintf("its checkpointer has been silent for %s", silence)
		default:
			f.State = Unreachable
			f.Reason = fmt.Sprintf("its checkpointer has been silent for %s, and the other members agree", silence)
		}
	default:
		f.State, f.Reason = s.withoutMember(leases)
	}
	return f
}

// withoutMember judges a node whose checkpointer left in order or was never
// seen: only the kubelet speaks for it.
func (s *sighting) withoutMember(leases hearing) (State, string) {
	silence := leases.silence(later(s.watched, s.lease.seen))
	switch {
	case !s.exists:
		return Gone, "its Node object was deleted"
	case s.ready == corev1.ConditionUnknown && s.lease.seen.Before(s.unknown):
		return Unreachable, "Kubernetes reports its status as unknown"
	case silence > leaseSilence:
		return Unreachable, fmt.Sprintf("its kubelet has not renewed its Lease for %s", silence.Round(time.Second))
	default:
		return Alive, "nothing speaks against it"
	}
}

func later(x, y time.Time) time.Time {
	if x.After(y) {
		return x
	}
	return y
}
