package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// A node that is cut off goes on running. Its copy of the cart must stand still
// before the other one may start, and must be dead before it could run again.
func TestCutOffCopyStopsBeforeItsSuccessorStarts(t *testing.T) {
	namespace := scene(t, "partition")
	shop := openShop(t, namespace, workload.StatefulSet(namespace))
	lost, err := observe.ReadyPod(deadline(t), api, namespace, workload.Labels)
	if err != nil {
		t.Fatal(err)
	}
	before, err := shop.At(lost).Snapshot(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	old := copyOn(t, lost)

	cut := time.Now()
	if err := lab.CutNetwork(deadline(t), lost.Spec.NodeName); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := lab.HealNetwork(ctx, lost.Spec.NodeName); err != nil {
			t.Errorf("heal the network: %v", err)
		}
	})
	err = observe.Until(deadline(t), "the copy that was cut off is frozen", func(ctx context.Context) (bool, string, error) {
		frozen, err := old.frozen(ctx)
		return frozen, fmt.Sprintf("frozen: %t", frozen), err
	})
	if err != nil {
		t.Fatal(err)
	}
	frozen := time.Now()

	migration, err := observe.Closed(deadline(t), api, lost)
	if err != nil {
		t.Fatal(err)
	}
	if migration.Status.Result != v1alpha1.ResultRestored {
		t.Errorf("the result is %s: %s", migration.Status.Result, migration.Status.Message)
	}
	for _, phase := range migration.Status.Phases {
		if phase.Phase == v1alpha1.PhaseFenced {
			t.Logf("frozen %.2f s after the cut, fenced %.2f s after it", frozen.Sub(cut).Seconds(), phase.At.Sub(cut).Seconds())
			if frozen.After(phase.At.Time) {
				t.Errorf("the old copy was seen frozen %s after its node counted as fenced", frozen.Sub(phase.At.Time))
			}
		}
	}
	successor, err := observe.ReadyPod(deadline(t), api, namespace, workload.Labels)
	if err != nil {
		t.Fatal(err)
	}
	after, err := shop.At(successor).Snapshot(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if after.Birth != before.Birth {
		t.Errorf("the cart was born as %s and is %s", before.Birth, after.Birth)
	}
	if stillFrozen, err := old.frozen(deadline(t)); err != nil || !stillFrozen {
		t.Errorf("the old copy is frozen beside its successor: %t, %v", stillFrozen, err)
	}

	if err := lab.HealNetwork(deadline(t), lost.Spec.NodeName); err != nil {
		t.Fatal(err)
	}
	err = observe.Until(deadline(t), "the old copy is dead and its node may run pods again", func(ctx context.Context) (bool, string, error) {
		alive, err := old.alive(ctx)
		if err != nil {
			return false, "", err
		}
		var fence v1alpha1.Fence
		if err := api.Get(ctx, types.NamespacedName{Name: lost.Spec.NodeName}, &fence); err != nil {
			return false, "", err
		}
		if alive && fence.Spec.State == v1alpha1.FenceRunning {
			return false, "", &observe.Hopeless{Err: fmt.Errorf("the node may run pods again, and the old copy is alive")}
		}
		return !alive && fence.Spec.State == v1alpha1.FenceRunning, fmt.Sprintf("alive: %t, Fence: %s", alive, fence.Spec.State), nil
	})
	if err != nil {
		t.Error(err)
	}
}

// oldCopy is a container on a node, seen from the node itself.
type oldCopy struct {
	node string
	// pod is the pod's folder in the freezer's hierarchy, pid the container's
	// first process in the node's numbers.
	pod, pid string
}

// copyOn finds the one container of a pod on its node.
func copyOn(t *testing.T, pod *corev1.Pod) oldCopy {
	t.Helper()
	out, err := lab.NodeExec(deadline(t), pod.Spec.NodeName, "sh", "-c", "cat "+client.ContainersFolder+"/*.json")
	if err != nil {
		t.Fatalf("read the registered containers of node %s: %v", pod.Spec.NodeName, err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for decoder.More() {
		var registered client.Registration
		if err := decoder.Decode(&registered); err != nil {
			t.Fatalf("read a registration: %v", err)
		}
		if registered.PodUID != string(pod.UID) {
			continue
		}
		c := oldCopy{node: pod.Spec.NodeName, pod: "/sys/fs/cgroup/freezer" + path.Dir(registered.CgroupsPath)}
		if _, err := lab.NodeExec(deadline(t), c.node, "test", "-e", "/sys/fs/cgroup/cgroup.controllers"); err == nil {
			c.pod = "/sys/fs/cgroup" + path.Dir(registered.CgroupsPath)
		}
		pid, err := lab.NodeExec(deadline(t), c.node, "sh", "-c", "head -n 1 "+c.pod+"/"+path.Base(registered.CgroupsPath)+"/cgroup.procs")
		if err != nil {
			t.Fatalf("find the process of the cart: %v", err)
		}
		c.pid = strings.TrimSpace(string(pid))
		return c
	}
	t.Fatalf("no container of pod %s is registered on node %s", pod.Name, pod.Spec.NodeName)
	return oldCopy{}
}

// frozen is whether the pod stands still.
func (c oldCopy) frozen(ctx context.Context) (bool, error) {
	out, err := lab.NodeExec(ctx, c.node, "sh", "-c", "cat "+c.pod+"/freezer.state 2>/dev/null || grep frozen "+c.pod+"/cgroup.events")
	state := strings.TrimSpace(string(out))
	return state == "FROZEN" || state == "frozen 1", err
}

// alive is whether the container's first process still exists.
func (c oldCopy) alive(ctx context.Context) (bool, error) {
	out, err := lab.NodeExec(ctx, c.node, "sh", "-c", "test -e "+c.pod+" && grep -qx "+c.pid+" "+c.pod+"/*/cgroup.procs && echo alive || true")
	return strings.TrimSpace(string(out)) == "alive", err
}
