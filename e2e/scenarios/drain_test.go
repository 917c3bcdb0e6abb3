package scenarios

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// TestDrainLosesNothing drains a node with the stock kubectl, on which a StatefulSet's, a
// Deployment's and a bare pod run, each of them in use. kubectl waits until they have
// moved, and none of them has lost what it has acknowledged.
func TestDrainLosesNothing(t *testing.T) {
	namespaces := []string{scene(t, "drain-set"), scene(t, "drain-deployment"), scene(t, "drain-bare")}
	const node = "n1"
	var uncordon []func()
	for _, other := range []string{"n2", "n3"} {
		uncordon = append(uncordon, cordon(t, other))
	}
	loadRedis(t)
	shops := []*loss.Shop{
		fillShop(t, namespaces[0], workload.StatefulSet(namespaces[0])),
		fillShop(t, namespaces[1], workload.Deployment(namespaces[1])),
	}
	create(t, redisPod(namespaces[2]))
	redis, err := observe.ReadyPod(deadline(t), api, namespaces[2], redisLabels)
	if err != nil {
		t.Fatal(err)
	}
	if redis.Spec.NodeName != node {
		t.Fatalf("redis is on node %s", redis.Spec.NodeName)
	}
	for _, f := range uncordon {
		f()
	}
	conn := connect(t, redis)
	fill(t, conn)
	before, runID := digestOf(t, conn), info(t, conn, "run_id")
	births := map[*loss.Shop]string{}
	for _, shop := range shops {
		startShopper(t, shop)
		pod, err := observe.ReadyPod(deadline(t), api, shop.Namespace, workload.Labels)
		if err != nil {
			t.Fatal(err)
		}
		snapshot, err := shop.At(pod).Snapshot(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		births[shop] = snapshot.Birth
	}
	counter := startCounter(t, redis)
	if _, err := observe.Durable(deadline(t), api, redis, 1); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if out, err := exec.CommandContext(ctx, lab.Kubectl(), "--kubeconfig", lab.Kubeconfig(), "uncordon", node).CombinedOutput(); err != nil {
			t.Errorf("%s: %v", out, err)
		}
	})
	began := time.Now()
	cmd := exec.CommandContext(deadline(t), lab.Kubectl(), "--kubeconfig", lab.Kubeconfig(), "drain", node,
		"--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout", patience.String())
	out, err := cmd.CombinedOutput()
	t.Logf("after %s:\n%s", time.Since(began).Round(time.Millisecond), out)
	if err != nil {
		t.Fatal(err)
	}
	for i, shop := range shops {
		checkDrained(t, namespaces[i])
		checkMoved(t, shop, nil, births[shop])
	}
	checkDrained(t, namespaces[2])
	checkOneRedis(t, namespaces[2], redis, false, runID, counter, time.Now())
	now, err := observe.ReadyPod(deadline(t), api, namespaces[2], redisLabels)
	if err != nil {
		t.Fatal(err)
	}
	if now.Spec.NodeName == node {
		t.Errorf("redis is on node %s, which was drained", node)
	}
	if digest := digestOf(t, connect(t, now)); digest != before {
		t.Errorf("the digest of %d keys is %s, was %s", redisKeys, digest, before)
	}
}

// fillShop opens a shop without a shopper.
func fillShop(t *testing.T, namespace string, owner client.Object) *loss.Shop {
	t.Helper()
	shop := &loss.Shop{Cluster: lab, Client: api, Namespace: namespace}
	if err := shop.Open(deadline(t), owner); err != nil {
		t.Fatalf("open the shop: %v", err)
	}
	return shop
}

// checkDrained requires that the one pod of a namespace that was moved was moved because
// of an eviction, and came back whole.
func checkDrained(t *testing.T, namespace string) {
	t.Helper()
	var moves v1alpha1.MigrationList
	if err := api.List(deadline(t), &moves, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	if len(moves.Items) != 1 {
		t.Errorf("%d migrations are in namespace %s, want one", len(moves.Items), namespace)
	}
	for _, m := range moves.Items {
		t.Logf("%s %s of %s to %s: %s, downtime %s", m.Spec.Strategy, m.Spec.Reason, m.Spec.Pod.Name, m.Status.Claim.NodeName, m.Status.Result, m.Status.Downtime)
		if m.Spec.Reason != v1alpha1.MigrationNodeDrained || m.Status.Result != v1alpha1.ResultRestored || m.Status.RPOSeconds != 0 {
			t.Errorf("migration %s (%s): %s, RPO %s: %s: %s", m.Name, m.Spec.Reason, m.Status.Result, m.Status.RPO, m.Status.Reason, m.Status.Message)
		}
	}
}
