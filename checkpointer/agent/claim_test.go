package agent

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func claimedMigration(podUID types.UID, node string, result v1alpha1.Result, restored ...string) v1alpha1.Migration {
	m := v1alpha1.Migration{Status: v1alpha1.MigrationStatus{
		Claim:  &v1alpha1.Claim{PodUID: podUID, NodeName: node},
		Result: result,
	}}
	if restored != nil {
		m.Status.Restore = &v1alpha1.RestoreStatus{PodUID: podUID}
		for _, name := range restored {
			m.Status.Restore.Containers = append(m.Status.Restore.Containers, v1alpha1.ContainerRestore{Name: name})
		}
	}
	return m
}

func TestFindClaim(t *testing.T) {
	for name, tc := range map[string]struct {
		migration v1alpha1.Migration
		found     bool
	}{
		"claimed by the pod for this node": {claimedMigration("pod", "here", ""), true},
		"claimed for another node":         {claimedMigration("pod", "there", ""), false},
		"claimed by another pod":           {claimedMigration("other", "here", ""), false},
		"closed":                           {claimedMigration("pod", "here", v1alpha1.ResultRestored), false},
		"not claimed":                      {v1alpha1.Migration{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			found := findClaim([]v1alpha1.Migration{tc.migration}, "pod", "here") != nil
			if found != tc.found {
				t.Errorf("found is %t", found)
			}
		})
	}
}

func TestAContainerIsRestoredOnce(t *testing.T) {
	stale := claimedMigration("pod", "here", "", "main")
	stale.Status.Restore.PodUID = "an earlier pod"
	for name, tc := range map[string]struct {
		migration v1alpha1.Migration
		want      bool
	}{
		"nothing restored yet":           {claimedMigration("pod", "here", ""), false},
		"the other container restored":   {claimedMigration("pod", "here", "", "sidecar"), false},
		"restored before":                {claimedMigration("pod", "here", "", "sidecar", "main"), true},
		"restored in an earlier attempt": {stale, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := consumed(&tc.migration, "main"); got != tc.want {
				t.Errorf("consumed is %t", got)
			}
		})
	}
}

func TestDisowns(t *testing.T) {
	pod := func(uid types.UID, node string, annotations map[string]string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, Annotations: annotations}, Spec: corev1.PodSpec{NodeName: node}}
	}
	for name, tc := range map[string]struct {
		pod    *corev1.Pod
		exists bool
		want   bool
	}{
		"the node's own":        {pod("uid", "here", nil), true, false},
		"deleted":               {pod("", "", nil), false, true},
		"replaced elsewhere":    {pod("other", "there", nil), true, true},
		"replaced on the node":  {pod("other", "here", nil), true, true},
		"a static pod's mirror": {pod("other", "here", map[string]string{corev1.MirrorPodAnnotationKey: "x"}), true, false},
	} {
		t.Run(name, func(t *testing.T) {
			if why := disowns(tc.pod, tc.exists, "uid", "here"); (why != "") != tc.want {
				t.Errorf("disowns says %q", why)
			}
		})
	}
}
