package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
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
	a.ends(u)
	a.wired(u)
}

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

func (a *restAPI) pods(u users) {
	t := a.t
	var all, first, second httpapi.List[httpapi.Pod]
	controlplane.Eventually(t, 20*time.Second, "the pods are listed", func(context.Context) error {
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
		controlplane.Eventually(t, 30*time.Second, "a checkpoint is asked for again", func(ctx context.Context) error {
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
		controlplane.Eventually(t, 20*time.Second, "the Migration is listed at "+path, func(context.Context) error {
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

// sse is an event of a stream.
type sse struct{ id, name, data string }

// listen opens a stream, and returns its events.
func (a *restAPI) listen(replica int, token, path, last string) <-chan sse {
	t := a.t
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.replicas[replica].url+"/api/v1"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	if last != "" {
		request.Header.Set("Last-Event-ID", last)
	}
	response, err := a.replicas[replica].client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	if got := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || got != "text/event-stream" {
		t.Fatalf("GET %s: %s, %s", path, response.Status, got)
	}
	events := make(chan sse, 100)
	go func() {
		defer close(events)
		var event sse
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			field, value, _ := strings.Cut(lines.Text(), ": ")
			switch field {
			case "id":
				event.id = value
			case "event":
				event.name = value
			case "data":
				event.data = value
			case "":
				if event.name != "" {
					events <- event
				}
				event = sse{}
			}
		}
	}()
	return events
}

// next is the next event, which has to be of that name.
func (a *restAPI) next(events <-chan sse, name string) (e sse, change httpapi.MigrationEvent) {
	a.t.Helper()
	for {
		var ok bool
		select {
		case e, ok = <-events:
		case <-time.After(30 * time.Second):
			a.t.Fatalf("no event %s came", name)
		}
		switch {
		case !ok:
			a.t.Fatalf("the stream ended before the event %s", name)
		case e.name == "synced" && name != "synced":
			continue // it comes from time to time
		case e.name != name:
			a.t.Fatalf("got event %s with %s, want %s", e.name, e.data, name)
		}
		if err := json.Unmarshal([]byte(e.data), &change); err != nil {
			a.t.Fatal(err)
		}
		return e, change
	}
}

func (a *restAPI) streams(u users) {
	t := a.t
	const one = shopMigrations + "/cart-0-1"
	object := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-0-1"}}
	reach := func(phase v1alpha1.Phase) {
		a.changed(object, func() {
			object.Status.Phase = phase
			object.Status.Phases = append(object.Status.Phases, v1alpha1.PhaseTime{Phase: phase, At: metav1.NowMicro()})
		})
	}
	events := a.listen(0, u.viewer, one+"/events", "")
	a.next(events, "reset")
	if _, change := a.next(events, "migration"); change.Type != "ADDED" || change.Migration.Name != "cart-0-1" {
		t.Errorf("the stream begins with %+v", change)
	}
	a.next(events, "synced")
	reach(v1alpha1.PhaseAccepted)
	accepted, change := a.next(events, "migration")
	if change.Type != "MODIFIED" || change.Migration.Status.Phase != "Accepted" || accepted.id != change.Migration.ResourceVersion {
		t.Errorf("a change came as %s %+v", accepted.id, change)
	}
	// What happens while the caller is away comes when it goes on, at another replica.
	reach(v1alpha1.PhasePrepared)
	reach(v1alpha1.PhaseStopping)
	resumed := a.listen(1, u.viewer, one+"/events", accepted.id)
	for _, want := range []string{"Prepared", "Stopping"} {
		if _, change := a.next(resumed, "migration"); change.Migration.Status.Phase != want {
			t.Errorf("the stream goes on with %+v, want phase %s", change, want)
		}
	}
	// What the cluster cannot know begins anew.
	unknown := a.listen(0, u.admin, "/events", "99999999999")
	a.next(unknown, "reset")
	all := a.listen(1, u.viewer, "/events?namespace=shop", "")
	a.next(all, "reset")
	names := []string{}
	for range 3 {
		_, change := a.next(all, "migration")
		names = append(names, change.Migration.Name)
	}
	if slices.Sort(names); !slices.Equal(names, []string{"cart-0-1", "cart-1-1", "lost-1"}) {
		t.Errorf("all Migrations are %v", names)
	}
	a.next(all, "synced")
	a.changed(object, func() { object.Status.Result = v1alpha1.ResultRestored })
	a.next(all, "migration")
	last, change := a.next(resumed, "migration")
	if change.Migration.Status.Result != "Restored" {
		t.Errorf("closed as %+v", change)
	}
	a.next(resumed, "end")
	if _, open := <-resumed; open {
		t.Error("a stream goes on after the Migration was closed")
	}
	a.do(call{token: u.viewer, path: one + "/events", status: 204, header: map[string]string{"Last-Event-ID": last.id}}, nil)
	a.do(call{token: u.viewer, path: one + "/events", status: 422, reason: "Invalid", header: map[string]string{"Last-Event-ID": "x"}}, nil)
	a.do(call{token: u.viewer, path: shopMigrations + "/none/events", status: 404, reason: "NotFound"}, nil)
	a.called["watch-migrations"] = true // a stream that does not end; its events were looked at above
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

// ends: a replica that is told to stop ends its streams, and then itself.
func (a *restAPI) ends(u users) {
	events := a.listen(0, u.admin, "/events", "")
	a.next(events, "reset")
	a.replicas[0].stop()
	select {
	case err := <-a.replicas[0].ended:
		if err != nil {
			a.t.Error(err)
		}
	case <-time.After(20 * time.Second):
		a.t.Fatal("the API does not end")
	}
	for range events { // until it is closed
	}
}

// wired: the watcher as a program serves the API, at the port that it is told.
func (a *restAPI) wired(u users) {
	port, err := strconv.Atoi(controlplane.FreePort(a.t))
	if err != nil {
		a.t.Fatal(err)
	}
	program := (&cluster{controlPlane: a.controlPlane, member: port}).startWatcher(a.t, 1)
	served := &apiReplica{url: "https://127.0.0.1:" + program.apiPort, client: a.replicas[1].client}
	controlplane.Eventually(a.t, 60*time.Second, "the watcher serves the API", func(ctx context.Context) error {
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
