package migrate

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
)

func TestManifestOf(t *testing.T) {
	lost := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "bare", Namespace: "shop", UID: "old", ResourceVersion: "7", Generation: 2, CreationTimestamp: metav1.NewTime(start),
			DeletionTimestamp: ptr.To(metav1.NewTime(start)), ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
			Labels: map[string]string{"app": "bare"}, Annotations: map[string]string{v1alpha1.AnnotationFailover: "true"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ConfigMap", Name: "note", UID: "c"}},
		},
		Spec: corev1.PodSpec{
			NodeName: "n1", RuntimeClassName: ptr.To("lifeboat"), SchedulerName: "lifeboat-scheduler", ServiceAccountName: "default",
			EphemeralContainers: []corev1.EphemeralContainer{{}},
			InitContainers: []corev1.Container{{Name: "init", VolumeMounts: []corev1.VolumeMount{
				{Name: "kube-api-access-x", MountPath: tokenMountPath}}}},
			Containers: []corev1.Container{{Name: "app", VolumeMounts: []corev1.VolumeMount{
				{Name: "data", MountPath: "/data"},
				{Name: "kube-api-access-x", MountPath: tokenMountPath}}}},
			Volumes: []corev1.Volume{
				{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				{Name: "kube-api-access-x", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}},
			},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"},
	}
	untouched := lost.DeepCopy()
	manifest, err := manifestOf(lost)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(untouched, lost); diff != "" {
		t.Errorf("the lost pod was changed:\n%s", diff)
	}
	var got corev1.Pod
	if err := json.Unmarshal([]byte(manifest), &got); err != nil {
		t.Fatal(err)
	}
	want := corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: "bare", Namespace: "shop", Labels: lost.Labels, Annotations: lost.Annotations,
			OwnerReferences: lost.OwnerReferences},
		Spec: corev1.PodSpec{
			RuntimeClassName: ptr.To("lifeboat"), SchedulerName: "lifeboat-scheduler", ServiceAccountName: "default",
			InitContainers: []corev1.Container{{Name: "init"}},
			Containers:     []corev1.Container{{Name: "app", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}},
			Volumes:        []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("manifest (-want +got):\n%s", diff)
	}
}

// pod is one of a controller's pods, or a bare one when owner is empty.
func pod(name, uid, ownerKind, owner string, created float64) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", UID: types.UID(uid), CreationTimestamp: metav1.NewTime(at(created))}}
	if owner != "" {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: ownerKind, Name: owner, UID: types.UID(owner), Controller: ptr.To(true)}}
	}
	return p
}

func migration(uid string, lost corev1.Pod, created float64) v1alpha1.Migration {
	return v1alpha1.Migration{
		ObjectMeta: metav1.ObjectMeta{Name: lost.Name + "-1", Namespace: "shop", UID: types.UID(uid), CreationTimestamp: metav1.NewTime(at(created))},
		Spec:       v1alpha1.MigrationSpec{Pod: v1alpha1.IdentityOf(&lost), LostAt: micro(0), Strategy: v1alpha1.StrategyFailover},
	}
}

func TestCandidate(t *testing.T) {
	web := func(name, uid string, created float64) corev1.Pod { return pod(name, uid, "ReplicaSet", "rs", created) }
	lostA, lostB := web("web-aaaaa", "a", -100), web("web-bbbbb", "b", -100)
	first, second := migration("m1", lostA, 3), migration("m2", lostB, 4)
	withClaim := first
	withClaim.Status.Claim = &v1alpha1.Claim{PodUID: "x"}

	set := pod("cart-0", "old", "StatefulSet", "set", -100)
	bare := pod("solo", "old", "", "", -100)
	index := func(p corev1.Pod) corev1.Pod {
		p.Annotations = map[string]string{batchv1.JobCompletionIndexAnnotation: "1"}
		return p
	}
	job := index(pod("job-1-aaaaa", "old", "Job", "job", -100))

	replaced := migration("m1", lostA, 3)
	replaced.Annotations = map[string]string{move.AnnotationSiblings: `["s"]`}
	chained := migration("m1", set, 3)
	chained.Annotations = map[string]string{v1alpha1.AnnotationLostPod: "second"}

	for name, tc := range map[string]struct {
		of   v1alpha1.Migration
		all  []v1alpha1.Migration
		pods []corev1.Pod
		want types.UID
	}{
		"the next pod of the replica set":           {of: first, pods: []corev1.Pod{web("web-sib", "s", -50), web("web-x", "x", 3)}, want: "x"},
		"a sibling is none":                         {of: first, pods: []corev1.Pod{web("web-sib", "s", -50)}},
		"nor one of the same second that was noted": {of: replaced, pods: []corev1.Pod{web("web-sib", "s", 3), web("web-x", "x", 3)}, want: "x"},
		"another owner's pod is none":               {of: first, pods: []corev1.Pod{pod("api-x", "x", "ReplicaSet", "other", 3)}},
		"a bare pod is no replica":                  {of: first, pods: []corev1.Pod{pod("web-aaaaa", "x", "", "", 3)}},
		"two lost pods, the first gets the oldest":  {of: first, all: []v1alpha1.Migration{first, second}, pods: []corev1.Pod{web("web-y", "y", 4), web("web-x", "x", 3)}, want: "x"},
		"and the second the next":                   {of: second, all: []v1alpha1.Migration{first, second}, pods: []corev1.Pod{web("web-y", "y", 4), web("web-x", "x", 3)}, want: "y"},
		"or none while there is one":                {of: second, all: []v1alpha1.Migration{first, second}, pods: []corev1.Pod{web("web-x", "x", 3)}},
		"a claimed pod is taken":                    {of: second, all: []v1alpha1.Migration{withClaim, second}, pods: []corev1.Pod{web("web-x", "x", 3), web("web-y", "y", 4)}, want: "y"},
		"a stateful pod keeps its name":             {of: migration("m1", set, 3), pods: []corev1.Pod{pod("cart-1", "z", "StatefulSet", "set", 3), pod("cart-0", "x", "StatefulSet", "set", -1)}, want: "x"},
		"the lost pod itself is none":               {of: migration("m1", set, 3), pods: []corev1.Pod{set}},
		"nor is the one that was lost after it":     {of: chained, pods: []corev1.Pod{pod("cart-0", "second", "StatefulSet", "set", 1)}},
		"a bare pod of the same name":               {of: migration("m1", bare, 3), pods: []corev1.Pod{pod("solo", "x", "", "", 3)}, want: "x"},
		"an indexed job's pod of the same index":    {of: migration("m1", job, 3), pods: []corev1.Pod{index(pod("job-0-ccccc", "y", "Job", "job", 3)), index(pod("job-1-ddddd", "x", "Job", "job", 3))}, want: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.all == nil {
				tc.all = []v1alpha1.Migration{tc.of}
			}
			var got types.UID
			if p := candidate(&tc.of, tc.all, tc.pods); p != nil {
				got = p.UID
			}
			if got != tc.want {
				t.Errorf("candidate %q, want %q", got, tc.want)
			}
		})
	}
}

