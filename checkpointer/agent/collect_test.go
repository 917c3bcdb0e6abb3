package agent

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
)

// TestOrphansAreRemoved: the data of pods that are gone is removed after an hour, and where
// the disk is short much earlier, but never what a Migration still needs, nor early what
// nobody has the state of.
func TestOrphansAreRemoved(t *testing.T) {
	moved := func(name string, result v1alpha1.Result) *v1alpha1.Migration {
		return &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			Spec:   v1alpha1.MigrationSpec{Pod: v1alpha1.PodIdentity{Name: name, UID: types.UID(name)}},
			Status: v1alpha1.MigrationStatus{Result: result}}
	}
	objects := []ctrlclient.Object{
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "there", UID: "there"}},
		moved("open", ""), moved("failed", v1alpha1.ResultFailed), moved("cold", v1alpha1.ResultColdStarted), moved("restored", v1alpha1.ResultRestored),
	}
	w := newWorld(t, nil, objects...)
	var err error
	if w.store, err = store.Open(t.TempDir(), storetest.NewKeys(), store.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	for pod, age := range map[string]time.Duration{
		"there": 2 * orphanAge, "open": 2 * orphanAge, "failed": orphanAge / 2, "cold": orphanAge / 2, "restored": orphanAge / 2,
		"gone": orphanAge / 2, "just-gone": shortAge / 2, "long-gone": 2 * orphanAge,
	} {
		if _, err := w.store.Seal(t.Context(), store.Key{Namespace: "shop", PodUID: pod},
			store.Generation{Number: 1, TakenAt: time.Now().Add(-age), PodName: pod, Containers: []string{"main"}}, storetest.Tree{"main/a": pod}.Write(t), nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		early bool
		want  []string
	}{
		{false, []string{"cold", "failed", "gone", "just-gone", "open", "restored", "there"}},
		{true, []string{"cold", "failed", "just-gone", "open", "there"}},
	} {
		if err := w.removeOrphans(t.Context(), step.early); err != nil {
			t.Fatal(err)
		}
		keys, err := w.store.Pods()
		if err != nil {
			t.Fatal(err)
		}
		var left []string
		for _, key := range keys {
			left = append(left, key.PodUID)
		}
		if slices.Sort(left); !slices.Equal(left, step.want) {
			t.Errorf("early %t leaves %q, want %q", step.early, left, step.want)
		}
	}
}
