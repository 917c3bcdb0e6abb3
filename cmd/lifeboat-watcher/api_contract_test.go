package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
	"github.com/lifeboat-dev/lifeboat/watcher/httpapi"
)

// TestAPI calls every operation at a real API server, with tokens of ServiceAccounts, and
// checks each answer against the specification that is served.
func TestAPI(t *testing.T) {
	a := startAPI(t)
	failover := map[string]string{v1alpha1.AnnotationFailover: "true", v1alpha1.AnnotationStrategy: "warm"}
	for _, node := range []string{"n1", "n2"} {
		a.makeNode(nodeConfig{Name: node, IP: "127.0.0.1"})
		a.create(&v1alpha1.Fence{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: v1alpha1.FenceSpec{State: v1alpha1.FenceRunning, Epoch: 1}})
	}
	cart := a.runningPod("cart-0", "n1", failover)
	a.runningPod("cart-1", "n1", failover)
	a.runningPod("plain", "n1", nil)
	a.create(&v1alpha1.Checkpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-0"}, Spec: v1alpha1.CheckpointSpec{PodUID: cart.UID, NodeName: "n1"}})
	u := users{
		viewer: a.account("viewer", "lifeboat-view", false),
		mover:  a.account("mover", "lifeboat-edit", false),
		admin:  a.account("operator", "lifeboat-edit", true),
	}
	a.refusals(u)
	a.pods(u)
	a.checkpoints(u)
	a.moves(u)
	a.repeated(u)
	a.cancels(u)
	a.streams(u)
	a.cluster(u)
	a.clones(u)

	for path, item := range a.document.Paths.Map() {
		for method, operation := range item.Operations() {
			if !a.called[operation.OperationID] {
				t.Errorf("%s %s was never called with success: the contract is not tested there", method, path)
			}
		}
	}
	got := a.do(call{token: u.admin, path: "/nodes", status: 200}, nil)
	got.body = []byte(strings.Replace(string(got.body), `"name":"n1"`, `"name":1`, 1))
	if a.conforms(call{method: http.MethodGet, path: "/nodes"}, got) == nil {
		t.Error("an answer that breaks the specification goes unnoticed")
	}
	a.notes(u)
	a.underWay(u)
	a.ends(u)
	a.wired(u)
}

func (a *restAPI) pods(u users) {
	t := a.t
	var all, first, second httpapi.List[httpapi.Pod]
	controlplane.Eventually(t, "the pods are listed", func(context.Context) error {
		a.do(call{token: u.viewer, path: "/pods?namespace=shop", status: 200}, &all)
		if len(all.Items) != 2 {
			return fmt.Errorf("%d pods", len(all.Items))
		}
		return nil
	})
	a.do(call{token: u.viewer, path: "/pods?namespace=shop&limit=1", status: 200}, &first)
	a.do(call{replica: 1, token: u.viewer, path: "/pods?namespace=shop&limit=1&continue=" + first.Continue, status: 200}, &second)
	if len(first.Items) != 1 || len(second.Items) != 1 || first.Items[0].Name != "cart-0" || second.Items[0].Name != "cart-1" || second.Continue != "" {
		t.Errorf("two pages of one pod each are %+v and %+v", first, second)
	}
	var pod httpapi.Pod
	a.do(call{token: u.viewer, path: "/namespaces/shop/pods/cart-0", status: 200}, &pod)
	if pod.NodeName != "n1" || !pod.Ready || pod.Strategy != "Warm" || pod.Checkpoint == nil {
		t.Errorf("the pod is shown as %+v", pod)
	}
	a.do(call{token: u.viewer, path: "/namespaces/shop/pods/cart-9", status: 404, reason: "NotFound"}, nil)
	a.do(call{token: u.viewer, path: "/namespaces/shop/pods/plain", status: 404, reason: "NotProtected"}, nil)
	for _, query := range []string{"limit=0", "limit=many", "continue=%25", "namespace=UPPER"} {
		token := u.viewer
		if strings.HasPrefix(query, "namespace") {
			token = u.admin
		} else {
			query += "&namespace=shop"
		}
		a.do(call{token: token, path: "/pods?" + query, status: 422, reason: "Invalid"}, nil)
	}
}

func (a *restAPI) checkpoints(u users) {
	t := a.t
	var asked httpapi.CheckpointRequest
	const path = "/namespaces/shop/pods/cart-0/checkpoint"
	a.do(call{token: u.mover, method: "POST", path: path, status: 202}, &asked)
	checkpoint := &v1alpha1.Checkpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-0"}}
	request := func() string {
		if err := a.Get(t.Context(), client.ObjectKeyFromObject(checkpoint), checkpoint); err != nil {
			t.Fatal(err)
		}
		return checkpoint.Annotations[v1alpha1.AnnotationCheckpointRequested]
	}
	before := request()
	if at, err := time.Parse(time.RFC3339Nano, before); err != nil || !at.Equal(asked.RequestedAt) || asked.Done {
		t.Errorf("asked at %s, which says %q", asked.RequestedAt, before)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		// The checkpointer answers as soon as it is asked.
		controlplane.Eventually(t, "a checkpoint is asked for again", func(ctx context.Context) error {
			if err := a.Get(ctx, client.ObjectKeyFromObject(checkpoint), checkpoint); err != nil {
				return err
			}
			now := checkpoint.Annotations[v1alpha1.AnnotationCheckpointRequested]
			if now == before {
				return errNotYet
			}
			at, _ := time.Parse(time.RFC3339Nano, now)
			checkpoint.Status.Generation, checkpoint.Status.Requested = 7, ptr.To(metav1.NewMicroTime(at))
			return a.Status().Update(ctx, checkpoint)
		})
	})
	a.do(call{token: u.mover, method: "POST", path: path + "?wait=30", status: 200}, &asked)
	wait.Wait()
	if !asked.Done || asked.Checkpoint.Generation != 7 {
		t.Errorf("the checkpoint that was waited for is %+v", asked)
	}
	a.do(call{token: u.mover, method: "POST", path: "/namespaces/shop/pods/plain/checkpoint", status: 404, reason: "NotProtected"}, nil)
	a.do(call{token: u.mover, method: "POST", path: "/namespaces/shop/pods/cart-1/checkpoint", status: 409, reason: "NoCheckpoint"}, nil)
	a.do(call{token: u.mover, method: "POST", path: path + "?wait=3600", status: 422, reason: "Invalid"}, nil)
}

