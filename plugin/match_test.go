package plugin

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// successor is the pod that the tests place.
func successor(name, ownerKind string, ownerUID types.UID) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: name, UID: "new",
		Annotations: map[string]string{v1alpha1.AnnotationFailover: "true"},
	}}
	if ownerKind != "" {
		pod.OwnerReferences = []metav1.OwnerReference{{Kind: ownerKind, Name: "owner", UID: ownerUID, Controller: ptr.To(true)}}
	}
	return pod
}

// lost is an open Migration of a pod that node-a ran.
func lost(name, podName, ownerKind string, ownerUID types.UID, change ...func(*v1alpha1.Migration)) *v1alpha1.Migration {
	m := &v1alpha1.Migration{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), CreationTimestamp: at(0)},
		Spec: v1alpha1.MigrationSpec{
			Pod:        v1alpha1.PodIdentity{Name: podName, UID: "old", OwnerKind: ownerKind, OwnerUID: ownerUID},
			SourceNode: "node-a", Strategy: v1alpha1.StrategyFailover,
		},
	}
	for _, c := range change {
		c(m)
	}
	return m
}

func at(second int) metav1.Time {
	return metav1.NewTime(time.Date(2026, 1, 2, 3, 4, second, 0, time.UTC))
}

func created(second int) func(*v1alpha1.Migration) {
	return func(m *v1alpha1.Migration) { m.CreationTimestamp = at(second) }
}

func claimed(pod types.UID) func(*v1alpha1.Migration) {
	return func(m *v1alpha1.Migration) { m.Status.Claim = &v1alpha1.Claim{PodName: string(pod), PodUID: pod} }
}

func closed(m *v1alpha1.Migration) { m.Status.Result = v1alpha1.ResultFailed }

func TestMatch(t *testing.T) {
	type migrations []*v1alpha1.Migration
	indexed := successor("load-1-xyz12", "Job", "job")
	indexed.Annotations[batchv1.JobCompletionIndexAnnotation] = "1"

	for name, tc := range map[string]struct {
		pod        *corev1.Pod
		migrations migrations
		want       string
	}{
		"no migrations":            {successor("web-2", "ReplicaSet", "rs"), nil, ""},
		"same ReplicaSet":          {successor("web-2", "ReplicaSet", "rs"), migrations{lost("m", "web-1", "ReplicaSet", "rs")}, "m"},
		"other ReplicaSet":         {successor("web-2", "ReplicaSet", "rs"), migrations{lost("m", "web-1", "ReplicaSet", "other")}, ""},
		"StatefulSet, same name":   {successor("db-0", "StatefulSet", "sts"), migrations{lost("m", "db-0", "StatefulSet", "sts")}, "m"},
		"StatefulSet, other name":  {successor("db-1", "StatefulSet", "sts"), migrations{lost("m", "db-0", "StatefulSet", "sts")}, ""},
		"StatefulSet made anew":    {successor("db-0", "StatefulSet", "sts-2"), migrations{lost("m", "db-0", "StatefulSet", "sts")}, ""},
		"bare pod":                 {successor("cache", "", ""), migrations{lost("m", "cache", "", "")}, "m"},
		"bare pod, other name":     {successor("cache-2", "", ""), migrations{lost("m", "cache", "", "")}, ""},
		"bare pod, owned lost pod": {successor("cache", "", ""), migrations{lost("m", "cache", "ReplicaSet", "rs")}, ""},
		"owned pod, bare lost pod": {successor("cache", "ReplicaSet", "rs"), migrations{lost("m", "cache", "", "")}, ""},
		"Indexed Job, same index":  {indexed, migrations{lost("m", "load-1-abc34", "Job", "job")}, "m"},
		"Indexed Job, other index": {indexed, migrations{lost("m", "load-2-abc34", "Job", "job")}, ""},
		"plain Job":                {successor("load-xyz12", "Job", "job"), migrations{lost("m", "load-abc34", "Job", "job")}, "m"},
		"other namespace": {successor("web-2", "ReplicaSet", "rs"), migrations{
			lost("m", "web-1", "ReplicaSet", "rs", func(m *v1alpha1.Migration) { m.Namespace = "other" }),
		}, ""},
		"the lost pod itself": {successor("web-1", "ReplicaSet", "rs"), migrations{
			lost("m", "web-1", "ReplicaSet", "rs", func(m *v1alpha1.Migration) { m.Spec.Pod.UID = "new" }),
		}, ""},
		"closed": {successor("web-2", "ReplicaSet", "rs"), migrations{lost("m", "web-1", "ReplicaSet", "rs", closed)}, ""},
		"being deleted": {successor("web-2", "ReplicaSet", "rs"), migrations{
			lost("m", "web-1", "ReplicaSet", "rs", func(m *v1alpha1.Migration) { m.DeletionTimestamp = ptr.To(at(1)) }),
		}, ""},
		"claimed by another pod":     {successor("web-2", "ReplicaSet", "rs"), migrations{lost("m", "web-1", "ReplicaSet", "rs", claimed("other"))}, ""},
		"claimed by this pod":        {successor("web-2", "ReplicaSet", "rs"), migrations{lost("m", "web-1", "ReplicaSet", "rs", claimed("new"))}, "m"},
		"claimed by this and closed": {successor("web-2", "ReplicaSet", "rs"), migrations{lost("m", "web-1", "ReplicaSet", "rs", claimed("new"), closed)}, ""},
		"oldest first": {successor("web-9", "ReplicaSet", "rs"), migrations{
			lost("late", "web-1", "ReplicaSet", "rs", created(9)), lost("early", "web-2", "ReplicaSet", "rs", created(1)),
		}, "early"},
		"same moment": {successor("web-9", "ReplicaSet", "rs"), migrations{
			lost("b", "web-1", "ReplicaSet", "rs"), lost("a", "web-2", "ReplicaSet", "rs"),
		}, "a"},
		"its own before an older one": {successor("web-9", "ReplicaSet", "rs"), migrations{
			lost("early", "web-2", "ReplicaSet", "rs", created(1)), lost("own", "web-1", "ReplicaSet", "rs", created(9), claimed("new")),
		}, "own"},
		"same name before an older one": {successor("shard-1", "ShardSet", "ss"), migrations{
			lost("early", "shard-0", "ShardSet", "ss", created(1)), lost("named", "shard-1", "ShardSet", "ss", created(9)),
		}, "named"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if m := Match(tc.pod, tc.migrations); m != nil {
				got = m.Name
			}
			if got != tc.want {
				t.Errorf("Match = %q, want %q", got, tc.want)
			}
		})
	}
}
