package migrate

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }

func micro(seconds float64) metav1.MicroTime { return metav1.NewMicroTime(at(seconds)) }

// deleted is a Migration whose node was lost at 0 s and whose old pod was gone at 3 s.
func deleted(changes ...func(*v1alpha1.Migration)) *v1alpha1.Migration {
	m := &v1alpha1.Migration{
		ObjectMeta: metav1.ObjectMeta{Name: "cart-0-1", Namespace: "shop", UID: "m1", CreationTimestamp: metav1.NewTime(at(2))},
		Spec: v1alpha1.MigrationSpec{
			Strategy:   v1alpha1.StrategyFailover,
			Pod:        v1alpha1.PodIdentity{Name: "cart-0", UID: "old", OwnerKind: "StatefulSet", OwnerName: "cart", OwnerUID: "set"},
			SourceNode: "n1", Epoch: 1, LostAt: micro(0),
		},
		Status: v1alpha1.MigrationStatus{
			Checkpoint: &v1alpha1.HeldCheckpoint{Generation: 6, TakenAt: micro(-2.1), Holders: []string{"n2"}},
		},
	}
	stamp(m, v1alpha1.PhaseDetected, at(0.6))
	stamp(m, v1alpha1.PhaseFenced, at(2.9))
	stamp(m, v1alpha1.PhaseDeleted, at(3))
	for _, change := range changes {
		change(m)
	}
	return m
}

func claimed(m *v1alpha1.Migration) {
	m.Status.Claim = &v1alpha1.Claim{PodName: "cart-0", PodUID: "new", NodeName: "n2", At: micro(3.5)}
}

// reported adds what the checkpointer says: containers, each as
// "name", "name:Reason" for one that started anew.
func reported(containers ...string) func(*v1alpha1.Migration) {
	return func(m *v1alpha1.Migration) {
		taken := micro(-2.1)
		m.Status.Restore = &v1alpha1.RestoreStatus{PodUID: "new", StartedAt: micro(4), Generation: 6, TakenAt: &taken}
		for _, c := range containers {
			name, reason, cold := strings.Cut(c, ":")
			report := v1alpha1.ContainerRestore{Name: name, Result: v1alpha1.ResultRestored}
			if cold {
				report.Result, report.Reason, report.Message = v1alpha1.ResultColdStarted, reason, "why"
			}
			m.Status.Restore.Containers = append(m.Status.Restore.Containers, report)
		}
	}
}

func readyStamp(seconds float64) func(*v1alpha1.Migration) {
	return func(m *v1alpha1.Migration) { stamp(m, v1alpha1.PhaseReady, at(seconds)) }
}

// next is the successor pod with two containers.
func next(changes ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "cart-0", Namespace: "shop", UID: "new", CreationTimestamp: metav1.NewTime(at(3)),
			OwnerReferences: []metav1.OwnerReference{{Kind: "StatefulSet", Name: "cart", UID: "set", Controller: ptr.To(true)}},
		},
		Spec: corev1.PodSpec{NodeName: "n2", SchedulerName: v1alpha1.SchedulerName, Containers: []corev1.Container{{Name: "app"}, {Name: "log"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "app"}, {Name: "log"},
		}},
	}
	for _, change := range changes {
		change(pod)
	}
	return pod
}

func isReady(pod *corev1.Pod) {
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
}

func unschedulable(since float64, message string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.NodeName = ""
		pod.Status.Phase = corev1.PodPending
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse,
			Reason: corev1.PodReasonUnschedulable, LastTransitionTime: metav1.NewTime(at(since)), Message: message}}
	}
}

