package scenarios

import (
	"context"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
)

func TestCartOutlivesItsNode(t *testing.T) {
	for _, test := range []struct {
		owner string
		cart  func(namespace string) client.Object
	}{
		{"StatefulSet", func(ns string) client.Object { return workload.StatefulSet(ns) }},
		{"Deployment", func(ns string) client.Object { return workload.Deployment(ns) }},
		{"none", func(ns string) client.Object { return workload.Pod(ns) }},
	} {
		t.Run(test.owner, func(t *testing.T) {
			namespace := scene(t, "cart")
			shop := openShop(t, namespace, test.cart(namespace))
			record := lose(t, shop)
			if err := record.Verdict(); err != nil {
				t.Error(err)
			}
			if record.Target == record.Source {
				t.Errorf("the cart is on %s, which has no power", record.Target)
			}
			t.Run("metrics", func(t *testing.T) { checkRecoveryMetrics(t, namespace, record) })
		})
	}
}

func TestCartOutlivesTwoLossesInARow(t *testing.T) {
	namespace := scene(t, "twice")
	shop := openShop(t, namespace, workload.StatefulSet(namespace))
	first := lose(t, shop)
	if err := first.Verdict(); err != nil {
		t.Fatalf("after the first loss: %v", err)
	}
	if err := shop.StopShopper(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if err := lab.PowerOn(deadline(t), first.Source); err != nil {
		t.Fatal(err)
	}
	if err := deploy.Whole(deadline(t), lab, api, func(string) {}); err != nil {
		t.Fatalf("after node %s got its power back: %v", first.Source, err)
	}
	startShopper(t, shop)
	second := lose(t, shop)
	if err := second.Verdict(); err != nil {
		t.Errorf("after the second loss: %v", err)
	}
	if second.Source != first.Target {
		t.Errorf("the second loss was that of node %s, the cart had come to %s", second.Source, first.Target)
	}
	if second.After.Birth != first.Before.Birth {
		t.Errorf("the cart was born as %s and is %s after two losses", first.Before.Birth, second.After.Birth)
	}
	if second.Migration.Spec.Epoch <= first.Migration.Spec.Epoch {
		t.Errorf("the epoch went from %d to %d; it must grow", first.Migration.Spec.Epoch, second.Migration.Spec.Epoch)
	}
}

// onEveryNode runs a shell command on each node with power.
func onEveryNode(ctx context.Context, command string) (map[string]string, error) {
	nodes, err := lab.Nodes()
	if err != nil {
		return nil, err
	}
	output := map[string]string{}
	for _, node := range nodes {
		if !node.PoweredOn {
			continue
		}
		out, err := lab.NodeExec(ctx, node.Name, "sh", "-c", command)
		if err != nil {
			return nil, err
		}
		output[node.Name] = string(out)
	}
	return output, nil
}
