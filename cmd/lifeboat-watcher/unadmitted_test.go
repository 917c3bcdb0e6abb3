package main

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

func admitted(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr.To(v1alpha1.RuntimeClassName) }

// A pod that no admission saw is not registered on its node, so that nothing there
// stops it. And a successor that no admission saw would not be restored.
func unadmitted(t *testing.T, c *cluster) {
	c.detachWebhook(t)
	c.awaitState(t, "n5", v1alpha1.FenceRunning) // it was lost before
	running := c.makePod(t, "stray-0", ownedBy("StatefulSet", "stray"), onNode("n5"))
	c.run(t, running)
	lost := c.makePod(t, "late-0", ownedBy("StatefulSet", "late"), onNode("n5"), admitted)
	c.run(t, lost)
	c.powerOff(t, "n5")
	m := c.migrationFor(t, lost.UID, v1alpha1.PhaseDeleted)

	replaced := func(pod *corev1.Pod) {
		t.Helper()
		controlplane.Eventually(t, "pod "+pod.Name+", which was not admitted, is deleted", func(ctx context.Context) error {
			left := &corev1.Pod{}
			err := c.Get(ctx, client.ObjectKeyFromObject(pod), left)
			if apierrors.IsNotFound(err) {
				return nil
			}
			return errors.Join(err, fmt.Errorf("it is there, deleted at %s", left.DeletionTimestamp))
		})
	}
	replaced(c.makePod(t, "late-0", ownedBy("StatefulSet", "late")))
	replaced(c.makePod(t, "late-0", ownedBy("StatefulSet", "late"), onNode("n5"))) // as the stock scheduler does, which takes the node for alive
	next := c.makePod(t, "late-0", ownedBy("StatefulSet", "late"), admitted)
	c.claimAndBind(t, m, next, "n3")
	c.restored(t, m, next, m.Spec.LostAt.Add(-time.Second))
	c.run(t, next)
	if m = c.closed(t, m); m.Status.Result != v1alpha1.ResultRestored {
		t.Errorf("result %s, reason %s: %s", m.Status.Result, m.Status.Reason, m.Status.Message)
	}

	c.event(t, "stray-0", "NotRecovered")
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(running), running); err != nil || running.DeletionTimestamp != nil {
		t.Errorf("the pod that may be running was deleted: %v", err)
	}
	var list v1alpha1.MigrationList
	if err := c.List(t.Context(), &list, client.InNamespace("shop")); err != nil {
		t.Fatal(err)
	}
	for _, other := range list.Items {
		if name := other.Spec.Pod.Name; name == "stray-0" || name == "late-0" && other.UID != m.UID {
			t.Errorf("migration %s was recorded for a pod that was not admitted", other.Name)
		}
	}
}
