package main

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
)

// fencerContainer is the fencer in a checkpointer's pod.
const fencerContainer = "fencer"

// freezes are the times for which fencers froze pods, as they logged them.
type freezes struct {
	// ended counts the freezes that are over, longest is the longest of each pod.
	ended   int
	longest map[string]time.Duration

	begun map[string]time.Time // of pods that are frozen now
	read  map[string]time.Time // up to when each fencer's log was read
	pods  map[string]string    // names by UID
}

func newFreezes() *freezes {
	return &freezes{longest: map[string]time.Duration{}, begun: map[string]time.Time{}, read: map[string]time.Time{}, pods: map[string]string{}}
}

// entry is what matters of a line of a fencer's log.
type entry struct {
	Time   time.Time `json:"time"`
	Msg    string    `json:"msg"`
	Pod    string    `json:"pod"`
	Cgroup string    `json:"cgroup"`
}

// podGroup finds a pod's UID in the path of its cgroup, as either driver writes it.
var podGroup = regexp.MustCompile(`pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})`)

// take reads on in a fencer's log. Lines that were read before are left out.
func (f *freezes) take(fencer, log string) {
	last := f.read[fencer]
	for line := range strings.Lines(log) {
		var e entry
		if json.Unmarshal([]byte(line), &e) != nil || !e.Time.After(last) {
			continue
		}
		f.read[fencer] = e.Time
		pod := e.Pod
		if match := podGroup.FindStringSubmatch(e.Cgroup); pod == "" && match != nil {
			pod = f.pods[strings.ReplaceAll(match[1], "_", "-")]
		}
		if pod == "" {
			continue
		}
		begun, frozen := f.begun[pod]
		switch {
		case strings.Contains(e.Msg, "frozen") && !frozen:
			f.begun[pod] = e.Time
		case strings.Contains(e.Msg, "thawed") && frozen:
			f.ended++
			f.longest[pod] = max(f.longest[pod], e.Time.Sub(begun))
			delete(f.begun, pod)
		}
	}
}

// until is the longest freeze of each pod, with those that last.
func (f *freezes) until(now time.Time) map[string]time.Duration {
	all := map[string]time.Duration{}
	for pod, length := range f.longest {
		all[pod] = length
	}
	for pod, begun := range f.begun {
		all[pod] = max(all[pod], now.Sub(begun))
	}
	return all
}

// readFreezes reads what the fencers have logged since the last time. The kubelet keeps
// only so much of a log, so it is to be called again and again.
func (o *observer) readFreezes(ctx context.Context) error {
	var pods corev1.PodList
	if err := o.api.List(ctx, &pods, client.InNamespace(v1alpha1.SystemNamespace),
		client.MatchingLabels{"app.kubernetes.io/name": deploy.Checkpointer}); err != nil {
		return fmt.Errorf("list the checkpointers: %w", err)
	}
	for _, pod := range pods.Items {
		o.mu.Lock()
		since := metav1.NewTime(o.freezes.read[pod.Name])
		o.mu.Unlock()
		options := &corev1.PodLogOptions{Container: fencerContainer}
		if !since.IsZero() {
			options.SinceTime = &since
		}
		text, err := o.logs.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, options).DoRaw(ctx)
		if err != nil {
			return fmt.Errorf("read the log of the fencer on %s: %w", pod.Spec.NodeName, err)
		}
		o.mu.Lock()
		for uid, known := range o.pods {
			o.freezes.pods[string(uid)] = known.name
		}
		o.freezes.take(pod.Name, string(text))
		o.frozen = o.freezes.until(time.Now())
		o.mu.Unlock()
	}
	return nil
}
