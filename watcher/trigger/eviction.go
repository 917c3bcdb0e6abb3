package trigger

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// AnnotationEvicted of a Migration is when somebody who evicts its pod was last told to
// wait, as time.RFC3339. Who was told to wait asks again by the pod's name, and must not
// evict the successor of the same name.
const AnnotationEvicted = "lifeboat.dev/evicted-at"

const (
	// noteEvery is how old AnnotationEvicted may become, and askedAgain how long after
	// it the same one may ask again: kubectl does after at most 25 s, see pollEvery.
	noteEvery  = 10 * time.Second
	askedAgain = time.Minute
	// pollEvery is how often who waits is to ask again. The first answer does not say
	// it: Kubernetes' clients ask ten times before they show an answer that does.
	pollEvery = 2 * time.Second
	// overdueFor is how long after its deadline an open move is taken to be nobody's.
	overdueFor = time.Minute
)

// Eviction is what is known when somebody asks for an eviction.
type Eviction struct {
	Namespace, Name string
	// Pod is the pod of this name, nil if there is none.
	Pod *corev1.Pod
	// UID is the pod that the eviction is meant for, where it says so.
	UID types.UID
	// DryRun is whether nothing may come of it.
	DryRun bool
	// Checkpoint is the pod's, nil if it has none.
	Checkpoint *v1alpha1.Checkpoint
	// Migrations has at least those of the namespace.
	Migrations []v1alpha1.Migration
	// NodeRuns is whether the pod's node may run protected pods, Cordoned whether it is
	// cordoned.
	NodeRuns, Cordoned bool
}

// AnswerKind is what is done about an eviction.
type AnswerKind string

// The kinds of answers.
const (
	LetThrough AnswerKind = "let_through" // Lifeboat does nothing: the pod is evicted
	Begin      AnswerKind = "begin"       // a move is to be recorded, and whoever asks is to wait
	Wait       AnswerKind = "wait"        // whoever asks is to wait
	Gone       AnswerKind = "gone"        // the pod that was meant has left already
)

// Answer is the answer to an eviction.
type Answer struct {
	Kind AnswerKind
	// Message is for whoever asked. With LetThrough it is a warning, and may be empty.
	Message string
	// Migration is the one that is waited for, nil if there is none yet.
	Migration *v1alpha1.Migration
	// Note is whether AnnotationEvicted of Migration is to be written anew.
	Note bool
	// RetryAfter is when whoever waits should ask again; 0 leaves that to him.
	RetryAfter time.Duration
}

// JudgeEviction answers an eviction. A protected pod is moved, and whoever evicts it waits
// until the Migration is closed: until then the node may be needed, though the pod has
// left it. A pod that cannot be moved is let through.
func JudgeEviction(e Eviction, now time.Time) Answer {
	if m := e.underWay(); m != nil {
		return waitFor(m, now)
	}
	if e.Pod == nil {
		return Answer{Kind: LetThrough} // the API server says that there is none
	}
	if m := e.moved(now); m != nil {
		return Answer{Kind: Gone, Migration: m, Message: fmt.Sprintf("Lifeboat has moved the pod from node %s to node %s (migration %s)",
			m.Spec.SourceNode, e.Pod.Spec.NodeName, m.Name)}
	}
	protection, err := v1alpha1.ParseAnnotations(e.Pod.Annotations)
	before := pastOf(e.Pod, v1alpha1.MigrationNodeDrained, e.Migrations, now)
	switch {
	case err != nil || !protection.Protected || !runs(e.Pod) || !e.NodeRuns || before.open != nil, e.UID != "" && e.UID != e.Pod.UID:
		return Answer{Kind: LetThrough}
	case !admitted(e.Pod):
		return anew("it was not admitted by Lifeboat, and has no checkpoints")
	case before.refused != nil:
		return anew("it cannot be moved (migration %s): %s", before.refused.Name, before.refused.Status.Message)
	case before.tried >= maxTries:
		return anew("%d moves have come to nothing, the last one (migration %s) because of %s: %s", before.tried, before.last.Name,
			before.last.Status.Reason, before.last.Status.Message)
	}
	if c := e.uncheckpointable(); c != nil && protection.Strategy != v1alpha1.StrategyApplication {
		return anew("it cannot be checkpointed (%s): %s", c.Reason, c.Message)
	}
	if e.DryRun {
		return Answer{Kind: LetThrough, Message: "Lifeboat would move the pod to another node, and whoever evicts it would wait until that is done"}
	}
	if wait := before.wait(now); wait > 0 {
		return Answer{Kind: Wait, Migration: before.last, Message: fmt.Sprintf("the move of the pod to another node has come to nothing (migration %s, %s: %s); Lifeboat tries again in %s",
			before.last.Name, before.last.Status.Reason, before.last.Status.Message, wait.Round(time.Second))}
	}
	return Answer{Kind: Begin}
}

