package migrate

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// staged is a planned move of a StatefulSet's pod whose state was exported and is to be
// imported into its next pod.
func staged(m *v1alpha1.Migration) {
	m.Spec.Strategy, m.Status.Phases, m.Status.Checkpoint = v1alpha1.StrategyApplication, nil, nil
	for _, phase := range []v1alpha1.Phase{v1alpha1.PhaseAccepted, v1alpha1.PhaseStopping, v1alpha1.PhaseStopped, v1alpha1.PhaseDeleted} {
		stamp(m, phase, at(3))
	}
	m.Status.Source = &v1alpha1.SourceStatus{StoppedAt: ptr.To(micro(2.9))}
}

// answered is what the target says of the import, and committed that it was the last word.
func answered(succeeded bool, output string) func(*v1alpha1.Migration) {
	return func(m *v1alpha1.Migration) {
		m.Status.Restore = &v1alpha1.RestoreStatus{PodUID: "new", StartedAt: micro(4),
			Hooks: []v1alpha1.HookResult{{Name: hookImport, Container: "app", Succeeded: succeeded, Output: output}}}
	}
}

func committed(m *v1alpha1.Migration) { m.Status.Restore.CommittedAt = ptr.To(micro(5)) }

// TestJudgeImport: nothing but the application's own word, noted as the last one, is a
// success; and a pod that is Ready without the state is waited for.
func TestJudgeImport(t *testing.T) {
	refusedForGood := func(m *v1alpha1.Migration) {
		m.Status.Restore.Containers = []v1alpha1.ContainerRestore{{Name: "app", Result: v1alpha1.ResultColdStarted, Reason: v1alpha1.ReasonImportFailed, Message: "507: no room"}}
	}
	began := func(second float64) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(at(second))}
		}
	}
	type changes []func(*v1alpha1.Migration)
	for name, tc := range map[string]struct {
		changes changes
		pod     *corev1.Pod
		now     float64
		want    string // result, reason: part of the message
		look    float64
	}{
		"nobody has claimed it":           {nil, next(), 5, "", 603},
		"it starts":                       {changes{claimed}, next(), 5, "", 603},
		"it is Ready without its state":   {changes{claimed}, next(isReady), 5, "", 603},
		"it has refused once":             {changes{claimed, answered(false, "503")}, next(isReady), 5, "", 603},
		"it has it, nobody says for good": {changes{claimed, answered(true, "ok")}, next(isReady), 5, "", 603},
		"it has it, and is not Ready":     {changes{claimed, answered(true, "ok"), committed}, next(), 5, "", 603},
		"it has it":                       {changes{claimed, answered(true, "ok"), committed}, next(isReady, began(4)), 5, "Imported : pod cart-0 on node n2 has taken the state over", 0},
		"it had it, and began anew":       {changes{claimed, answered(true, "ok"), committed}, next(isReady, began(7)), 8, "ColdStarted ImportFailed: container app took over the state, but ended", 0},
		"it refuses for good":             {changes{claimed, answered(false, "507"), refusedForGood, committed}, next(isReady), 5, "ColdStarted ImportFailed: container app did not take over the state: 507: no room", 0},
		"it refuses, and is never Ready":  {changes{claimed, answered(false, "507"), refusedForGood, committed}, next(), 603, "Failed NotReady: is not Ready", 0},
		"the last word is none":           {changes{claimed, answered(false, "507"), committed}, next(isReady), 5, "ColdStarted ImportFailed: nobody says that the state was taken over: 507", 0},
		"it never listens":                {changes{claimed}, next(isReady), 603, "ColdStarted ImportFailed: it has not answered yet", 0},
		"another pod's word":              {changes{claimed, answered(true, "ok"), committed, func(m *v1alpha1.Migration) { m.Status.Restore.PodUID = "former" }}, next(isReady), 5, "", 603},
		"it had it, and is gone":          {changes{claimed, answered(true, "ok"), committed}, nil, 5, "Failed PodReplaced: was deleted", 0},
		"another scheduler's":             {nil, next(isReady), 5, "ColdStarted NotAsked: without claiming", 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := deleted(append(changes{staged}, tc.changes...)...)
			got := Judge(m, tc.pod, at(tc.now))
			head, text, _ := strings.Cut(tc.want, ": ")
			if strings.TrimSpace(string(got.Result)+" "+got.Reason) != strings.TrimSpace(head) || !strings.Contains(got.Message, text) {
				t.Errorf("got %q %q: %s\nwant %s", got.Result, got.Reason, got.Message, tc.want)
			}
			var look time.Time
			if tc.look != 0 {
				look = at(tc.look)
			}
			if !got.Look.Equal(look) {
				t.Errorf("looks again at %s, want %s", got.Look.Sub(start), look.Sub(start))
			}
			if mayBeReady(m) != (m.RestoreCommitted() || m.Status.Restore != nil && m.Status.Restore.PodUID == "new" && m.Status.Restore.Hooks[0].Succeeded) {
				t.Error("a pod is called Ready that has not its state")
			}
		})
	}
}

