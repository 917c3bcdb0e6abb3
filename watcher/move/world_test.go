package move

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// begin is when the moves of the tests are asked for; they are decided a minute later.
var (
	begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now   = begin.Add(time.Minute)
)

func micro(at time.Time) *metav1.MicroTime { return ptr.To(metav1.NewMicroTime(at)) }

// view is a running, protected pod of a Deployment whose live move was accepted; each
// change makes of it what a test is about.
func view(changes ...func(*View)) *View {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "shop", UID: "old", Labels: map[string]string{"app": "web", labelHash: "h"},
			Annotations:     map[string]string{v1alpha1.AnnotationFailover: "true"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web", UID: "rs", Controller: ptr.To(true)}}},
		Spec:   corev1.PodSpec{NodeName: "a", RuntimeClassName: ptr.To(v1alpha1.RuntimeClassName), SchedulerName: v1alpha1.SchedulerName},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	m := v1alpha1.NewMove(pod, v1alpha1.Move{Strategy: v1alpha1.StrategyLive, Reason: v1alpha1.MigrationRequested}, 1, begin)
	m.UID, m.CreationTimestamp = "this", metav1.NewTime(begin)
	v := &View{Migration: m, Pod: pod, Beside: true, Limits: DefaultLimits, Now: now}
	reached(v1alpha1.PhaseAccepted)(v)
	for _, change := range changes {
		change(v)
	}
	return v
}

func fresh(v *View) { v.Migration.Status = v1alpha1.MigrationStatus{} }

func reached(phases ...v1alpha1.Phase) func(*View) {
	return func(v *View) {
		for _, phase := range phases {
			v.Migration.Status.Phase = phase
			v.Migration.Status.Phases = append(v.Migration.Status.Phases, v1alpha1.PhaseTime{Phase: phase, At: *micro(now)})
		}
	}
}

func by(strategy v1alpha1.Strategy) func(*View) {
	return func(v *View) { v.Migration.Spec.Strategy = strategy }
}

// released is a pod whose labels were noted and changed, as its owner lets it go.
func released(v *View) {
	v.Migration.Annotations = map[string]string{v1alpha1.AnnotationPodLabels: `{"app":"web"}`, AnnotationSiblings: "[]"}
	v.Pod.Labels[labelHash] = hash(v.Migration)
	for i := range v.Pod.OwnerReferences {
		v.Pod.OwnerReferences[i].Controller = ptr.To(false)
	}
}

func claimed(v *View) {
	v.Migration.Status.Claim = &v1alpha1.Claim{PodName: "web-2", PodUID: "new", NodeName: "b"}
	v.Successor = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-2", Namespace: "shop", UID: "new"}, Spec: corev1.PodSpec{NodeName: "b"},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
}

// noted is a pod whose siblings are known.
func noted(v *View) {
	metav1.SetMetaDataAnnotation(&v.Migration.ObjectMeta, AnnotationSiblings, "[]")
}

func statefulSet(v *View) {
	v.Beside = false
	v.Pod.OwnerReferences[0].Kind, v.Migration.Spec.Pod.OwnerKind = "StatefulSet", "StatefulSet"
}

func bare(v *View) {
	v.Beside, v.Pod.OwnerReferences = false, nil
	v.Migration.Spec.Pod = v1alpha1.IdentityOf(v.Pod)
}

func source(status v1alpha1.SourceStatus) func(*View) {
	return func(v *View) { v.Migration.Status.Source = &status }
}

func stopped(v *View) { source(v1alpha1.SourceStatus{StoppedAt: micro(now)})(v) }

func hooks(results ...v1alpha1.HookResult) func(*View) {
	return func(v *View) { v.Migration.Status.Restore = &v1alpha1.RestoreStatus{PodUID: "new", Hooks: results} }
}

func gone(v *View) { v.Pod = nil }

// other is another open planned move that was accepted, asked for ten seconds earlier.
func other(name string, changes ...func(*v1alpha1.Migration)) func(*View) {
	m := v1alpha1.Migration{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", UID: types.UID(name), CreationTimestamp: metav1.NewTime(begin.Add(-10 * time.Second))},
		Spec: v1alpha1.MigrationSpec{Strategy: v1alpha1.StrategyLive, SourceNode: "x", Epoch: 1,
			Pod: v1alpha1.PodIdentity{Name: name, UID: types.UID(name + "-pod"), OwnerUID: types.UID(name + "-owner")}},
		Status: v1alpha1.MigrationStatus{Phases: []v1alpha1.PhaseTime{{Phase: v1alpha1.PhaseAccepted}}},
	}
	for _, change := range changes {
		change(&m)
	}
	return func(v *View) { v.Others = append(v.Others, m) }
}

func from(node string) func(*v1alpha1.Migration) {
	return func(m *v1alpha1.Migration) { m.Spec.SourceNode = node }
}

func waits(m *v1alpha1.Migration) { m.Status = v1alpha1.MigrationStatus{} }

func to(name string, changes ...func(*View)) func(*View) {
	return func(v *View) {
		v.Migration.Spec.TargetNode = name
		v.Target = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
		v.TargetUsable = true
		for _, change := range changes {
			change(v)
		}
	}
}