// anew lets an eviction through with a warning that says why no state is kept.
func anew(why string, args ...any) Answer {
	return Answer{Kind: LetThrough, Message: "Lifeboat does not move the pod, and its successor starts without its state: " + fmt.Sprintf(why, args...)}
}

// underWay is the open planned Migration that concerns the pod, or the one that was here
// under its name; nil if there is none.
func (e Eviction) underWay() *v1alpha1.Migration {
	for i := range e.Migrations {
		m := &e.Migrations[i]
		if !m.Open() || !m.Planned() || m.Clones() || m.Namespace != e.Namespace {
			continue
		}
		if m.Spec.Pod.Name == e.Name || e.Pod != nil && m.ClaimedBy(e.Pod.UID) {
			return m
		}
	}
	return nil
}

// waitFor tells whoever evicts a pod that is moved to wait, as long as somebody can be
// expected to see to the move.
func waitFor(m *v1alpha1.Migration, now time.Time) Answer {
	deadline := m.CreationTimestamp.Add(time.Duration(m.Spec.DeadlineSeconds) * time.Second)
	if !m.TooLateToCancel() && now.Sub(deadline) > overdueFor {
		return anew("its move (migration %s) is overdue; look whether a lifeboat-watcher leads", m.Name)
	}
	step := "not begun yet"
	switch {
	case m.Status.Held != nil:
		step = "held: " + m.Status.Held.Message
	case m.Status.Phase != "":
		step = string(m.Status.Phase)
	}
	noted, err := time.Parse(time.RFC3339, m.Annotations[AnnotationEvicted])
	return Answer{Kind: Wait, Migration: m, RetryAfter: pollEvery, Note: err != nil || now.Sub(noted) >= noteEvery,
		Message: fmt.Sprintf("Lifeboat is moving the pod to another node (migration %s, %s)", m.Name, step)}
}

// moved is the Migration that brought the pod here while somebody waited for the one of
// the same name to go. It is nil where the pod itself is meant: it is named by its UID,
// or its node is to be empty, too.
func (e Eviction) moved(now time.Time) *v1alpha1.Migration {
	if e.Cordoned || e.UID == e.Pod.UID {
		return nil
	}
	for i := range e.Migrations {
		m := &e.Migrations[i]
		if m.Namespace != e.Namespace || !m.Planned() || m.Clones() || m.Spec.Pod.Name != e.Name || m.LostPod() == e.Pod.UID || m.Spec.SourceNode == e.Pod.Spec.NodeName {
			continue
		}
		if noted, err := time.Parse(time.RFC3339, m.Annotations[AnnotationEvicted]); err == nil && now.Sub(noted) <= askedAgain {
			return m
		}
	}
	return nil
}

// uncheckpointable is the condition that says that the pod cannot be checkpointed, nil if
// none does.
func (e Eviction) uncheckpointable() *metav1.Condition {
	if e.Checkpoint == nil || e.Checkpoint.Spec.PodUID != e.Pod.UID {
		return nil
	}
	c := meta.FindStatusCondition(e.Checkpoint.Status.Conditions, v1alpha1.ConditionCheckpointable)
	if c == nil || c.Status != metav1.ConditionFalse {
		return nil
	}
	return c
}