func TestJudge(t *testing.T) {
	const incompatible = "0/3 nodes are available: 1 node is fenced, 2 node cannot restore the pod: its architecture is arm64, the checkpoint's amd64."
	for name, tc := range map[string]struct {
		m       *v1alpha1.Migration
		pod     *corev1.Pod
		now     float64
		want    v1alpha1.Result
		reason  string
		message string // a part of it
		look    float64
	}{
		"no successor yet": {m: deleted(), now: 4, look: 603},
		"never a successor": {m: deleted(), now: 603,
			want: "Failed", reason: "NotReady", message: "no pod has taken the place"},
		"successor not placed yet": {m: deleted(), pod: next(func(p *corev1.Pod) { p.Spec.NodeName = "" }), now: 4, look: 603},
		"claimed, being restored":  {m: deleted(claimed), pod: next(), now: 5, look: 603},

		"restored": {m: deleted(claimed, reported("app", "log"), readyStamp(4.81)), pod: next(isReady), now: 4.81,
			want: "Restored", message: "generation 6 was restored"},
		"restored, and one generation was damaged": {
			m: deleted(claimed, reported("app", "log"), func(m *v1alpha1.Migration) {
				m.Status.Restore.Skipped = []v1alpha1.SkippedGeneration{{Generation: 7, Reason: "chunk 3 has another hash"}}
			}), pod: next(isReady), now: 5,
			want: "Restored", message: "generation 7 was damaged (chunk 3 has another hash); generation 6 was restored"},
		"restored, and its generation was not there at first": {
			m: deleted(claimed, reported("app", "log"), func(m *v1alpha1.Migration) {
				m.Status.Restore.Skipped = []v1alpha1.SkippedGeneration{{Generation: 7, Reason: "bad"}, {Generation: 6, Reason: "none of its holders gives it"}}
			}), pod: next(isReady), now: 5,
			want: "Restored", message: "generation 7 was damaged (bad); generation 6 was restored"},
		"restored, and done already": {m: deleted(claimed, reported("app", "log")),
			pod: next(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), now: 5,
			want: "Restored", message: "generation 6 was restored"},

		"restored but not Ready is no success": {m: deleted(claimed, reported("app", "log")), pod: next(), now: 5, look: 603},
		"restored but never Ready": {m: deleted(claimed, reported("app", "log")),
			pod: next(func(p *corev1.Pod) {
				p.Status.ContainerStatuses[1].State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}
			}), now: 603,
			want: "Failed", reason: "NotReady", message: "container log: CrashLoopBackOff"},
		"one container was restored, the other's report may still come": {
			m: deleted(claimed, reported("app"), readyStamp(5)), pod: next(isReady), now: 14, look: 15},
		"one container was restored, of the other nobody asked": {
			m: deleted(claimed, reported("app"), readyStamp(5)), pod: next(isReady), now: 15,
			want: "ColdStarted", reason: "NotAsked", message: "of container log nobody asked"},
		"nobody asked at all, as when the runtime class was taken off": {
			m: deleted(claimed, readyStamp(5)), pod: next(isReady), now: 15,
			want: "ColdStarted", reason: "NotAsked", message: "app, log"},
		"one container started anew": {
			m: deleted(claimed, reported("app", "log:RestoreFailed")), pod: next(isReady), now: 5,
			want: "ColdStarted", reason: "RestoreFailed", message: "container log started anew: why"},
		"all started anew, every generation damaged": {
			m: deleted(claimed, reported("app:CheckpointDamaged", "log:CheckpointDamaged"), func(m *v1alpha1.Migration) {
				m.Status.Restore.Skipped = []v1alpha1.SkippedGeneration{{Generation: 7, Reason: "bad"}}
			}), pod: next(isReady), now: 5,
			want: "ColdStarted", reason: "CheckpointDamaged", message: "generation 7 was damaged (bad); container app started anew"},
		"no checkpoint": {m: deleted(claimed, reported("app:NoCheckpoint", "log:NoCheckpoint")), pod: next(isReady), now: 5,
			want: "ColdStarted", reason: "NoCheckpoint"},
		"a container came back, crashed and was started anew": {
			m: deleted(claimed, reported("app", "log")), pod: next(isReady, func(p *corev1.Pod) { p.Status.ContainerStatuses[0].RestartCount = 1 }), now: 5,
			want: "ColdStarted", reason: "RestoreFailed", message: "container app came back from generation 6, but ended"},
		"a sidecar counts as a container": {
			m: deleted(claimed, reported("app", "log"), readyStamp(5)), pod: next(isReady, func(p *corev1.Pod) {
				p.Spec.InitContainers = []corev1.Container{{Name: "init"}, {Name: "mesh", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}}
			}), now: 15,
			want: "ColdStarted", reason: "NotAsked", message: "of container mesh nobody asked"},
		"a report about another pod is none": {
			m:   deleted(claimed, reported("app", "log"), readyStamp(5), func(m *v1alpha1.Migration) { m.Status.Restore.PodUID = "other" }),
			pod: next(isReady), now: 15,
			want: "ColdStarted", reason: "NotAsked"},
		"restored from nothing is no success": {
			m: deleted(claimed, reported("app", "log"), func(m *v1alpha1.Migration) { m.Status.Restore.Generation = 0 }), pod: next(isReady), now: 5,
			want: "ColdStarted", reason: "NotAsked"},
		"a wrong result of a container is no success": {
			m: deleted(claimed, reported("app", "log"), func(m *v1alpha1.Migration) { m.Status.Restore.Containers[0].Result = "" }), pod: next(isReady), now: 5,
			want: "ColdStarted", reason: "RestoreFailed"},

		"the claimed pod is gone": {m: deleted(claimed, reported("app", "log")), now: 5,
			want: "Failed", reason: "PodReplaced", message: "on node n2, was deleted"},
		"another pod has its name, and is Ready": {m: deleted(claimed, reported("app", "log")),
			pod: next(isReady, func(p *corev1.Pod) { p.UID = "newer" }), now: 5,
			want: "Failed", reason: "PodReplaced"},
		"the claimed pod failed": {m: deleted(claimed), pod: next(func(p *corev1.Pod) {
			p.Status.Phase, p.Status.Message = corev1.PodFailed, "Pod was rejected: too little memory"
		}), now: 5,
			want: "Failed", reason: "NotReady", message: "too little memory"},

		"placed by another scheduler, not Ready yet": {m: deleted(), pod: next(), now: 5, look: 603},
		"placed by another scheduler": {m: deleted(), pod: next(isReady, func(p *corev1.Pod) { p.Spec.SchedulerName = "" }), now: 5,
			want: "ColdStarted", reason: "NotAsked", message: "placed by default-scheduler"},

		"no node can restore it, for a moment": {m: deleted(), pod: next(unschedulable(4, incompatible)), now: 63, look: 64},
		"no node can restore it": {m: deleted(), pod: next(unschedulable(4, incompatible)), now: 64,
			want: "ColdStarted", reason: "NoCompatibleNode", message: "its architecture is arm64"},
		"nodes are full: it waits for one": {m: deleted(), pod: next(unschedulable(4, "0/3 nodes are available: 3 Insufficient cpu.")), now: 64, look: 603},
		"nodes are full for too long": {m: deleted(), pod: next(unschedulable(4, "0/3 nodes are available: 3 Insufficient cpu.")), now: 603,
			want: "Failed", reason: "NotReady", message: "Insufficient cpu"},
		"nothing to restore, so no node is incompatible": {
			m: deleted(func(m *v1alpha1.Migration) { m.Status.Checkpoint = nil }), pod: next(unschedulable(4, incompatible)), now: 64, look: 603},
	} {
		t.Run(name, func(t *testing.T) {
			got := Judge(tc.m, tc.pod, at(tc.now))
			if got.Result != tc.want || got.Reason != tc.reason || !strings.Contains(got.Message, tc.message) {
				t.Errorf("got %q, reason %q, message %q\nwant %q, reason %q, message with %q",
					got.Result, got.Reason, got.Message, tc.want, tc.reason, tc.message)
			}
			var look time.Time
			if tc.look != 0 {
				look = at(tc.look)
			}
			if !got.Look.Equal(look) {
				t.Errorf("looks again at %s, want %s", got.Look.Sub(start), look.Sub(start))
			}
			if (got.Result == v1alpha1.ResultRestored) != (got.Result != "" && got.Reason == "") {
				t.Errorf("result %q with reason %q: every result but Restored has one", got.Result, got.Reason)
			}
		})
	}
}

