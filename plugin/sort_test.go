package plugin

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kube-scheduler/framework"
	"k8s.io/utils/ptr"
)

type queued struct {
	framework.QueuedPodInfo
	framework.PodInfo
	pod *corev1.Pod
	at  time.Time
}

func (q queued) GetPodInfo() framework.PodInfo { return q }
func (q queued) GetPod() *corev1.Pod           { return q.pod }
func (q queued) GetTimestamp() time.Time       { return q.at }

func TestSort(t *testing.T) {
	shared := newWaiting()
	pod := func(name string, priority *int32, recovery bool, second int) queued {
		p := successor(name, "", "")
		p.UID, p.Spec.Priority = types.UID(name), priority
		shared.add(p)
		if recovery {
			shared.recovers(p)
		}
		return queued{pod: p, at: at(second).Time}
	}
	pods := []queued{
		pod("first", nil, false, 1), pod("recovery-late", nil, true, 9), pod("last", ptr.To[int32](0), false, 5),
		pod("urgent", ptr.To[int32](10), false, 8), pod("recovery-early", nil, true, 7), pod("urgent-recovery", ptr.To[int32](10), true, 9),
		pod("unimportant-recovery", ptr.To[int32](-1), true, 0),
	}
	sort := &LifeboatSort{waiting: shared}
	slices.SortFunc(pods, func(a, b queued) int {
		switch {
		case sort.Less(a, b):
			return -1
		case sort.Less(b, a):
			return 1
		}
		return 0
	})
	var names []string
	for _, q := range pods {
		names = append(names, q.pod.Name)
	}
	const want = "urgent-recovery urgent recovery-early recovery-late first last unimportant-recovery"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("order %s\n want %s", got, want)
	}
}
