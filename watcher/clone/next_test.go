package clone

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

var now = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

// pod is a pod of a Deployment that can be cloned.
func pod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", UID: "web", Labels: map[string]string{"app": "web", "pod-template-hash": "h"},
			Annotations: map[string]string{v1alpha1.AnnotationFailover: "true", "cni.example/address": "10.0.0.1"}},
		Spec: corev1.PodSpec{NodeName: "n1", Hostname: "web", RuntimeClassName: ptr.To(v1alpha1.RuntimeClassName),
			Containers: []corev1.Container{{Name: "app", Image: "shop/web:1"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "app", Image: "shop/web:1", ImageID: "shop/web@sha256:1"}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

// view is a clone of pod() that may begin.
func view(phases ...v1alpha1.Phase) *View {
	v := &View{Source: pod(), Now: now, Held: &v1alpha1.HeldCheckpoint{Generation: 7}, Known: []int64{7, 6}}
	v.Migration = v1alpha1.NewClone(v.Source, v1alpha1.Clone{Name: "warm"}, nil, now)
	v.Migration.UID, v.Migration.CreationTimestamp = "m", metav1.NewTime(now.Add(-time.Minute))
	for _, phase := range phases {
		v.Migration.Status.Phase = phase
		v.Migration.Status.Phases = append(v.Migration.Status.Phases, v1alpha1.PhaseTime{Phase: phase})
	}
	return v
}

// made is a clone whose pod runs on a node, by a claim.
func made() *View {
	v := view(v1alpha1.PhaseAccepted, v1alpha1.PhaseCreated)
	v.Source, v.Held = nil, nil
	v.Pod = PodOf(v.Migration, pod())
	v.Pod.UID, v.Pod.Spec.NodeName = "new", "n2"
	v.Migration.Status.Claim = &v1alpha1.Claim{PodName: "warm", PodUID: "new", NodeName: "n2"}
	return v
}

func isReady(v *View) {
	v.Pod.Status.Conditions = append(v.Pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
}

func reported(result v1alpha1.Result) func(*View) {
	return func(v *View) {
		v.Migration.Status.Restore = &v1alpha1.RestoreStatus{PodUID: "new", Generation: 7, Containers: []v1alpha1.ContainerRestore{{Name: "app", Result: result, Reason: "Why"}}}
	}
}

func TestNext(t *testing.T) {
	volume := func(source corev1.VolumeSource) func(*View) {
		return func(v *View) {
			v.Source.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: source}}
		}
	}
	owner := func(kind string) func(*View) {
		return func(v *View) {
			v.Source.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: "o", UID: "o", Controller: ptr.To(true)}}
			v.Migration.Spec.Clone.Pod = v1alpha1.IdentityOf(v.Source)
		}
	}
	cancelled := func(v *View) { v.Migration.Annotations = map[string]string{v1alpha1.AnnotationCancel: ""} }
	late := func(v *View) { v.Now = now.Add(time.Hour) }
	ended := func(v *View) {
		v.Pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
	}
	judged := func(j Judgement) func(*View) { return func(v *View) { v.Judged = j } }
	placed := func(after time.Duration, message string) func(*View) {
		return func(v *View) {
			v.Migration.Status.Claim, v.Pod.Spec.NodeName = nil, ""
			v.Pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: message, LastTransitionTime: metav1.NewTime(now.Add(-after))}}
		}
	}
	withdrawn, failed := v1alpha1.ResultWithdrawn, v1alpha1.ResultFailed
	type changes []func(*View)
	for name, tc := range map[string]struct {
		view    *View
		changes changes
		do      Do
		result  v1alpha1.Result
		reason  string
	}{
		"it may begin":                  {view(), nil, Accept, "", ""},
		"of a bare pod":                 {view(), changes{func(v *View) { v.Source.OwnerReferences = nil }}, Accept, "", ""},
		"volumes that can be had twice": {view(), changes{volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})}, Accept, "", ""},
		"as many as may":                {view(), changes{func(v *View) { v.Others = Limit }}, Hold, "", ""},
		"held until its deadline":       {view(), changes{func(v *View) { v.Others = Limit }, late}, GiveUp, withdrawn, v1alpha1.ReasonDeadlineExceeded},
		"no generation":                 {view(), changes{func(v *View) { v.Held = nil }}, GiveUp, withdrawn, v1alpha1.ReasonNoCheckpoint},
		"cancelled at once":             {view(), changes{cancelled}, GiveUp, withdrawn, v1alpha1.ReasonCanceled},
		"the pod is gone":               {view(), changes{func(v *View) { v.Source = nil }}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"the pod is another":            {view(), changes{func(v *View) { v.Source.UID = "other" }}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"another owner is named":        {view(), changes{func(v *View) { v.Migration.Spec.Clone.Pod.OwnerName = "x" }}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"of a StatefulSet":              {view(), changes{owner("StatefulSet")}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"of a Job":                      {view(), changes{owner("Job")}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"of a DaemonSet":                {view(), changes{owner("DaemonSet")}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"of something unknown":          {view(), changes{owner("Widget")}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"a claim":                       {view(), changes{volume(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}})}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"a folder of the node":          {view(), changes{volume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{}})}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"a volume of a kind to come":    {view(), changes{volume(corev1.VolumeSource{})}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"the node's network":            {view(), changes{func(v *View) { v.Source.Spec.HostNetwork = true }}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"a port of the node":            {view(), changes{func(v *View) { v.Source.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80}} }}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"not admitted":                  {view(), changes{func(v *View) { v.Source.Spec.RuntimeClassName = nil }}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"not protected":                 {view(), changes{func(v *View) { v.Source.Annotations = nil }}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"another image by now":          {view(), changes{func(v *View) { v.Source.Generation, v.Source.Spec.Containers[0].Image = 2, "shop/web:2" }}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"another name of its image": {view(), changes{func(v *View) {
			v.Source.Generation, v.Source.Status.ContainerStatuses[0].Image = 2, "docker.io/shop/web:1"
		}}, Accept, "", ""},
		"its name is taken":               {view(), changes{func(v *View) { v.Pod = pod() }}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"an owner would adopt it":         {view(), changes{func(v *View) { v.Adopters = []string{"ReplicaSet web"} }}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"its node does not exist":         {view(), changes{func(v *View) { v.Migration.Spec.TargetNode = "n9" }}, GiveUp, withdrawn, v1alpha1.ReasonNotAllowed},
		"accepted":                        {view(v1alpha1.PhaseAccepted), nil, Make, "", ""},
		"made by an earlier leader":       {view(v1alpha1.PhaseAccepted), changes{func(v *View) { v.Pod = PodOf(v.Migration, v.Source) }}, Make, "", ""},
		"accepted, and the pod has gone":  {view(v1alpha1.PhaseAccepted), changes{func(v *View) { v.Source = nil }}, GiveUp, failed, v1alpha1.ReasonNotAllowed},
		"its reason is noted":             {view(v1alpha1.PhaseAccepted), changes{func(v *View) { v.Migration.Status.Reason = "Why" }}, GiveUp, failed, "Why"},
		"starting":                        {made(), nil, Wait, "", ""},
		"starting, and cancelled":         {made(), changes{cancelled}, GiveUp, withdrawn, v1alpha1.ReasonCanceled},
		"starting for too long":           {made(), changes{late}, GiveUp, failed, v1alpha1.ReasonDeadlineExceeded},
		"its pod is gone":                 {made(), changes{func(v *View) { v.Pod = nil }}, GiveUp, failed, v1alpha1.ReasonPodReplaced},
		"its pod is another":              {made(), changes{func(v *View) { v.Pod.UID = "other" }}, GiveUp, failed, v1alpha1.ReasonPodReplaced},
		"its pod is somebody's":           {made(), changes{func(v *View) { v.Pod.Labels = nil }, isReady}, GiveUp, failed, v1alpha1.ReasonPodReplaced},
		"its node is lost":                {made(), changes{func(v *View) { v.TargetFenced = true }}, GiveUp, failed, v1alpha1.ReasonTargetFailed},
		"a container could not come back": {made(), changes{reported(v1alpha1.ResultFailed)}, GiveUp, failed, "Why"},
		"a container started anew":        {made(), changes{reported(v1alpha1.ResultColdStarted), isReady, judged(Judgement{Restored: true})}, GiveUp, failed, "Why"},
		"it came back and ended":          {made(), changes{reported(v1alpha1.ResultRestored), ended}, GiveUp, failed, v1alpha1.ReasonRestoreFailed},
		"restored, and not Ready":         {made(), changes{reported(v1alpha1.ResultRestored), judged(Judgement{Restored: true})}, Wait, "", ""},
		"restored, and not all of it":     {made(), changes{reported(v1alpha1.ResultRestored), isReady, judged(Judgement{Undecided: true})}, Wait, "", ""},
		"restored":                        {made(), changes{reported(v1alpha1.ResultRestored), isReady, judged(Judgement{Restored: true})}, Close, v1alpha1.ResultRestored, ""},
		"restored, and cancelled":         {made(), changes{reported(v1alpha1.ResultRestored), isReady, judged(Judgement{Restored: true}), cancelled, late}, Close, v1alpha1.ResultRestored, ""},
		"Ready, and nobody asked":         {made(), changes{isReady, judged(Judgement{Reason: "NotAsked"})}, GiveUp, failed, "NotAsked"},
		"no room yet":                     {made(), changes{placed(time.Hour, "0/3 nodes are available: 3 Insufficient memory")}, Wait, "", ""},
		"no node can restore it yet":      {made(), changes{placed(time.Second, "node cannot restore the pod")}, Wait, "", ""},
		"no node can restore it":          {made(), changes{placed(time.Hour, "node cannot restore the pod")}, GiveUp, failed, v1alpha1.ReasonNoCompatibleNode},
		"placed just now":                 {made(), changes{func(v *View) { v.Migration.Status.Claim = nil }}, Wait, "", ""},
		"placed by another scheduler": {made(), changes{placed(time.Hour, ""), func(v *View) {
			v.Pod.Spec.NodeName = "n2"
		}}, GiveUp, failed, v1alpha1.ReasonNotAsked},
	} {
		t.Run(name, func(t *testing.T) {
			for _, change := range tc.changes {
				change(tc.view)
			}
			step := Next(tc.view)
			if step.Do != tc.do || step.Result != tc.result || step.Reason != tc.reason {
				t.Errorf("%+v, want %s %s %s", step, tc.do, tc.result, tc.reason)
			}
			if step.Do == GiveUp && tc.reason != "Why" && tc.reason != "NotAsked" && step.Message == "" {
				t.Error("it does not say why")
			}
			if step.Do == Wait && step.Look.IsZero() {
				t.Error("nobody looks after it again")
			}
		})
	}
}

func TestNoCheckpoint(t *testing.T) {
	v := view()
	v.Held, v.Migration.Spec.Clone.Generation = nil, 9
	if step := Next(v); !strings.Contains(step.Message, "generation 9 of pod web-1; there are 6, 7") {
		t.Errorf("it says: %s", step.Message)
	}
}

func TestPodOf(t *testing.T) {
	source := pod(func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web", UID: "rs", Controller: ptr.To(true)}}
		p.Finalizers = []string{"example.com/keep"}
		p.Spec.Volumes = []corev1.Volume{
			{Name: "kube-api-access-x", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}},
			{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "kube-api-access-x", MountPath: tokenMountPath}, {Name: "cache", MountPath: "/cache"}}
	})
	m := v1alpha1.NewClone(source, v1alpha1.Clone{Labels: map[string]string{"tier": "warm", v1alpha1.LabelClone: "forged"}}, nil, now)
	m.UID = "m"
	clone := PodOf(m, source)
	if owners := clone.OwnerReferences; len(owners) != 1 || owners[0].UID != m.UID || metav1.GetControllerOf(clone) != nil || len(clone.Finalizers) > 0 || len(clone.Labels) != 2 || !m.ClonedBy(clone) || clone.Labels["tier"] != "warm" {
		t.Errorf("whose is it? %+v", clone.ObjectMeta)
	}
	if len(clone.Annotations) != 1 || clone.Annotations[v1alpha1.AnnotationFailover] != "true" {
		t.Errorf("annotations %v", clone.Annotations)
	}
	spec := clone.Spec
	if spec.NodeName != "" || spec.Hostname != "" || len(spec.Volumes) != 1 || len(spec.Containers[0].VolumeMounts) != 1 || spec.Containers[0].Image != "shop/web@sha256:1" {
		t.Errorf("spec %+v", spec)
	}
	if !strings.HasPrefix(clone.Name, "web-1-clone-") || clone.Name != m.Spec.Pod.Name || len(source.Spec.Volumes) != 2 {
		t.Errorf("name %s; the pod that is cloned has %d volumes", clone.Name, len(source.Spec.Volumes))
	}
}

func TestPinned(t *testing.T) {
	for image, ids := range map[string][2]string{
		"shop/web:1":           {"docker.io/shop/web@sha256:1", "docker.io/shop/web@sha256:1"},
		"never-pulled":         {"sha256:1", "never-pulled"},
		"old-docker":           {"docker://sha256:1", "old-docker"},
		"docker-pulled":        {"docker-pullable://web@sha256:1", "docker-pulled"},
		"shop/web@sha256:1":    {"docker.io/shop/web@sha256:1", "shop/web@sha256:1"},
		"has-not-been-started": {"", "has-not-been-started"},
	} {
		if got := pinned(image, ids[0]); got != ids[1] {
			t.Errorf("%s with the ID %s: %s, want %s", image, ids[0], got, ids[1])
		}
	}
}
