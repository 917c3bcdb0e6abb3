package migrate

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// phases in the order in which a failover completes them.
var phases = []v1alpha1.Phase{
	v1alpha1.PhaseDetected, v1alpha1.PhaseFenced, v1alpha1.PhaseDeleted, v1alpha1.PhaseCreated,
	v1alpha1.PhaseScheduled, v1alpha1.PhaseRestoring, v1alpha1.PhaseReady,
}

// stamp notes that a step was completed at a moment, unless it is noted already.
func stamp(m *v1alpha1.Migration, phase v1alpha1.Phase, at time.Time) {
	if _, ok := m.PhaseAt(phase); ok {
		return
	}
	m.Status.Phases = append(m.Status.Phases, v1alpha1.PhaseTime{Phase: phase, At: metav1.NewMicroTime(at)})
	if m.Planned() {
		m.Status.Phase = phase // the order is the strategy's
		return
	}
	for _, p := range phases {
		if _, ok := m.PhaseAt(p); ok {
			m.Status.Phase = p
		}
	}
}

// noLater corrects the moment of a step that was noted already, when it turns
// out that the step had been completed by then.
func noLater(m *v1alpha1.Migration, phase v1alpha1.Phase, then time.Time) {
	for i := range m.Status.Phases {
		if p := &m.Status.Phases[i]; p.Phase == phase && then.Before(p.At.Time) {
			p.At = metav1.NewMicroTime(then)
		}
	}
}

// deletedAt is since when a successor is waited for.
func deletedAt(m *v1alpha1.Migration) time.Time {
	if at, ok := m.PhaseAt(v1alpha1.PhaseDeleted); ok {
		return at
	}
	return m.CreationTimestamp.Time
}

func readyAt(m *v1alpha1.Migration, now time.Time) time.Time {
	if at, ok := m.PhaseAt(v1alpha1.PhaseReady); ok {
		return at
	}
	return now
}

// conclude writes a verdict into the Migration, and what was measured. RTO is
// set when the pod became Ready, RPO when its state came back.
func conclude(m *v1alpha1.Migration, v Verdict) {
	s := &m.Status
	s.Result, s.Reason, s.Message = v.Result, v.Reason, v.Message
	if at, ok := m.PhaseAt(v1alpha1.PhaseReady); ok {
		rto := at.Sub(m.BeganAt())
		s.RTOSeconds, s.RTO = rto.Seconds(), forPeople(rto)
	}
	if m.Planned() && !m.Clones() {
		concludeMove(m)
	} else if v.Result == v1alpha1.ResultRestored {
		// A generation can be younger than LostAt: that is the last moment at
		// which the node was known to be alive, and it lived on a little longer.
		rpo := max(0, m.BeganAt().Sub(s.Restore.TakenAt.Time))
		s.RPOSeconds, s.RPO = rpo.Seconds(), forPeople(rpo)
	}
}

// concludeMove writes what was measured of a planned move alone: for how long nobody
// answered and, should an earlier generation than the last one have been restored, how
// much older than the pause its state was.
func concludeMove(m *v1alpha1.Migration) {
	s, source := &m.Status, m.Status.Source
	stopped, isStopped := m.PhaseAt(v1alpha1.PhaseStopping)
	if source != nil && source.PausedAt != nil {
		stopped = source.PausedAt.Time
	}
	if at, ok := m.PhaseAt(v1alpha1.PhaseReady); ok && isStopped {
		downtime := max(0, at.Sub(stopped))
		s.DowntimeSeconds, s.Downtime = downtime.Seconds(), forPeople(downtime)
	}
	if s.Result != v1alpha1.ResultRestored {
		return
	}
	var rpo time.Duration
	if source != nil && source.Checkpoint != nil && source.Checkpoint.Generation != s.Restore.Generation {
		rpo = max(0, stopped.Sub(s.Restore.TakenAt.Time))
	}
	s.RPOSeconds, s.RPO = rpo.Seconds(), forPeople(rpo)
}

// forPeople writes a duration as "4.81s" or "2m5s".
func forPeople(d time.Duration) string {
	if d < time.Minute {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// writeStatus writes what has changed of a Migration's status. It fails with a conflict
// when somebody else has written the Migration meanwhile.
func (d *Driver) writeStatus(ctx context.Context, before, m *v1alpha1.Migration) error {
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := d.Client.Status().Patch(ctx, m, patch, fieldOwner); err != nil {
		return fmt.Errorf("write migration %s/%s: %w", m.Namespace, m.Name, err)
	}
	return nil
}
