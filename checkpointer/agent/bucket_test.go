package agent

import (
	"testing"
	"testing/synctest"
	"time"

	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/bucket"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
	"github.com/lifeboat-dev/lifeboat/e2e/objectstore"
)

// TestLastGenerationGoesToTheBucket, where there is one, also of a move whose last
// generation another node has.
func TestLastGenerationGoesToTheBucket(t *testing.T) {
	server, err := objectstore.Start(t.Context(), objectstore.Options{Dir: t.TempDir(), Progress: func(step string) { t.Log(step) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	if err := server.MakeBucket(t.Context(), "moves"); err != nil {
		t.Fatal(err)
	}
	m := planned(v1alpha1.StrategyWarm, accepted, stopping)
	m.Status.Restore = &v1alpha1.RestoreStatus{PodUID: "successor", Containers: []v1alpha1.ContainerRestore{{Name: "main"}}}
	w := newWorld(t, []ctrlclient.Object{m}, m)
	w.cfg.Retain = store.Retention{Count: 2}
	if w.store, err = store.Open(t.TempDir(), storetest.NewKeys(), store.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	w.bucket, err = newBucketHolder(bucket.Config{Endpoint: server.Address(), Bucket: "moves", Region: objectstore.Region,
		AccessKey: objectstore.AccessKey, SecretKey: objectstore.SecretKey, Insecure: true}, w.store, nil, w.log)
	if err != nil {
		t.Fatal(err)
	}
	key := store.Key{Namespace: m.Namespace, PodUID: "old"}
	last, err := w.store.Seal(t.Context(), key, store.Generation{Number: 5, TakenAt: time.Now(), PodName: "cart-x", Containers: []string{"main"}},
		storetest.Tree{"main/a": "state"}.Write(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.copyLastLater(t.Context(), m, last.Number)
	nodetest.Eventually(t, 20*time.Second, "the bucket has the last generation", func() bool {
		held, err := w.bucket.Held(t.Context(), key)
		return err == nil && len(held) == 1 && held[0].Number == last.Number
	})
}

// TestLastGenerationWaitsForTheRestore: until a container is back, its pages are wanted elsewhere.
func TestLastGenerationWaitsForTheRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		waits := planned(v1alpha1.StrategyWarm, accepted, stopping)
		if open := newWorld(t, []ctrlclient.Object{waits}, waits).awaitRestored(t.Context(), waits); !open || time.Since(began) != restoredBy {
			t.Errorf("it waited %s, and the move is open: %t", time.Since(began), open)
		}
		began = time.Now()
		closed := planned(v1alpha1.StrategyWarm, accepted, stopping)
		closed.Status.Result = v1alpha1.ResultRestored
		if open := newWorld(t, []ctrlclient.Object{closed}, closed).awaitRestored(t.Context(), closed); open || time.Since(began) != 0 {
			t.Errorf("it waited %s, and the move is open: %t", time.Since(began), open)
		}
	})
}