// TestLosesSuccessor: of the pods on a lost node only those are removed without a failover
// that were to import a state and have not.
func TestLosesSuccessor(t *testing.T) {
	unowned := func(m *v1alpha1.Migration) {
		m.Spec.Pod = v1alpha1.PodIdentity{Name: "cart-0", UID: "old"}
	}
	job := func(m *v1alpha1.Migration) { m.Spec.Pod.Name, m.Spec.Pod.OwnerKind = "cart-abcde", "Job" }
	closed := func(m *v1alpha1.Migration) { m.Status.Result = v1alpha1.ResultColdStarted }
	released := func(m *v1alpha1.Migration) {
		m.Annotations = map[string]string{v1alpha1.AnnotationPodLabels: "{}"}
	}
	bare := func(p *corev1.Pod) { p.OwnerReferences = nil }
	sibling := func(p *corev1.Pod) { p.Name, p.OwnerReferences[0].Kind = "cart-fghij", "Job" }
	for name, tc := range map[string]struct {
		changes []func(*v1alpha1.Migration)
		pod     *corev1.Pod
		want    bool
	}{
		"it has claimed":               {[]func(*v1alpha1.Migration){claimed}, next(), true},
		"its import goes on":           {[]func(*v1alpha1.Migration){claimed, answered(false, "503")}, next(), true},
		"it has the state":             {[]func(*v1alpha1.Migration){claimed, answered(true, "ok"), committed}, next(), false},
		"its claim was taken already":  {nil, next(), true},
		"so was a bare one's":          {[]func(*v1alpha1.Migration){unowned}, next(bare), true},
		"a Job's, begun":               {[]func(*v1alpha1.Migration){job, answered(false, "503")}, next(sibling), true},
		"another one of the Job's":     {[]func(*v1alpha1.Migration){job}, next(sibling), false},
		"another pod has claimed":      {[]func(*v1alpha1.Migration){claimed}, next(func(p *corev1.Pod) { p.UID = "another" }), false},
		"the old pod":                  {nil, next(func(p *corev1.Pod) { p.UID = "old" }), false},
		"the move is over":             {[]func(*v1alpha1.Migration){claimed, closed}, next(), false},
		"the old pod runs, beside it":  {[]func(*v1alpha1.Migration){claimed, released}, next(), false},
		"what moves is a checkpoint":   {[]func(*v1alpha1.Migration){claimed, func(m *v1alpha1.Migration) { m.Spec.Strategy = v1alpha1.StrategyCold }}, next(), false},
		"the pod is of another's kind": {nil, next(bare), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := losesSuccessor(deleted(append([]func(*v1alpha1.Migration){staged}, tc.changes...)...), tc.pod); got != tc.want {
				t.Errorf("it says %t", got)
			}
		})
	}
}