const shopMigrations = "/namespaces/shop/migrations"

func (a *restAPI) moves(u users) {
	t := a.t
	create := call{token: u.mover, method: "POST", path: shopMigrations}
	for _, wrong := range []struct {
		body, reason string
		status       int
	}{
		{`{"pod":"cart-0","strategy":"Fast"}`, "Invalid", 422},
		{`{"pod":"cart-0","strategy":"Failover"}`, "Invalid", 422},
		{`{"pod":"cart-0","node":"n2"}`, "Invalid", 422},
		{`{}`, "Invalid", 422},
		{`{"pod":`, "Invalid", 400},
		{`{"pod":"` + strings.Repeat("x", 70_000) + `"}`, "Invalid", 413},
		{`{"pod":"cart-0","targetNode":"n9"}`, "Invalid", 422},
		{`{"pod":"cart-0","targetNode":"n1"}`, "Invalid", 422},
		{`{"pod":"cart-9"}`, "NotFound", 404},
		{`{"pod":"cart-0","podUID":"another"}`, "PodReplaced", 409},
		{`{"pod":"plain","strategy":"Live"}`, "NotProtected", 422},
	} {
		c := create
		c.body, c.status, c.reason = wrong.body, wrong.status, wrong.reason
		a.do(c, nil)
	}
	var m, again httpapi.Migration
	create.body, create.status, create.header = `{"pod":"cart-0","targetNode":"n2","deadlineSeconds":60}`, 201, map[string]string{"Idempotency-Key": "first"}
	got := a.do(create, &m)
	if m.Spec.Strategy != "Warm" || m.Spec.TargetNode != "n2" || m.Spec.DeadlineSeconds != 60 || m.Spec.Reason != "Requested" ||
		m.RequestedBy != "system:serviceaccount:shop:mover" || got.header.Get("Location") != "/api/v1"+shopMigrations+"/"+m.Name {
		t.Errorf("created %+v at %s", m, got.header.Get("Location"))
	}
	create.replica, create.status = 1, 200
	if a.do(create, &again); again.UID != m.UID {
		t.Errorf("the same request led to %s, and on the other replica to %s", m.Name, again.Name)
	}
	create.body, create.status, create.reason = `{"pod":"cart-0"}`, 422, "IdempotencyKeyReused"
	a.do(create, nil)
	create.header, create.status, create.reason = nil, 409, "AlreadyMoving"
	a.do(create, nil)

	a.do(call{token: u.viewer, path: shopMigrations + "/" + m.Name, status: 200}, &again)
	if again.UID != m.UID {
		t.Errorf("the Migration is shown as %+v", again)
	}
	a.do(call{token: u.viewer, path: shopMigrations + "/none", status: 404, reason: "NotFound"}, nil)
	for _, path := range []string{shopMigrations + "?open=true", "/migrations?pod=cart-0", "/migrations?namespace=shop"} {
		controlplane.Eventually(t, "the Migration is listed at "+path, func(context.Context) error {
			var list httpapi.List[httpapi.Migration]
			if a.do(call{token: u.admin, path: path, status: 200}, &list); len(list.Items) != 1 || list.Items[0].UID != m.UID {
				return fmt.Errorf("%+v", list)
			}
			return nil
		})
	}
}

