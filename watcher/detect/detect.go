// Package detect turns what different sources say of a node into one typed
// fact: alive, suspected, unreachable or gone. It is pure: observations and a
// time go in, facts come out.
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
	Gone        State = "Gone"        // its Node object was deleted, and it is no member
)

// Lost says whether a node in this state may be declared lost.
func (s State) Lost() bool { return s == Suspected || s == Unreachable }

const (
	// leasePeriod is how often a kubelet renews its Lease: a quarter of its
	// default duration of 40 s, plus the jitter and a slow API server.
	leasePeriod = 12 * time.Second
	// leaseSilence is how long no renewal is seen before that alone says that a
	// node is unreachable. It only counts where membership knows nothing.
	leaseSilence = 25 * time.Second
	// leaseSlack is how much later than the checkpointer's last sign of life a
	// renewal must be to prove that the node outlived it: it covers the time
	// between two pings, the delay of a watch, and clocks that differ a little.
	leaseSlack = time.Second
)

// Sighting is everything that is known of one node.
type Sighting struct {
	// Node is its name.
	Node string
	// Member is its checkpointer in the membership, the zero Member when it was
	// never seen there.
	Member membership.Member
	// NodeExists is whether there is a Node object, and Ready its condition.
	NodeExists bool
	Ready      corev1.ConditionStatus
	// BootID is the boot that its kubelet last reported.
	BootID string
	// LeaseRenewed is the renew time of its kubelet's Lease, by the node's clock.
	LeaseRenewed time.Time
	// LeaseSeen is when a renewal was last watched happening; zero before that.
	LeaseSeen time.Time
	// Watched is since when the node has been watched at all.
	Watched time.Time
}

// Fact is what follows for a node.
type Fact struct {
	Node  string
	State State
	// LastAlive is the last moment for which there is evidence that the node
	// lived. It is zero when there never was any.
	LastAlive time.Time
	// BootID is the boot that its kubelet last reported, empty where it has not.
	BootID string
	// Reason is the evidence, in words for an event.
	Reason string
	// Domain is the node's failure domain, its label topology.kubernetes.io/zone;
	// empty if it has none.
	Domain string
	// OutOfService is whether somebody other than Lifeboat tainted the node
	// node.kubernetes.io/out-of-service: it is powered off.
	OutOfService bool
	// Signals are what said lately that the node may go soon, the weightiest first.
	Signals []Signal
	// Why is the reason of a Migration if the node is lost now.
	Why v1alpha1.MigrationReason
}

// Signal is one thing that says that a node may go soon.
type Signal struct {
	// Reason is the kind of the signal, and the reason of a Migration that follows.
	Reason v1alpha1.MigrationReason
	// Message says what was seen, in words for an event.
	Message string
}

// Fact judges a sighting.
func (s Sighting) Fact(now time.Time) Fact {
	f := Fact{Node: s.Node, LastAlive: s.lastAlive(), BootID: s.BootID, Why: v1alpha1.MigrationNodeLost}
	switch s.Member.State {
	case membership.Alive:
		f.State, f.Reason = Alive, "its checkpointer answers"
	case membership.Suspect, membership.Dead:
		silence := now.Sub(s.Member.LastAlive).Round(10 * time.Millisecond)
		switch {
		case s.kubeletOutlived(now):
			f.State = Alive
			f.Reason = fmt.Sprintf("its checkpointer has been silent for %s, but its kubelet renews its Lease", silence)
		case s.Member.State == membership.Suspect:
			f.State = Suspected
			f.Reason = fmt.Sprintf("its checkpointer has been silent for %s", silence)
		default:
			f.State = Unreachable
			f.Reason = fmt.Sprintf("its checkpointer has been silent for %s, and the other members agree", silence)
		}
	default:
		s.withoutMember(now, &f)
	}
	return f
}

// withoutMember judges a node whose checkpointer left in order or was never
// seen: only the kubelet speaks for it.
func (s Sighting) withoutMember(now time.Time, f *Fact) {
	silentSince := s.Watched
	if s.LeaseSeen.After(silentSince) {
		silentSince = s.LeaseSeen
	}
	silence := now.Sub(silentSince)
	switch {
	case !s.NodeExists:
		f.State, f.Reason = Gone, "its Node object was deleted"
	case s.Ready == corev1.ConditionUnknown && (s.LeaseSeen.IsZero() || silence > leasePeriod):
		f.State, f.Reason = Unreachable, "Kubernetes reports its status as unknown"
	case silence > leaseSilence:
		f.State = Unreachable
		f.Reason = fmt.Sprintf("its kubelet has not renewed its Lease for %s", silence.Round(time.Second))
	default:
		f.State, f.Reason = Alive, "nothing speaks against it"
	}
}

// lastAlive is the later of the checkpointer's and the kubelet's last sign.
func (s Sighting) lastAlive() time.Time {
	last := s.Member.LastAlive
	if renewed := s.leaseAt(); renewed.After(last) {
		last = renewed
	}
	return last
}

// leaseAt is when the kubelet's Lease was last renewed. The node's clock may be
// wrong; what it says is not believed past the moment at which it was seen.
func (s Sighting) leaseAt() time.Time {
	seen := s.LeaseSeen
	if seen.IsZero() {
		seen = s.Watched
	}
	if s.LeaseRenewed.After(seen) {
		return seen
	}
	return s.LeaseRenewed
}

// kubeletOutlived says whether the kubelet was seen alive after the checkpointer
// fell silent, and still may be.
func (s Sighting) kubeletOutlived(now time.Time) bool {
	return !s.LeaseSeen.IsZero() &&
		s.leaseAt().After(s.Member.LastAlive.Add(leaseSlack)) &&
		now.Sub(s.LeaseSeen) <= leasePeriod
}
