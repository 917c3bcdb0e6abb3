package scenarios

import (
	"context"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// killAgent ends the checkpointer's agent of a node, by the numbers of its
// processes, and not the fencer beside it.
const killAgent = `for p in /proc/[0-9]*; do
	case "$(tr '\0' ' ' < $p/cmdline 2>/dev/null)" in *lifeboat-checkpointer\ agent*) kill -KILL ${p#/proc/} && echo ${p#/proc/};; esac
done`

// A restored pod runs before its memory is there. When the checkpointer ends just
// then, the memory must not turn into zeros, and the pod must not end: the next
// checkpointer goes on.
func TestMemoryIsFilledInByTheNextCheckpointer(t *testing.T) {
	namespace := scene(t, "filling")
	loadRedis(t)
	pod := redisPod(namespace)
	pod.Spec.Containers[0].Args = append(pod.Spec.Containers[0].Args, "--enable-debug-command", "yes")
	create(t, pod)
	labels := client.MatchingLabels{"app": "redis"}
	pod, err := observe.ReadyPod(deadline(t), api, namespace, labels)
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, pod)
	// More than a gigabyte, so that it takes a while to fill in.
	if answer := command[string](t, conn, "DEBUG", "POPULATE", "3000000", "key", "400"); answer != "OK" {
		t.Fatalf("redis answers DEBUG POPULATE with %q", answer)
	}
	before := command[string](t, conn, "DEBUG", "DIGEST")
	runID := info(t, conn, "run_id")
	filled := time.Now()
	err = observe.Until(deadline(t), "a generation of after redis was filled is durable", func(ctx context.Context) (bool, string, error) {
		checkpoint := &v1alpha1.Checkpoint{}
		err := api.Get(ctx, client.ObjectKeyFromObject(pod), checkpoint)
		s := checkpoint.Status
		return s.TakenAt != nil && s.TakenAt.After(filled), s.Size, client.IgnoreNotFound(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.PowerOff(deadline(t), pod.Spec.NodeName); err != nil {
		t.Fatal(err)
	}

	// The moment between the restore and the end of the filling in.
	var target string
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for target == "" {
		m, err := observe.MigrationOf(ctx, api, namespace, pod.UID)
		if err != nil {
			t.Fatal(err)
		}
		if m != nil && m.Status.Restore != nil {
			for _, c := range m.Status.Restore.Containers {
				if !c.Filling {
					t.Fatalf("the container came back as %+v before anybody could interfere", c)
				}
				target = m.Status.Claim.NodeName
			}
		}
		select {
		case <-ctx.Done():
			t.Fatal("the pod was not restored in time")
		case <-time.After(5 * time.Millisecond):
		}
	}
	killed, err := lab.NodeExec(deadline(t), target, "sh", "-c", killAgent)
	if err != nil || len(killed) == 0 {
		t.Fatalf("kill the checkpointer on node %s: %q, %v", target, killed, err)
	}
	if m, err := observe.MigrationOf(deadline(t), api, namespace, pod.UID); err != nil || !m.Status.Restore.Containers[0].Filling {
		t.Fatalf("all memory was there before the checkpointer was killed: nothing is shown (%v)", err)
	}

	restored(t, pod)
	after, err := observe.ReadyPod(deadline(t), api, namespace, labels)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range after.Status.ContainerStatuses {
		if c.RestartCount > 0 {
			t.Errorf("container %s was started again", c.Name)
		}
	}
	conn = connect(t, after)
	if id := info(t, conn, "run_id"); id != runID {
		t.Errorf("another redis process answers: run_id %s, was %s", id, runID)
	}
	if digest := command[string](t, conn, "DEBUG", "DIGEST"); digest != before {
		t.Errorf("the digest of all keys is %s, was %s", digest, before)
	}
}