// repeated: of one request that arrives many times at once, on both replicas, one
// Migration comes.
func (a *restAPI) repeated(u users) {
	t := a.t
	var wait sync.WaitGroup
	got := make([]answer, 8)
	for i := range got {
		wait.Go(func() {
			got[i] = a.send(a.replicas[i%2], u.mover, "POST", "/api/v1"+shopMigrations, `{"pod":"cart-1"}`, map[string]string{"Idempotency-Key": "storm"})
		})
	}
	wait.Wait()
	created, names := 0, map[string]bool{}
	for _, answer := range got {
		var m httpapi.Migration
		if err := json.Unmarshal(answer.body, &m); err != nil || answer.status > 201 {
			t.Fatalf("%d: %s", answer.status, answer.body)
		}
		names[m.UID] = true
		if answer.status == http.StatusCreated {
			created++
		}
	}
	if created != 1 || len(names) != 1 {
		t.Errorf("one request that was sent %d times created %d Migrations, and was answered with %d", len(got), created, len(names))
	}
}

func (a *restAPI) cancels(u users) {
	t := a.t
	cancel := call{token: u.mover, method: "DELETE", path: shopMigrations + "/cart-1-1?reason=not+now", status: 202}
	var m httpapi.Migration
	a.do(cancel, &m)
	if want := "not now (by system:serviceaccount:shop:mover)"; m.CancelRequested != want {
		t.Errorf("cancelled because of %q, want %q", m.CancelRequested, want)
	}
	a.do(cancel, nil) // again does no harm
	object := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-1-1"}}
	a.changed(object, func() {
		object.Status.Phase = v1alpha1.PhaseStopping
		object.Status.Phases = []v1alpha1.PhaseTime{{Phase: v1alpha1.PhaseStopping, At: metav1.NowMicro()}}
	})
	cancel.status, cancel.reason = 409, "TooLateToCancel"
	a.do(cancel, nil)
	a.changed(object, func() { object.Status.Result = v1alpha1.ResultRestored })
	cancel.reason = "Closed"
	a.do(cancel, nil)
	a.create(&v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "lost-1"}, Spec: v1alpha1.MigrationSpec{
		Pod: v1alpha1.PodIdentity{Name: "lost", UID: "u"}, SourceNode: "n1", Strategy: v1alpha1.StrategyFailover, Reason: v1alpha1.MigrationNodeLost, Epoch: 1, LostAt: metav1.NowMicro()}})
	a.do(call{token: u.mover, method: "DELETE", path: shopMigrations + "/lost-1", status: 409, reason: "NotPlanned"}, nil)
}

