package kubectl

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// strategies are what --strategy may be, and what each means.
var strategies = []struct {
	name     string
	strategy v1alpha1.Strategy
	means    string
}{
	{"live", v1alpha1.StrategyLive, "copy while it runs, stop for what is left"},
	{"warm", v1alpha1.StrategyWarm, "stop, checkpoint what is new, restore"},
	{"cold", v1alpha1.StrategyCold, "stop, checkpoint everything, restore"},
	{"application", v1alpha1.StrategyApplication, "a new pod takes the state over by the pod's own endpoints"},
	{"replace", v1alpha1.StrategyReplace, "no state: a new pod starts elsewhere, then the old one ends"},
}

// parseStrategy reads --strategy; empty is what the pod's annotation says.
func parseStrategy(word string) (v1alpha1.Strategy, error) {
	if word == "" {
		return "", nil
	}
	var names []string
	for _, s := range strategies {
		if strings.EqualFold(word, s.name) {
			return s.strategy, nil
		}
		names = append(names, s.name)
	}
	return "", usage("--strategy %q is not known; use %s", word, oneOf(names))
}

// oneOf joins names as a sentence does.
func oneOf(names []string) string {
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// protected is whether a pod asks for protection, and may.
func protected(pod *corev1.Pod) bool {
	p, err := v1alpha1.ParseAnnotations(pod.Annotations)
	return err == nil && p.Protected
}

// runs is whether a pod has a node, and has not ended.
func runs(pod *corev1.Pod) bool {
	return pod.Spec.NodeName != "" && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// state is how a Migration stands, in one word or two.
func state(m *v1alpha1.Migration) string {
	switch {
	case !m.Open():
		return string(m.Status.Result)
	case m.Withdrawing():
		return "Withdrawing"
	case m.Status.Held != nil:
		return "Held: " + string(m.Status.Held.Reason)
	case m.Status.Phase == "":
		return "Asked"
	}
	return string(m.Status.Phase)
}

// why is why a Migration did not do what it was made for, or does nothing just now.
func why(m *v1alpha1.Migration) string {
	switch {
	case m.Status.Reason != "":
		return m.Status.Reason
	case m.Status.Held != nil:
		return string(m.Status.Held.Reason)
	}
	return ""
}

// target is the node that a Migration's pod goes to, as far as it is known.
func target(m *v1alpha1.Migration) string {
	if m.Status.Claim != nil {
		return m.Status.Claim.NodeName
	}
	return m.Spec.TargetNode
}

// successor is the pod that takes the moved one's place, as far as it is known.
func successor(m *v1alpha1.Migration) string {
	if m.Status.Claim != nil {
		return m.Status.Claim.PodName
	}
	return m.Spec.Pod.Name
}

// about says whether a Migration is of a pod of this name, or made a clone of one.
func about(m *v1alpha1.Migration, pod string) bool {
	return m.Spec.Pod.Name == pod || successor(m) == pod || m.Clones() && m.Spec.Clone.Pod.Name == pod
}

// protection is whether a pod's newest generation would be restored, and why not.
func protection(pod *corev1.Pod, checkpoint *v1alpha1.Checkpoint) (yes bool, reason, message string) {
	if _, err := v1alpha1.ParseAnnotations(pod.Annotations); err != nil {
		return false, v1alpha1.ReasonInvalidAnnotation, err.Error()
	}
	if checkpoint != nil {
		if c := meta.FindStatusCondition(checkpoint.Status.Conditions, v1alpha1.ConditionProtected); c != nil {
			if c.Status == metav1.ConditionTrue {
				return true, "", ""
			}
			return false, c.Reason, c.Message
		}
	}
	if pod.Status.Phase != corev1.PodRunning {
		return false, v1alpha1.ReasonNotRunning, "the pod does not run"
	}
	return false, "NotReported", fmt.Sprintf("the checkpointer on node %s has not reported on it yet; does it run there?", pod.Spec.NodeName)
}

// ownCheckpoint is the Checkpoint of a pod, nil where it has none or an earlier pod of
// the name left it.
func ownCheckpoint(pod *corev1.Pod, checkpoints []v1alpha1.Checkpoint) *v1alpha1.Checkpoint {
	i := slices.IndexFunc(checkpoints, func(c v1alpha1.Checkpoint) bool {
		return c.Namespace == pod.Namespace && c.Name == pod.Name && c.Spec.PodUID == pod.UID
	})
	if i < 0 {
		return nil
	}
	return &checkpoints[i]
}

// openOf is the open Migration that moves a pod, or whose successor it is; nil where
// there is none.
func openOf(pod *corev1.Pod, migrations []v1alpha1.Migration) *v1alpha1.Migration {
	for i := range migrations {
		m := &migrations[i]
		if m.Open() && m.Namespace == pod.Namespace && (m.LostPod() == pod.UID || m.Status.Claim != nil && m.Status.Claim.PodUID == pod.UID) {
			return m
		}
	}
	return nil
}

// age is how long ago something was, as kubectl shows it.
func age(now time.Time, at *metav1.MicroTime) string {
	if at == nil || at.IsZero() {
		return ""
	}
	return duration.HumanDuration(max(0, now.Sub(at.Time)))
}

// took is a time that something took, to a hundredth of a second, or to a millisecond
// below one.
func took(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// size is a number of bytes with one of Kubernetes' units.
func size(bytes int64) string {
	for _, unit := range []struct {
		bytes int64
		name  string
	}{{1 << 40, "Ti"}, {1 << 30, "Gi"}, {1 << 20, "Mi"}, {1 << 10, "Ki"}} {
		if bytes >= 10*unit.bytes {
			return strconv.FormatInt(bytes/unit.bytes, 10) + unit.name
		}
		if bytes >= unit.bytes {
			return fmt.Sprintf("%.1f%s", float64(bytes)/float64(unit.bytes), unit.name)
		}
	}
	return resource.NewQuantity(bytes, resource.BinarySI).String()
}

// generation is a generation's number; empty where there is none.
func generation(number int64) string {
	if number == 0 {
		return ""
	}
	return strconv.FormatInt(number, 10)
}

// sentence ends a text with a full stop.
func sentence(text string) string { return strings.TrimRight(text, ". ") + "." }

func itoa(n int) string { return strconv.Itoa(n) }

// ageOf is how long ago an object was made.
func ageOf(now time.Time, at metav1.Time) string {
	if at.IsZero() {
		return ""
	}
	return duration.HumanDuration(max(0, now.Sub(at.Time)))
}

// fprintf writes to people. Where their terminal is gone, there is nobody to tell.
func fprintf(out io.Writer, format string, arguments ...any) {
	_, _ = fmt.Fprintf(out, format, arguments...)
}

// count is a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return itoa(n) + " " + thing + "s"
}
