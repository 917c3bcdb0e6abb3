package migrate

import (
	"fmt"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func TestRemovable(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	// All of one pod, the first the oldest, all old and closed.
	old := func(n int, change func(i int, m *v1alpha1.Migration)) []v1alpha1.Migration {
		var all []v1alpha1.Migration
		for i := range n {
			m := v1alpha1.Migration{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("m%02d", i),
					CreationTimestamp: metav1.NewTime(now.Add(-keepMigrationsFor - time.Hour + time.Duration(i)*time.Second))},
				Spec:   v1alpha1.MigrationSpec{Epoch: int64(i), Pod: v1alpha1.PodIdentity{Name: "cart-0", OwnerKind: "StatefulSet", OwnerName: "cart", OwnerUID: "1"}},
				Status: v1alpha1.MigrationStatus{Result: v1alpha1.ResultRestored},
			}
			if change != nil {
				change(i, &m)
			}
			all = append(all, m)
		}
		return all
	}
	for name, tc := range map[string]struct {
		migrations []v1alpha1.Migration
		want       []string
	}{
		"as many as are kept": {old(keepMigrations, nil), nil},
		"two more":            {old(keepMigrations+2, nil), []string{"m00", "m01"}},
		"young ones": {old(keepMigrations+2, func(i int, m *v1alpha1.Migration) {
			m.CreationTimestamp = metav1.NewTime(now.Add(-keepMigrationsFor + time.Duration(i+1)*time.Second))
		}), nil},
		"an open one stays": {old(keepMigrations+2, func(i int, m *v1alpha1.Migration) {
			if i == 0 {
				m.Status.Result = ""
			}
		}), []string{"m01"}},
		"one whose successor runs stays": {old(keepMigrations+2, func(i int, m *v1alpha1.Migration) {
			m.Status.Claim = &v1alpha1.Claim{PodUID: types.UID([]string{"runs", "ended"}[min(i, 1)])}
		}), []string{"m01"}},
		"another pod's do not count": {old(keepMigrations+2, func(i int, m *v1alpha1.Migration) {
			m.Spec.Pod.Name = fmt.Sprintf("cart-%d", i)
		}), nil},
		"another namespace's do not count": {old(keepMigrations+2, func(i int, m *v1alpha1.Migration) {
			m.Namespace = fmt.Sprintf("shop-%d", i)
		}), nil},
		"pods with a name for each": {old(keepMigrations+2, func(i int, m *v1alpha1.Migration) {
			m.Spec.Pod.Name, m.Spec.Pod.OwnerKind = fmt.Sprintf("cart-%d", i), "ReplicaSet"
		}), []string{"m00", "m01"}},
		"of the same second, the lower epoch is the older": {old(keepMigrations+2, func(_ int, m *v1alpha1.Migration) {
			m.CreationTimestamp = metav1.NewTime(now.Add(-2 * keepMigrationsFor))
		}), []string{"m00", "m01"}},
	} {
		t.Run(name, func(t *testing.T) {
			slices.Reverse(tc.migrations)
			var got []string
			for _, m := range removable(tc.migrations, map[types.UID]bool{"runs": true}, now) {
				got = append(got, m.Name)
			}
			slices.Sort(got)
			if !slices.Equal(got, tc.want) {
				t.Errorf("removable are %v, want %v", got, tc.want)
			}
		})
	}
}
