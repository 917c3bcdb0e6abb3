package plugin

import (
	"math"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// mostStalled bounds by how much pressure is thought to slow a restore: nine
	// of ten seconds lost.
	mostStalled = 90
	// longest bounds a prediction.
	longest = 24 * time.Hour
)

// Model has what the prediction of a restore's time is made from beside the node
// itself. LifeboatArgs sets it.
type Model struct {
	// LocalBytesPerSecond is how fast memory is filled in from a node's own store
	// and RemoteBytesPerSecond how fast from another node, where the node itself
	// has not shown it.
	LocalBytesPerSecond, RemoteBytesPerSecond float64
	// Start is what a restore takes on any node, without its memory.
	Start time.Duration
	// RemoteStart is what it takes longer when the checkpoint lies on another node.
	RemoteStart time.Duration
	// ImagePull is what a container image takes that the node lacks.
	ImagePull time.Duration
	// Failure is what a failed restore costs: its detection and another attempt. A
	// node that failed a moment ago is expected to fail again, one that failed
	// FailureHalfLife ago with half of that probability, and so on.
	Failure, FailureHalfLife time.Duration
	// Pressure is what each of the node's pressure conditions costs.
	Pressure time.Duration
	// SameDomain is what it counts that the node is in the failure domain that has
	// just lost a node.
	SameDomain time.Duration
}

// Site is what is known of a node that could take a restore.
type Site struct {
	// Holder says that the node has the checkpoint in its own store.
	Holder bool
	// Load is how busy the node is and Restores what restores on it have shown;
	// nil where that is not known.
	Load     *v1alpha1.NodeLoad
	Restores *v1alpha1.RestoreHistory
	// Pressures is how many of the node's pressure conditions hold.
	Pressures int
	// MissingImages is how many of the pod's container images the node lacks.
	MissingImages int
	// SameDomain says that the node is in the failure domain of the lost node.
	SameDomain bool
}

// Predict returns how long it is expected to take until a checkpoint of so many
// bytes is restored on a node with all of its memory.
func (m *Model) Predict(bytes int64, site *Site, now time.Time) time.Duration {
	seconds := m.Start.Seconds()
	rate := m.LocalBytesPerSecond
	if !site.Holder {
		seconds += m.RemoteStart.Seconds()
		rate = m.RemoteBytesPerSecond
	}
	if shown := site.shownRate(); shown > 0 {
		rate = shown
	}
	seconds += float64(bytes) / rate / (1 - stalled(site.Load, site.Holder))
	seconds += float64(site.MissingImages) * m.ImagePull.Seconds()
	seconds += float64(site.Pressures) * m.Pressure.Seconds()
	if site.Restores != nil {
		for i := range site.Restores.Failures {
			age := now.Sub(site.Restores.Failures[i].At.Time)
			seconds += m.Failure.Seconds() * decayed(age, m.FailureHalfLife)
		}
	}
	if site.SameDomain {
		seconds += m.SameDomain.Seconds()
	}
	return time.Duration(min(seconds, longest.Seconds()) * float64(time.Second))
}

// shownRate is how fast restores on the node were, 0 where that is not known.
func (s *Site) shownRate() float64 {
	switch {
	case s.Restores == nil:
		return 0
	case s.Holder:
		return float64(s.Restores.LocalBytesPerSecond)
	}
	return float64(s.Restores.RemoteBytesPerSecond)
}

// stalled is the share of time in which the filling in of memory is expected to
// wait: for the processor, for memory or, where the checkpoint comes from the
// node's own disk, for that.
func stalled(load *v1alpha1.NodeLoad, holder bool) float64 {
	if load == nil {
		return 0
	}
	most := max(load.CPUPressure, load.MemoryPressure, 0)
	if holder {
		most = max(most, load.IOPressure)
	}
	return float64(min(most, mostStalled)) / 100
}

// decayed is 1 at age 0 and halves with each half-life.
func decayed(age, halfLife time.Duration) float64 {
	if age <= 0 {
		return 1
	}
	return math.Exp2(-float64(age) / float64(halfLife))
}

// model is the prediction's model as the arguments set it.
func (a *Args) model() Model {
	of := func(d *metav1.Duration) time.Duration { return d.Duration }
	return Model{
		LocalBytesPerSecond: a.LocalBytesPerSecond.AsApproximateFloat64(), RemoteBytesPerSecond: a.RemoteBytesPerSecond.AsApproximateFloat64(),
		Start: of(a.StartTime), RemoteStart: of(a.RemoteStartTime), ImagePull: of(a.ImagePullTime),
		Failure: of(a.FailureTime), FailureHalfLife: of(a.FailureHalfLife),
		Pressure: of(a.PressureTime), SameDomain: of(a.SameDomainTime),
	}
}
