package plugin

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// A clone is placed by the Migration that it was made for, and by no other; and nobody else
// is by that.
func TestClaimClone(t *testing.T) {
	clones := func(m *v1alpha1.Migration) {
		by(v1alpha1.StrategyClone, v1alpha1.PhaseAccepted)(m)
		m.Spec.Pod = v1alpha1.PodIdentity{Name: "warm"}
		m.Spec.Clone = &v1alpha1.CloneSource{Pod: v1alpha1.PodIdentity{Name: "web-1", UID: "old", OwnerUID: "rs"}}
	}
	asked := func(m *v1alpha1.Migration) { m.Status.Phases, m.Status.Phase = nil, "" }
	withdrawing := func(m *v1alpha1.Migration) { m.Status.Reason = v1alpha1.ReasonCanceled }
	of := func(uid string) *corev1.Pod {
		pod := successor("warm", "", "")
		pod.Labels = map[string]string{v1alpha1.LabelClone: uid}
		return pod
	}
	for name, tc := range map[string]struct {
		pod       *corev1.Pod
		migration *v1alpha1.Migration
		want      bool
	}{
		"its own":                       {of("uid-m"), lost("m", "", "", "", clones), true},
		"its own, claimed":              {of("uid-m"), lost("m", "", "", "", clones, claimed("new")), true},
		"not accepted":                  {of("uid-m"), lost("m", "", "", "", clones, asked), false},
		"being given up":                {of("uid-m"), lost("m", "", "", "", clones, withdrawing), false},
		"claimed by another":            {of("uid-m"), lost("m", "", "", "", clones, claimed("other")), false},
		"closed":                        {of("uid-m"), lost("m", "", "", "", clones, closed), false},
		"another clone's":               {of("uid-n"), lost("m", "", "", "", clones), false},
		"a pod of its name":             {successor("warm", "", ""), lost("m", "", "", "", clones), false},
		"the next pod of the other one": {successor("web-2", "ReplicaSet", "rs"), lost("m", "", "", "", clones), false},
		"a lost pod of its name":        {of("uid-m"), lost("n", "warm", "", "", phase(v1alpha1.PhaseDeleted)), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Match(tc.pod, []*v1alpha1.Migration{tc.migration}) != nil; got != tc.want {
				t.Errorf("it may be claimed: %t", got)
			}
		})
	}
	m := lost("m", "", "", "", clones, goesTo("node-b"))
	m.Status.Checkpoint = &v1alpha1.HeldCheckpoint{Generation: 7, Bytes: 1}
	pl := &placement{migration: m}
	if !prepared(m) || !pl.restores() || pl.choose(true) || pl.only != "node-b" || pl.avoid != "" {
		t.Errorf("prepared: %t, placement %+v", prepared(m), pl)
	}
}
