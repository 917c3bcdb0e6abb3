package scenarios

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/lifeboat-dev/lifeboat/e2e/cart"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// secondPort is where the second container's cart listens.
const secondPort = workload.Port + 1

func TestContainersOfAPodComeBackTogether(t *testing.T) {
	namespace := scene(t, "two")
	object := workload.Pod(namespace)
	second := *object.Spec.Containers[0].DeepCopy()
	second.Name = "ledger"
	second.Args = []string{"serve", fmt.Sprintf("--listen=:%d", secondPort)}
	second.Ports[0].ContainerPort = secondPort
	second.ReadinessProbe.HTTPGet.Port = intstr.FromInt32(secondPort)
	object.Spec.Containers = append(object.Spec.Containers, second)
	create(t, object)
	pod, err := observe.ReadyPod(deadline(t), api, namespace, workload.Labels)
	if err != nil {
		t.Fatal(err)
	}
	births := birthsIn(t, pod)
	writer := startDoubleEntry(t, pod)
	if _, err := observe.Durable(deadline(t), api, pod, 4); err != nil {
		t.Fatal(err)
	}
	if err := lab.PowerOff(deadline(t), pod.Spec.NodeName); err != nil {
		t.Fatal(err)
	}
	writer.Wait()
	migration := restored(t, pod)
	if n := len(migration.Status.Restore.Containers); n != 2 {
		t.Errorf("the Migration tells of %d containers: %+v", n, migration.Status.Restore.Containers)
	}
	after, err := observe.ReadyPod(deadline(t), api, namespace, workload.Labels)
	if err != nil {
		t.Fatal(err)
	}
	if now := birthsIn(t, after); now != births {
		t.Errorf("the containers' processes are %v, were %v", now, births)
	}
	carts, ledger := entriesIn(t, after, workload.Port), entriesIn(t, after, secondPort)
	if len(ledger) == 0 {
		t.Error("the second container came back empty")
	}
	// Every entry went into the first cart before the second: of one moment, the
	// first has all that the second has, and at most the one entry that was between.
	for sku := range ledger {
		if !carts[sku] {
			t.Errorf("%s is in the second container and not in the first: they are not of the same moment", sku)
		}
	}
	if ahead := len(carts) - len(ledger); ahead > 1 {
		t.Errorf("the first container is %d entries ahead of the second: they are not of the same moment", ahead)
	}
}

// birthsIn returns the births of both containers' carts.
func birthsIn(t *testing.T, pod *corev1.Pod) (births [2]string) {
	t.Helper()
	for i, port := range []int{workload.Port, secondPort} {
		life, err := loss.ClientAt(lab, pod, port).Life(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		births[i] = life.Birth
	}
	return births
}

func entriesIn(t *testing.T, pod *corev1.Pod, port int) map[string]bool {
	t.Helper()
	snapshot, err := loss.ClientAt(lab, pod, port).Snapshot(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]bool{}
	for _, item := range snapshot.Carts["entries"] {
		entries[item.SKU] = true
	}
	return entries
}

// startDoubleEntry puts each entry first into one container's cart, then into the
// other's, until a write fails.
func startDoubleEntry(t *testing.T, pod *corev1.Pod) *sync.WaitGroup {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	both := [2]cart.Client{loss.ClientAt(lab, pod, workload.Port), loss.ClientAt(lab, pod, secondPort)}
	var done sync.WaitGroup
	done.Go(func() {
		for n := 1; ; n++ {
			for _, c := range both {
				if _, err := c.Add(ctx, "entries", cart.Item{SKU: fmt.Sprintf("entry-%06d", n), Quantity: 1}); err != nil {
					return
				}
			}
			time.Sleep(5 * time.Millisecond) // the lab's processors are few
		}
	})
	return &done
}
