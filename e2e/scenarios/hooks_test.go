package scenarios

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// TestHooksOfAMove moves pods of redis whose hooks succeed, fail and take too long. What
// each of them printed is in the Migration. A pod is not stopped when the hook before
// that failed, and runs whatever became of the one after the restore.
func TestHooksOfAMove(t *testing.T) {
	const (
		ok    = `timeout=10s exec ["sh", "-c", "redis-cli -x set held </etc/hostname && echo writes are held"]`
		read  = `exec ["sh", "-c", "echo in $(hostname) after $(redis-cli get held)"]`
		fails = `exec ["sh", "-c", "echo the disk is full; exit 3"]`
		slow  = `timeout=2s exec ["sh", "-c", "echo it begins; exec sleep 4711"]`
	)
	namespace := scene(t, "hooks")
	loadRedis(t)
	tests := map[string]struct {
		before, after string
		stays         bool
		// What the hooks print, and whether they succeed. Of a pod that is not stopped
		// there is no second one.
		said, then     string
		good, goodThen bool
	}{
		"succeeds":      {before: ok, after: read, said: "writes are held", good: true, then: "in succeeds after succeeds", goodThen: true},
		"fails":         {before: fails, after: read, stays: true, said: "the disk is full"},
		"takes-long":    {before: slow, after: read, stays: true, said: "longer than its timeout of 2s"},
		"fails-after":   {before: ok, after: fails, said: "writes are held", good: true, then: "the disk is full"},
		"is-long-after": {before: ok, after: slow, said: "writes are held", good: true, then: "longer than its timeout of 2s"},
	}
	for name, test := range tests {
		pod := redisNamed(namespace, name)
		pod.Annotations[v1alpha1.AnnotationPreCheckpoint] = test.before
		pod.Annotations[v1alpha1.AnnotationPostRestore] = test.after
		create(t, pod)
	}
	instances, moves := map[string]*instance{}, map[string]*v1alpha1.Migration{}
	for name := range tests {
		instances[name] = inUse(t, namespace, name)
		if _, err := observe.Durable(deadline(t), api, instances[name].pod, 1); err != nil {
			t.Fatal(err)
		}
	}
	for name := range tests {
		moves[name] = beginMove(t, instances[name].pod, v1alpha1.StrategyWarm)
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := moves[name]
			closed(t, m)
			result, reason := v1alpha1.ResultRestored, ""
			if test.stays {
				result, reason = v1alpha1.ResultWithdrawn, v1alpha1.ReasonSourceFailed
			}
			if m.Status.Result != result || m.Status.Reason != reason {
				t.Errorf("the move ended as %s (%s): %s; want %s (%s)", m.Status.Result, m.Status.Reason, m.Status.Message, result, reason)
			}
			checkHook(t, m, m.Status.Source.Hooks, "pre-checkpoint", test.good, test.said)
			if test.stays {
				if !strings.Contains(m.Status.Message, test.said) {
					t.Errorf("the Migration does not say why: %s", m.Status.Message)
				}
				if m.Status.Restore != nil {
					t.Errorf("something was restored: %+v", m.Status.Restore)
				}
			} else {
				// The Migration may be closed before the hook has ended.
				err := observe.Until(deadline(t), "the hook after the restore is told", func(ctx context.Context) (bool, string, error) {
					err := api.Get(ctx, client.ObjectKeyFromObject(m), m)
					return len(m.Status.Restore.Hooks) > 0, fmt.Sprintf("%+v", m.Status.Restore), err
				})
				if err != nil {
					t.Fatal(err)
				}
				checkHook(t, m, m.Status.Restore.Hooks, "post-restore", test.goodThen, test.then)
			}
			now := instances[name].checkOne(t, time.Now())
			if (now.UID == instances[name].pod.UID) != test.stays {
				t.Errorf("pod %s is on node %s, it was on %s", now.UID, now.Spec.NodeName, instances[name].pod.Spec.NodeName)
			}
			if !test.good || !test.goodThen {
				hookFailed(t, now)
			}
		})
	}
	// A hook that took too long was ended with it.
	left, err := onEveryNode(deadline(t), `for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline 2>/dev/null | grep -x "sleep 4711 "; done; true`)
	if err != nil {
		t.Fatal(err)
	}
	for node, processes := range left {
		if processes != "" {
			t.Errorf("hooks are left on node %s: %s", node, processes)
		}
	}
}

func checkHook(t *testing.T, m *v1alpha1.Migration, results []v1alpha1.HookResult, name string, good bool, said string) {
	t.Helper()
	if len(results) != 1 {
		t.Fatalf("migration %s tells of %d calls of %s: %+v", m.Name, len(results), name, results)
	}
	h := results[0]
	t.Logf("%s in %s: succeeded %t after %.2f s: %q", h.Name, h.Container, h.Succeeded, h.Seconds, h.Output)
	if h.Name != name || h.Container != "redis" || h.Succeeded != good || !strings.Contains(h.Output, said) || h.Seconds > 10 {
		t.Errorf("the hook is %+v; want %s, succeeded %t, %q", h, name, good, said)
	}
}

// hookFailed waits until the pod has the event of a hook that failed.
func hookFailed(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	err := observe.Until(deadline(t), "an event tells that the hook of pod "+pod.Name+" failed", func(ctx context.Context) (bool, string, error) {
		var events corev1.EventList
		if err := api.List(ctx, &events, client.InNamespace(pod.Namespace)); err != nil {
			return false, "", err
		}
		told := slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
			return e.Reason == "LifeboatHookFailed" && e.InvolvedObject.UID == pod.UID
		})
		return told, fmt.Sprintf("%d events", len(events.Items)), nil
	})
	if err != nil {
		t.Error(err)
	}
}