func TestConclude(t *testing.T) {
	for name, tc := range map[string]struct {
		m        *v1alpha1.Migration
		v        Verdict
		rto, rpo string
		rpoIsSet bool
	}{
		"restored": {m: deleted(claimed, reported("app", "log"), readyStamp(4.814)),
			v: Verdict{Result: v1alpha1.ResultRestored}, rto: "4.81s", rpo: "2.1s"},
		"the node lived on a little after its last sign": {
			m: deleted(claimed, reported("app", "log"), readyStamp(4), func(m *v1alpha1.Migration) {
				taken := micro(0.1)
				m.Status.Restore.TakenAt = &taken
			}),
			v: Verdict{Result: v1alpha1.ResultRestored}, rto: "4s", rpo: "0s"},
		"cold": {m: deleted(claimed, reported("app:RestoreFailed"), readyStamp(125)),
			v: Verdict{Result: v1alpha1.ResultColdStarted, Reason: "RestoreFailed"}, rto: "2m5s"},
		"never ready": {m: deleted(), v: Verdict{Result: v1alpha1.ResultFailed, Reason: "NotReady"}},
	} {
		t.Run(name, func(t *testing.T) {
			conclude(tc.m, tc.v)
			if got := tc.m.Status; got.Result != tc.v.Result || got.RTO != tc.rto || got.RPO != tc.rpo {
				t.Errorf("result %q, RTO %q, RPO %q; want %q, %q, %q", got.Result, got.RTO, got.RPO, tc.v.Result, tc.rto, tc.rpo)
			}
			if tc.m.Status.RPOSeconds < 0 {
				t.Errorf("RPO of %v s", tc.m.Status.RPOSeconds)
			}
		})
	}
}

func TestStampKeepsTheFirstMoment(t *testing.T) {
	m := deleted()
	stamp(m, v1alpha1.PhaseCreated, at(3.2))
	stamp(m, v1alpha1.PhaseCreated, at(9))
	stamp(m, v1alpha1.PhaseFenced, at(9))
	if got, _ := m.PhaseAt(v1alpha1.PhaseCreated); !got.Equal(at(3.2)) {
		t.Errorf("Created at %s", got.Sub(start))
	}
	if m.Status.Phase != v1alpha1.PhaseCreated || len(m.Status.Phases) != 4 {
		t.Errorf("phase %s of %d", m.Status.Phase, len(m.Status.Phases))
	}
}
