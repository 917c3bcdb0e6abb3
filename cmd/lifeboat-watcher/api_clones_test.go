package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
	"github.com/lifeboat-dev/lifeboat/watcher/httpapi"
)

// clones: a new pod is asked for by those who may create pods, and what cannot be had is
// said at once.
func (a *restAPI) clones(u users) {
	t := a.t
	const path = "/namespaces/shop/pods/shelf-1/clones"
	shelf := a.runningPod("shelf-1", "n1", map[string]string{v1alpha1.AnnotationFailover: "true"}, admitted)
	disk := a.runningPod("disk-1", "n1", map[string]string{v1alpha1.AnnotationFailover: "true"}, admitted, func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "disk"}}}}
	})
	checkpoint := &v1alpha1.Checkpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shelf-1"}, Spec: v1alpha1.CheckpointSpec{PodUID: shelf.UID, NodeName: "n1"}}
	a.create(checkpoint)
	// Who may move pods may not yet make them.
	a.do(call{token: u.mover, method: "POST", path: path, body: `{}`, status: 403, reason: "Forbidden"}, nil)
	a.create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "maker"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"create"}}}})
	maker := a.account("maker", "lifeboat-edit", false)
	a.create(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "makes"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "maker"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "shop", Name: "maker"}}})
	controlplane.Eventually(t, "the maker may create pods", func(context.Context) error {
		if got := a.send(a.replicas[0], maker, "POST", "/api/v1"+path, `{}`, nil); got.status == 403 {
			return errNotYet
		}
		return nil
	})
	ask := call{token: maker, method: "POST", path: path}
	ask.body, ask.status, ask.reason = `{}`, 409, "NoCheckpoint"
	a.do(ask, nil)
	a.changed(checkpoint, func() { checkpoint.Status.Generation = 7 })
	for _, wrong := range []struct {
		body, reason string
		status       int
	}{
		{`{"generation":99}`, "NoCheckpoint", 422},
		{`{"generation":-1}`, "Invalid", 422},
		{`{"name":"Not A Name"}`, "Invalid", 422},
		{`{"name":"cart-0"}`, "NameTaken", 409},
		{`{"podUID":"another"}`, "PodReplaced", 409},
		{`{"targetNode":"n9"}`, "Invalid", 422},
		{`{"labels":{"no label":"x"}}`, "Invalid", 422},
		{`{"labels":{"lifeboat.dev/clone":"x"}}`, "Invalid", 422},
		{`{"services":true}`, "Invalid", 422},
	} {
		ask.body, ask.status, ask.reason = wrong.body, wrong.status, wrong.reason
		a.do(ask, nil)
	}
	a.do(call{token: maker, method: "POST", path: "/namespaces/shop/pods/" + disk.Name + "/clones", body: `{}`, status: 422, reason: "NotCloned"}, nil)
	a.do(call{token: maker, method: "POST", path: "/namespaces/shop/pods/plain/clones", body: `{}`, status: 404, reason: "NotProtected"}, nil)
	a.do(call{token: maker, method: "POST", path: "/namespaces/shop/pods/nobody/clones", body: `{}`, status: 404, reason: "NotFound"}, nil)

	var m, again httpapi.Migration
	ask.body, ask.status, ask.header = `{"name":"shelf-warm","generation":6,"labels":{"tier":"warm"},"targetNode":"n2"}`, 201, map[string]string{"Idempotency-Key": "clone"}
	got := a.do(ask, &m)
	if c := m.Spec.Clone; c == nil || c.Pod.Name != "shelf-1" || c.Pod.UID != string(shelf.UID) || c.Generation != 6 || c.Labels["tier"] != "warm" ||
		m.Spec.Pod.Name != "shelf-warm" || m.Spec.Pod.UID != "" || m.Spec.Strategy != "Clone" || got.header.Get("Location") != "/api/v1"+shopMigrations+"/"+m.Name {
		t.Errorf("created %+v at %s", m.Spec, got.header.Get("Location"))
	}
	ask.replica, ask.status = 1, 200
	if a.do(ask, &again); again.UID != m.UID {
		t.Errorf("the request was made twice: %s and %s", m.Name, again.Name)
	}
	ask.body, ask.status, ask.reason = `{"name":"shelf-hot"}`, 422, "IdempotencyKeyReused"
	a.do(ask, nil)
	ask.header, ask.body, ask.status, ask.reason = nil, `{"name":"shelf-warm"}`, 409, "NameTaken"
	a.do(ask, nil)
	var listed httpapi.List[httpapi.Migration]
	controlplane.Eventually(t, "the clone is listed", func(context.Context) error {
		a.do(call{token: maker, path: shopMigrations + "?pod=shelf-1", status: 200}, &listed)
		if len(listed.Items) != 1 || listed.Items[0].UID != m.UID {
			return errNotYet
		}
		return nil
	})
	a.do(call{token: maker, method: "DELETE", path: shopMigrations + "/" + m.Name, status: 202}, nil)
	a.clonesByObject(t, u, maker, shelf)
}

// clonesByObject: who creates the Migration himself needs the same rights.
func (a *restAPI) clonesByObject(t *testing.T, u users, maker string, shelf *corev1.Pod) {
	try := func(ctx context.Context, token string) error {
		c, err := client.New(a.Config(token), client.Options{Scheme: a.Scheme()})
		if err != nil {
			t.Fatal(err)
		}
		return c.Create(ctx, v1alpha1.NewClone(shelf, v1alpha1.Clone{}, nil, time.Now()), client.DryRunAll)
	}
	controlplane.Eventually(t, "the policy is in force", func(ctx context.Context) error {
		err := try(ctx, u.mover)
		if err == nil {
			return errors.New("who may not create pods asks for a clone")
		}
		if !strings.Contains(err.Error(), "allowed to create pods") {
			return err
		}
		return nil
	})
	if err := try(t.Context(), maker); err != nil {
		t.Errorf("who may create pods asks for a clone: %v", err)
	}
}