func TestWanted(t *testing.T) {
	deletedAt := func(p corev1.Pod, asked float64, grace int64) *corev1.Pod {
		p.DeletionTimestamp = ptr.To(metav1.NewTime(at(asked + float64(grace))))
		p.DeletionGracePeriodSeconds = &grace
		return &p
	}
	owned, bare := pod("web-a", "a", "ReplicaSet", "rs", -100), pod("solo", "b", "", "", -100)
	for name, tc := range map[string]struct {
		pod  *corev1.Pod
		want bool
	}{
		"a pod that runs":                           {&owned, true},
		"evicted because its node is lost":          {deletedAt(owned, 5, 30), true},
		"deleted while its node still lived":        {deletedAt(owned, -5, 30), false},
		"a bare pod that somebody deleted after it": {deletedAt(bare, 5, 30), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := wanted(tc.pod, micro(0)); got != tc.want {
				t.Errorf("wanted = %v", got)
			}
		})
	}
}

func TestMovable(t *testing.T) {
	daemon, static := pod("d", "d", "DaemonSet", "ds", 0), pod("s", "s", "Node", "n1", 0)
	web, done := pod("w", "w", "ReplicaSet", "rs", 0), pod("j", "j", "Job", "job", 0)
	done.Status.Phase = corev1.PodSucceeded
	for _, tc := range []struct {
		pod  corev1.Pod
		want bool
	}{{daemon, false}, {static, false}, {web, true}, {done, false}} {
		if got := movable(&tc.pod); got != tc.want {
			t.Errorf("movable(%s) = %v, want %v", tc.pod.Name, got, tc.want)
		}
	}
}

func TestCovers(t *testing.T) {
	lost := pod("cart-0", "old", "StatefulSet", "set", -100)
	open := migration("m1", lost, 3)
	returned := open
	conclude(&returned, Verdict{Result: v1alpha1.ResultColdStarted, Reason: v1alpha1.ReasonNotAsked})
	done := returned
	stamp(&done, v1alpha1.PhaseDeleted, at(3))
	other := pod("cart-0", "new", "StatefulSet", "set", 3)
	for name, tc := range map[string]struct {
		m    v1alpha1.Migration
		pod  corev1.Pod
		want bool
	}{
		"open":                              {open, lost, true},
		"closed after the pod was deleted":  {done, lost, true},
		"closed because the node came back": {returned, lost, false},
		"of another pod of the same name":   {open, other, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := covers(&tc.m, &tc.pod); got != tc.want {
				t.Errorf("covers = %v", got)
			}
		})
	}
}

// TestSuccessorOfAMoveThatAWrongClockAskedFor: it is no older than the move, whatever the
// clock of whoever asked said.
func TestSuccessorOfAMoveThatAWrongClockAskedFor(t *testing.T) {
	m := deleted(func(m *v1alpha1.Migration) {
		m.Spec.Strategy, m.Spec.Pod.OwnerKind, m.Spec.LostAt = v1alpha1.StrategyLive, "ReplicaSet", micro(3600)
	})
	next := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "cart-x", Namespace: "shop", UID: "new", CreationTimestamp: metav1.NewTime(at(3)),
		OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", UID: m.Spec.Pod.OwnerUID, Controller: ptr.To(true)}}}}
	if got := candidate(m, []v1alpha1.Migration{*m}, []corev1.Pod{next}); got == nil {
		t.Error("it has no successor")
	}
}
