package main

import (
	"context"
	"errors"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
)

type users struct{ viewer, mover, admin string }

// refusals: who is unknown or has no right to it learns nothing and changes nothing.
func (a *restAPI) refusals(u users) {
	if got := a.do(call{path: "/pods", status: 401, reason: "Unauthenticated"}, nil); got.header.Get("WWW-Authenticate") == "" {
		a.t.Error("a caller without a token is not told how to show one")
	}
	a.do(call{token: "nonsense", path: "/pods", status: 401, reason: "Unauthenticated"}, nil)
	move := `{"pod":"cart-0"}`
	for _, c := range []call{
		{token: u.viewer, method: "POST", path: "/namespaces/shop/migrations", body: move},
		{token: u.viewer, method: "POST", path: "/namespaces/shop/pods/cart-0/checkpoint"},
		{token: u.viewer, method: "DELETE", path: "/namespaces/shop/migrations/cart-0-1"},
		{token: u.viewer, path: "/namespaces/bank/migrations"},
		{token: u.viewer, path: "/pods?namespace=bank"},
		{token: u.viewer, path: "/pods"},
		{token: u.viewer, path: "/events"},
		{token: u.mover, path: "/migrations"},
		{token: u.mover, method: "PUT", path: "/pause", body: `{"reason":"x"}`},
		// A right in one namespace is none in the cluster, whatever is asked.
		{token: u.mover, method: "POST", path: "/rebalance?namespace=shop", body: `{"nodes":["n1"]}`},
		{token: u.mover, path: "/nodes?namespace=shop"},
		{token: u.mover, path: "/pause?namespace=shop"},
		{token: u.mover, method: "POST", path: "/namespaces/bank/migrations?namespace=shop", body: move},
	} {
		c.status, c.reason = 403, "Forbidden"
		a.do(c, nil)
	}
	// What is not there is a problem, too.
	for _, c := range []struct {
		method, path, allow string
		status              int
	}{{"GET", "/api/v1/nothing", "", 404}, {"PATCH", "/api/v1/pods", "GET, HEAD", 405}} {
		got := a.send(a.replicas[0], u.admin, c.method, c.path, "", nil)
		if got.status != c.status || got.header.Get("Content-Type") != "application/problem+json" || got.header.Get("Allow") != c.allow {
			a.t.Errorf("%s %s: %d %v %s", c.method, c.path, got.status, got.header, got.body)
		}
	}
}