func (a *restAPI) cluster(u users) {
	t := a.t
	var nodes httpapi.List[httpapi.Node]
	a.do(call{token: u.admin, path: "/nodes", status: 200}, &nodes)
	if len(nodes.Items) != 2 || nodes.Items[0].Ready != "True" || nodes.Items[0].Fence.State != "Running" || nodes.Items[0].ProtectedPods != 2 {
		t.Errorf("the nodes are %+v", nodes.Items)
	}

	var pause httpapi.Pause
	a.do(call{token: u.admin, path: "/pause", status: 200}, &pause)
	a.do(call{token: u.admin, method: "DELETE", path: "/pause", status: 200}, &pause)
	for _, reason := range []string{"switches are exchanged", "still"} { // the first one makes the ConfigMap
		if a.do(call{token: u.admin, method: "PUT", path: "/pause", body: `{"reason":"` + reason + `"}`, status: 200}, &pause); !pause.Paused || pause.Reason != reason {
			t.Errorf("paused because of %s: %+v", reason, pause)
		}
	}
	config := &corev1.ConfigMap{}
	if err := a.Get(t.Context(), client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: v1alpha1.ConfigName}, config); err != nil || config.Data[v1alpha1.ConfigRecoveries] != "paused: still" {
		t.Errorf("the ConfigMap says %q, %v", config.Data, err)
	}
	pause = httpapi.Pause{}
	if a.do(call{token: u.admin, method: "DELETE", path: "/pause", status: 200}, &pause); pause.Paused {
		t.Errorf("resumed: %+v", pause)
	}
	a.do(call{token: u.admin, method: "PUT", path: "/pause", body: `{"reason":""}`, status: 422, reason: "Invalid"}, nil)

	// Both carts' Migrations are closed by now.
	var done, again httpapi.Rebalance
	rebalance := call{token: u.admin, method: "POST", path: "/rebalance", body: `{"nodes":["n1"],"maxPods":1}`, status: 201, header: map[string]string{"Idempotency-Key": "level"}}
	a.do(rebalance, &done)
	if len(done.Migrations) != 1 || done.Migrations[0].Name != "cart-0-2" || done.Migrations[0].Spec.Reason != "Rebalance" || done.Left != 1 {
		t.Errorf("rebalanced: %+v", done)
	}
	rebalance.replica, rebalance.status = 1, 200
	if a.do(rebalance, &again); len(again.Migrations) != 1 || again.Migrations[0].UID != done.Migrations[0].UID {
		t.Errorf("the same request led to %+v", again)
	}
	rebalance.header, rebalance.status = nil, 201
	again = httpapi.Rebalance{}
	if a.do(rebalance, &again); len(again.Migrations) != 1 || again.Migrations[0].Name != "cart-1-2" || len(again.Skipped) != 1 || again.Skipped[0].Reason != "AlreadyMoving" {
		t.Errorf("the rest: %+v", again)
	}
	rebalance.body, rebalance.status, rebalance.reason = `{"nodes":["n9"]}`, 422, "Invalid"
	a.do(rebalance, nil)
	rebalance.body = `{"nodes":[]}`
	a.do(rebalance, nil)
}

// wired: the watcher as a program serves the API, at the port that it is told.
func (a *restAPI) wired(u users) {
	port, err := strconv.Atoi(controlplane.FreePort(a.t))
	if err != nil {
		a.t.Fatal(err)
	}
	program := (&cluster{controlPlane: a.controlPlane, member: port}).startWatcher(a.t, 1)
	served := &apiReplica{url: "https://127.0.0.1:" + program.apiPort, client: a.replicas[1].client}
	controlplane.Eventually(a.t, "the watcher serves the API", func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, served.url+"/openapi.json", nil)
		if err != nil {
			return err
		}
		response, err := served.client.Do(request)
		if err == nil {
			response.Body.Close()
		}
		return err
	})
	a.replicas = append(a.replicas, served)
	a.do(call{replica: 2, token: u.viewer, path: "/pods?namespace=shop", status: 200}, nil)
	a.do(call{replica: 2, path: "/pods?namespace=shop", status: 401, reason: "Unauthenticated"}, nil)
}
