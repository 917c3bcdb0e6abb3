package detect

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/membership"
)

func TestFact(t *testing.T) {
	start := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	member := func(state membership.State, lastAlive float64) membership.Member {
		return membership.Member{Name: "a", State: state, LastAlive: at(lastAlive)}
	}
	for name, tc := range map[string]struct {
		s         Sighting
		now       float64
		want      State
		lastAlive time.Time
		reason    string
	}{
		"an answering checkpointer": {
			s:   Sighting{NodeExists: true, Ready: "True", Member: member(membership.Alive, 99.9)},
			now: 100, want: Alive, lastAlive: at(99.9), reason: "its checkpointer answers",
		},
		"an answering checkpointer outweighs a silent kubelet": {
			s:   Sighting{NodeExists: true, Ready: corev1.ConditionUnknown, Member: member(membership.Alive, 99.9), LeaseRenewed: at(10), LeaseSeen: at(10)},
			now: 100, want: Alive, lastAlive: at(99.9), reason: "its checkpointer answers",
		},
		"a suspect": {
			s:   Sighting{NodeExists: true, Ready: "True", Member: member(membership.Suspect, 99.4), LeaseRenewed: at(95), LeaseSeen: at(95.1)},
			now: 100, want: Suspected, lastAlive: at(99.4), reason: "its checkpointer has been silent for 600ms",
		},
		"a dead member": {
			s:   Sighting{NodeExists: true, Ready: "True", Member: member(membership.Dead, 98.5), LeaseRenewed: at(95), LeaseSeen: at(95.1)},
			now: 100, want: Unreachable, lastAlive: at(98.5), reason: "its checkpointer has been silent for 1.5s, and the other members agree",
		},
		"a Lease renewed just before the power cut, seen a moment later, does not save it": {
			s:   Sighting{NodeExists: true, Member: member(membership.Suspect, 99.4), LeaseRenewed: at(99.6), LeaseSeen: at(99.9)},
			now: 100, want: Suspected, lastAlive: at(99.6), reason: "its checkpointer has been silent for 600ms",
		},
		"a Lease renewed after the checkpointer died: only the checkpointer is gone": {
			s:   Sighting{NodeExists: true, Member: member(membership.Dead, 95), LeaseRenewed: at(99), LeaseSeen: at(99.1)},
			now: 100, want: Alive, lastAlive: at(99), reason: "its checkpointer has been silent for 5s, but its kubelet renews its Lease",
		},
		"and no renewal since: the node went after it": {
			s:   Sighting{NodeExists: true, Member: member(membership.Dead, 80), LeaseRenewed: at(87), LeaseSeen: at(87.1)},
			now: 100, want: Unreachable, lastAlive: at(87), reason: "its checkpointer has been silent for 20s, and the other members agree",
		},
		"a kubelet whose clock is an hour ahead proves no life past what was seen": {
			s:   Sighting{NodeExists: true, Member: member(membership.Suspect, 99.4), LeaseRenewed: at(3695), LeaseSeen: at(95)},
			now: 100, want: Suspected, lastAlive: at(99.4), reason: "its checkpointer has been silent for 600ms",
		},
		"a checkpointer that left in order": {
			s:   Sighting{NodeExists: true, Ready: "True", Member: member(membership.Left, 90), LeaseRenewed: at(95), LeaseSeen: at(95.1)},
			now: 100, want: Alive, lastAlive: at(95), reason: "nothing speaks against it",
		},
		"left in order, then the node fell silent": {
			s:   Sighting{NodeExists: true, Ready: "True", Member: member(membership.Left, 60), LeaseRenewed: at(65), LeaseSeen: at(65.1)},
			now: 100, want: Unreachable, lastAlive: at(65), reason: "its kubelet has not renewed its Lease for 35s",
		},
		"never a member, watched for a moment": {
			s:   Sighting{NodeExists: true, Ready: "True", LeaseRenewed: at(10), Watched: at(99)},
			now: 100, want: Alive, lastAlive: at(10), reason: "nothing speaks against it",
		},
		"never a member, status unknown": {
			s:   Sighting{NodeExists: true, Ready: corev1.ConditionUnknown, LeaseRenewed: at(10), Watched: at(99)},
			now: 100, want: Unreachable, lastAlive: at(10), reason: "Kubernetes reports its status as unknown",
		},
		"status unknown, but the kubelet is just back": {
			s:   Sighting{NodeExists: true, Ready: corev1.ConditionUnknown, LeaseRenewed: at(99), LeaseSeen: at(99)},
			now: 100, want: Alive, lastAlive: at(99), reason: "nothing speaks against it",
		},
		"a kubelet that says itself that it is not ready is alive": {
			s:   Sighting{NodeExists: true, Ready: corev1.ConditionFalse, LeaseRenewed: at(99), LeaseSeen: at(99)},
			now: 100, want: Alive, lastAlive: at(99), reason: "nothing speaks against it",
		},
		"a deleted Node": {
			s:   Sighting{Watched: at(0)},
			now: 100, want: Gone, reason: "its Node object was deleted",
		},
		"a Node deleted while its checkpointer died": {
			s:   Sighting{Member: member(membership.Dead, 98)},
			now: 100, want: Unreachable, lastAlive: at(98), reason: "its checkpointer has been silent for 2s, and the other members agree",
		},
	} {
		t.Run(name, func(t *testing.T) {
			tc.s.Node = "a"
			got := tc.s.Fact(at(tc.now))
			if got.State != tc.want || !got.LastAlive.Equal(tc.lastAlive) || got.Reason != tc.reason {
				t.Errorf("got  %s, last alive %s, %q\nwant %s, last alive %s, %q",
					got.State, got.LastAlive, got.Reason, tc.want, tc.lastAlive, tc.reason)
			}
			if got.LastAlive.After(at(tc.now)) {
				t.Error("alive in the future")
			}
		})
	}
}