// notes: who may create and patch Migrations cannot write into them what the watcher
// acts on with its own rights.
func (a *restAPI) notes(u users) {
	t := a.t
	mover, err := client.New(a.Config(u.mover), client.Options{Scheme: a.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	migration := func(name string, strategy v1alpha1.Strategy, annotations map[string]string) *v1alpha1.Migration {
		return &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Annotations: annotations}, Spec: v1alpha1.MigrationSpec{
			Pod: v1alpha1.PodIdentity{Name: "p", UID: "u"}, SourceNode: "n1", Strategy: strategy, Reason: v1alpha1.MigrationRequested, Epoch: 1, LostAt: metav1.NowMicro()}}
	}
	manifest := map[string]string{move.AnnotationManifest: `{"metadata":{"namespace":"kube-system"}}`}
	controlplane.Eventually(t, "the policy is in force", func(ctx context.Context) error {
		err := mover.Create(ctx, migration("forged", v1alpha1.StrategyCold, manifest), client.DryRunAll)
		if err == nil {
			return errors.New("a Migration with a forged manifest is created")
		}
		if !strings.Contains(err.Error(), "Lifeboat's own") {
			return err
		}
		return nil
	})
	if err := mover.Create(t.Context(), migration("forged", v1alpha1.StrategyFailover, nil)); err == nil || !strings.Contains(err.Error(), "only Lifeboat") {
		t.Errorf("a forged failover: %v", err)
	}
	own := migration("own", v1alpha1.StrategyCold, map[string]string{"shop/ticket": "7"})
	if err := mover.Create(t.Context(), own); err != nil {
		t.Fatalf("a move as anybody asks for it: %v", err)
	}
	noted := own.DeepCopy()
	noted.Annotations[v1alpha1.AnnotationPodLabels] = "{}"
	if err := a.Patch(t.Context(), noted, client.MergeFrom(own)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(map[string]string){
		"added":   func(a map[string]string) { a[move.AnnotationManifest] = "{}" },
		"changed": func(a map[string]string) { a[v1alpha1.AnnotationPodLabels] = `{"app":"other"}` },
		"removed": func(a map[string]string) { delete(a, v1alpha1.AnnotationPodLabels) },
	} {
		forged := noted.DeepCopy()
		change(forged.Annotations)
		if err := mover.Patch(t.Context(), forged, client.MergeFrom(noted)); err == nil || !strings.Contains(err.Error(), "Lifeboat's own") {
			t.Errorf("a note that is %s: %v", name, err)
		}
	}
	canceled := noted.DeepCopy()
	canceled.Annotations[v1alpha1.AnnotationCancel] = "changed my mind"
	if err := mover.Patch(t.Context(), canceled, client.MergeFrom(noted)); err != nil {
		t.Errorf("cancel a move: %v", err)
	}
}

// underWay: who may delete Migrations may not delete one by which a pod is being moved, or
// recovered: nobody would finish that.
func (a *restAPI) underWay(u users) {
	t := a.t
	mover, err := client.New(a.Config(u.mover), client.Options{Scheme: a.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		strategy v1alpha1.Strategy
		status   v1alpha1.MigrationStatus
		refused  bool
	}{
		"asked-for":     {strategy: v1alpha1.StrategyLive},
		"held":          {strategy: v1alpha1.StrategyLive, status: v1alpha1.MigrationStatus{Held: &v1alpha1.Held{Reason: v1alpha1.HeldMoveLimit, Since: metav1.NowMicro()}}},
		"accepted":      {strategy: v1alpha1.StrategyLive, status: phased(v1alpha1.PhaseAccepted), refused: true},
		"stopped":       {strategy: v1alpha1.StrategyCold, status: phased(v1alpha1.PhaseAccepted, v1alpha1.PhaseStopping, v1alpha1.PhaseStopped), refused: true},
		"closed":        {strategy: v1alpha1.StrategyLive, status: v1alpha1.MigrationStatus{Phases: phased(v1alpha1.PhaseAccepted).Phases, Result: v1alpha1.ResultWithdrawn}},
		"lost":          {strategy: v1alpha1.StrategyFailover, refused: true},
		"lost-restored": {strategy: v1alpha1.StrategyFailover, status: v1alpha1.MigrationStatus{Result: v1alpha1.ResultRestored}},
	} {
		m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "under-way-" + name}, Spec: v1alpha1.MigrationSpec{
			Pod: v1alpha1.PodIdentity{Name: "p-" + name, UID: "u"}, SourceNode: "n1", Strategy: tc.strategy, Reason: v1alpha1.MigrationRequested, Epoch: 1, LostAt: metav1.NowMicro()}}
		if err := a.Create(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		m.Status = tc.status
		if err := a.Status().Update(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		remove := func(ctx context.Context) error { return mover.Delete(ctx, m) }
		if !tc.refused {
			if err := remove(t.Context()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		controlplane.Eventually(t, name+" is not deleted", func(ctx context.Context) error {
			err := mover.Delete(ctx, m, client.DryRunAll)
			if err == nil {
				return errors.New("it may be deleted")
			}
			if !strings.Contains(err.Error(), "kubectl lifeboat cancel") {
				return err
			}
			return nil
		})
		if err := remove(t.Context()); err == nil {
			t.Errorf("%s: it is deleted", name)
		}
		if err := a.Delete(t.Context(), m); err != nil { // who may do everything anyway
			t.Fatal(err)
		}
	}
}

func phased(phases ...v1alpha1.Phase) (status v1alpha1.MigrationStatus) {
	for _, phase := range phases {
		status.Phase = phase
		status.Phases = append(status.Phases, v1alpha1.PhaseTime{Phase: phase, At: metav1.NowMicro()})
	}
	return status
}
