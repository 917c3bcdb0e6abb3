package agent

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// TestBeginStop: of the watcher, which gives up a move whose source is silent, and the
// source, which is about to stop the pod, one comes first.
func TestBeginStop(t *testing.T) {
	for name, tc := range map[string]struct {
		meanwhile func(*v1alpha1.Migration)
		refused   bool
	}{
		"nothing happens":           {func(*v1alpha1.Migration) {}, false},
		"something else is written": {func(m *v1alpha1.Migration) { m.Status.Message = "news" }, false},
		"it is given up":            {func(m *v1alpha1.Migration) { m.Status.Reason = v1alpha1.ReasonSourceFailed }, true},
		"it is closed":              {func(m *v1alpha1.Migration) { m.Status.Result = v1alpha1.ResultWithdrawn }, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := planned(v1alpha1.StrategyLive, accepted, stopping)
			w := newWorld(t, nil, m)
			seen, now := &v1alpha1.Migration{}, &v1alpha1.Migration{}
			if err := w.api.Get(t.Context(), ctrlclient.ObjectKeyFromObject(m), seen); err != nil {
				t.Fatal(err)
			}
			changed := seen.DeepCopy()
			tc.meanwhile(changed)
			if err := w.api.Status().Update(t.Context(), changed); err != nil {
				t.Fatal(err)
			}
			if err := w.beginStop(t.Context(), seen); (err != nil) != tc.refused {
				t.Fatalf("it is refused: %v", err)
			}
			if err := w.api.Get(t.Context(), ctrlclient.ObjectKeyFromObject(m), now); err != nil {
				t.Fatal(err)
			}
			if began := now.Status.Source != nil && now.Status.Source.BeganAt != nil; began == tc.refused {
				t.Errorf("the source is %+v", now.Status.Source)
			}
		})
	}
}

// TestCommitRestore: of the watcher, which takes the claim from a pod that is deleted, and
// the pod's node, which is about to restore it, one comes first.
func TestCommitRestore(t *testing.T) {
	for name, tc := range map[string]struct {
		meanwhile func(*v1alpha1.Migration) // what happens after the claim was looked at
		refused   string
	}{
		"nothing happens":              {},
		"something else is written":    {meanwhile: func(m *v1alpha1.Migration) { m.Status.Message = "news" }},
		"the claim is taken":           {meanwhile: func(m *v1alpha1.Migration) { m.Status.Claim = nil }, refused: "was taken from its pod"},
		"another pod has claimed":      {meanwhile: func(m *v1alpha1.Migration) { m.Status.Claim.PodUID = "next" }, refused: "was taken from its pod"},
		"it is closed":                 {meanwhile: func(m *v1alpha1.Migration) { m.Status.Result = v1alpha1.ResultFailed }, refused: "was taken from its pod"},
		"another one of the same name": {meanwhile: func(m *v1alpha1.Migration) { m.UID = "another" }, refused: "was taken from its pod"},
	} {
		t.Run(name, func(t *testing.T) {
			m := planned(v1alpha1.StrategyLive)
			m.UID = "this"
			w := newWorld(t, nil, m)
			seen := &v1alpha1.Migration{}
			if err := w.api.Get(t.Context(), ctrlclient.ObjectKeyFromObject(m), seen); err != nil {
				t.Fatal(err)
			}
			if tc.meanwhile != nil {
				now := seen.DeepCopy()
				tc.meanwhile(now)
				if now.UID != seen.UID {
					if err := w.api.Delete(t.Context(), seen.DeepCopy()); err != nil {
						t.Fatal(err)
					}
					now.ResourceVersion = ""
					if err := w.api.Create(t.Context(), now); err != nil {
						t.Fatal(err)
					}
				} else if err := w.api.Status().Update(t.Context(), now); err != nil {
					t.Fatal(err)
				}
			}
			at, refused := w.commitRestore(t.Context(), seen, v1alpha1.RestoreStatus{PodUID: seen.Status.Claim.PodUID, StartedAt: metav1.NowMicro()})
			if (refused != "") != (tc.refused != "") || !strings.Contains(refused, tc.refused) {
				t.Fatalf("it is refused: %q", refused)
			}
			now := &v1alpha1.Migration{}
			if err := w.api.Get(t.Context(), ctrlclient.ObjectKeyFromObject(m), now); err != nil {
				t.Fatal(err)
			}
			if now.RestoreCommitted() != (refused == "") || refused == "" && !now.Status.Restore.CommittedAt.Equal(at) {
				t.Errorf("the restore is %+v", now.Status.Restore)
			}
		})
	}
}
