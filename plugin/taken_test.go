package plugin

import (
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// The owner's next pod waits until the claim is taken from a pod that ended before it
// had anything of the state: it would start without that else.
func TestNextPodWaitsForTheClaimOfOneThatEnded(t *testing.T) {
	deleted := phase(v1alpha1.PhaseDeleted)
	restore := func(status v1alpha1.RestoreStatus) func(*v1alpha1.Migration) {
		status.PodUID = "first"
		return func(m *v1alpha1.Migration) { m.Status.Restore = &status }
	}
	for name, tc := range map[string]struct {
		owner    types.UID
		first    *metav1.Time // when the pod with the claim was deleted; nil while it was not
		gone     bool
		phase    corev1.PodPhase
		change   []func(*v1alpha1.Migration)
		held     bool
		becomes  []func(*v1alpha1.Migration) // what brings the pod back
		migrates bool
	}{
		"it is being deleted":      {owner: "rs", first: ptr.To(at(1)), held: true, becomes: []func(*v1alpha1.Migration){deleted}, migrates: true},
		"its kubelet rejects it":   {owner: "rs", phase: corev1.PodFailed, held: true, becomes: []func(*v1alpha1.Migration){deleted}, migrates: true},
		"it is gone":               {owner: "rs", gone: true, held: true, becomes: []func(*v1alpha1.Migration){deleted}, migrates: true},
		"it is gone, and closed":   {owner: "rs", gone: true, held: true, becomes: []func(*v1alpha1.Migration){deleted, claimed("first"), closed}},
		"it is to be restored yet": {owner: "rs"},
		"another owner's":          {owner: "other", gone: true},
		"it may run":               {owner: "rs", gone: true, change: []func(*v1alpha1.Migration){restore(v1alpha1.RestoreStatus{CommittedAt: ptr.To(metav1.NowMicro())})}},
		"it is to park, and the move may be given up": {owner: "rs", gone: true, change: []func(*v1alpha1.Migration){
			by(v1alpha1.StrategyLive, v1alpha1.PhaseAccepted), released}},
		"the pod is being stopped": {owner: "rs", gone: true, held: true,
			change:   []func(*v1alpha1.Migration){by(v1alpha1.StrategyLive, v1alpha1.PhaseAccepted, v1alpha1.PhaseStopping), released},
			becomes:  []func(*v1alpha1.Migration){by(v1alpha1.StrategyLive, v1alpha1.PhaseAccepted, v1alpha1.PhaseStopping), released},
			migrates: true},
	} {
		t.Run(name, func(t *testing.T) {
			was := lost("m", "web-1", "ReplicaSet", "rs", append([]func(*v1alpha1.Migration){resourceVersion("6"), deleted, claimed("first")}, tc.change...)...)
			api := &server{}
			api.migrations.Store(has(was))
			api.fences.Store(func(w http.ResponseWriter) { answer(w, http.StatusOK, fence("node-a", "5", v1alpha1.FenceFenced)) })
			p, s := against(t, api.handler(t))
			if !tc.gone {
				s.addPod(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "first", UID: "first", DeletionTimestamp: tc.first}, Spec: corev1.PodSpec{NodeName: "node-b"}, Status: corev1.PodStatus{Phase: tc.phase}})
			}
			pod := successor("web-3", "ReplicaSet", tc.owner)
			s.addPod(t, pod)
			p.migrationChanged(nil, was)
			says := func() (why string) {
				for why = passes(t, p, pod); strings.HasPrefix(why, "reading"); why = passes(t, p, pod) {
					waitActivated(t, s, "shop/web-3")
				}
				return why
			}
			why := says()
			if held := strings.Contains(why, "its claim is to be taken from it"); held != tc.held || !held && why != "" {
				t.Fatalf("the pod is held: %q", why)
			}
			if !tc.held {
				return
			}
			is := lost("m", "web-1", "ReplicaSet", "rs", append([]func(*v1alpha1.Migration){resourceVersion("7")}, tc.becomes...)...)
			api.migrations.Store(has(is))
			p.migrationChanged(was, is)
			waitActivated(t, s, "shop/web-3")
			if why := says(); why != "" {
				t.Errorf("it is still held: %s", why)
			}
			if m := p.matchFree(pod); (m != nil) != tc.migrates {
				t.Errorf("it may claim %v", m)
			}
		})
	}
}
