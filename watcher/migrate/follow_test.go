package migrate

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// TestPhasesKeepTheirOrder: the scheduler reads the clock before the API server
// has its claim, and the pod may be noticed in between or only afterwards.
func TestPhasesKeepTheirOrder(t *testing.T) {
	claimed := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, noticed := range map[string]time.Time{
		"noticed before the claim":               claimed.Add(-time.Second),
		"noticed while the claim was on its way": claimed.Add(time.Millisecond),
		"noticed with the claim":                 {},
	} {
		t.Run(name, func(t *testing.T) {
			d, m, pod := &Driver{}, &v1alpha1.Migration{Spec: v1alpha1.MigrationSpec{Strategy: v1alpha1.StrategyFailover}}, &corev1.Pod{}
			created := claimed
			if !noticed.IsZero() {
				d.follow(m, pod, noticed)
				if noticed.Before(claimed) {
					created = noticed
				}
			}
			m.Status.Claim = &v1alpha1.Claim{At: metav1.NewMicroTime(claimed)}
			d.follow(m, pod, claimed.Add(time.Second))
			want := []v1alpha1.PhaseTime{
				{Phase: v1alpha1.PhaseCreated, At: metav1.NewMicroTime(created)},
				{Phase: v1alpha1.PhaseScheduled, At: metav1.NewMicroTime(claimed)},
			}
			if diff := cmp.Diff(want, m.Status.Phases); diff != "" {
				t.Errorf("phases (-want +got):\n%s", diff)
			}
		})
	}
}
