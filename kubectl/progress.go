package kubectl

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// progress tells people how a Migration goes on: one line for each phase.
type progress struct {
	out io.Writer
	// prefix begins each line, where several pods move at a time.
	prefix string

	told        map[v1alpha1.Phase]bool
	held        v1alpha1.Held
	withdrawing bool
	filling     bool
}

// show tells what is new since the last time.
func (p *progress) show(m *v1alpha1.Migration) {
	if p.told == nil {
		p.told = map[v1alpha1.Phase]bool{}
	}
	for _, step := range m.Status.Phases {
		if p.told[step.Phase] {
			continue
		}
		p.told[step.Phase] = true
		// The clocks of the cluster's machines may differ.
		since := max(0, step.At.Sub(m.BeganAt()))
		line := fmt.Sprintf("%s%7.1fs  %-10s %s", p.prefix, since.Seconds(), step.Phase, detail(m, step.Phase))
		fprintf(p.out, "%s\n", strings.TrimRight(line, " "))
	}
	if m.Withdrawing() && !p.withdrawing {
		p.withdrawing = true
		fprintf(p.out, "%s%7s   is given up (%s): %s\n", p.prefix, "", m.Status.Reason, sentence(m.Status.Message))
	}
	if filling(m) && m.Reached(v1alpha1.PhaseReady) && !p.filling {
		p.filling = true
		fprintf(p.out, "%s%7s   memory is still fetched from other nodes\n", p.prefix, "")
	}
	if held := m.Status.Held; held != nil && (held.Reason != p.held.Reason || held.Message != p.held.Message) {
		fprintf(p.out, "%s%7s   waits (%s): %s\n", p.prefix, "", held.Reason, sentence(held.Message))
	}
	p.held = v1alpha1.Held{}
	if m.Status.Held != nil {
		p.held = *m.Status.Held
	}
}

// filling is whether memory of an open Migration's pod is still to be filled in.
func filling(m *v1alpha1.Migration) bool {
	return m.Open() && m.Status.Restore != nil &&
		slices.ContainsFunc(m.Status.Restore.Containers, func(c v1alpha1.ContainerRestore) bool { return c.Filling })
}

// detail is what there is to say about a completed phase.
func detail(m *v1alpha1.Migration, phase v1alpha1.Phase) string {
	source := m.Status.Source
	switch phase {
	case v1alpha1.PhasePrepared:
		if source != nil && source.PreparedGeneration != 0 {
			return fmt.Sprintf("generation %d is durable", source.PreparedGeneration)
		}
	case v1alpha1.PhaseStopped:
		if source != nil && source.Checkpoint != nil {
			text := fmt.Sprintf("generation %d, %s", source.Checkpoint.Generation, size(source.Checkpoint.Bytes))
			if source.BytesSent > 0 {
				text += fmt.Sprintf("; %s copied to other nodes", size(source.BytesSent))
			}
			return text
		}
	case v1alpha1.PhaseScheduled:
		if m.Status.Claim != nil {
			return fmt.Sprintf("pod %s on %s", m.Status.Claim.PodName, m.Status.Claim.NodeName)
		}
	case v1alpha1.PhaseRestoring:
		if r := m.Status.Restore; r != nil && r.Generation != 0 {
			return fmt.Sprintf("generation %d", r.Generation)
		}
	}
	return ""
}

// conclusion is what came of a closed Migration, in sentences.
func conclusion(m *v1alpha1.Migration) string {
	pod, s := m.Namespace+"/"+m.Spec.Pod.Name, m.Status
	where := ""
	if s.Claim != nil {
		where = " on " + s.Claim.NodeName
		if s.Claim.PodName != m.Spec.Pod.Name {
			where = " as " + s.Claim.PodName + where
		}
	}
	in := ""
	if s.RTOSeconds > 0 {
		in = " after " + took(seconds(s.RTOSeconds))
	}
	if s.DowntimeSeconds > 0 {
		in += fmt.Sprintf(", of which it did not answer for %s", took(seconds(s.DowntimeSeconds)))
	}
	because := ""
	switch {
	case s.Message != "" && s.Reason != "":
		because = fmt.Sprintf(" %s: %s", s.Reason, sentence(s.Message))
	case s.Message != "" || s.Reason != "":
		because = " " + sentence(s.Reason+s.Message)
	}
	if m.Clones() {
		return cloned(m, because)
	}
	switch s.Result {
	case v1alpha1.ResultRestored:
		return fmt.Sprintf("Pod %s runs%s with its memory%s.", pod, where, in)
	case v1alpha1.ResultImported:
		return fmt.Sprintf("Pod %s has handed over its state, and runs%s%s.", pod, where, in)
	case v1alpha1.ResultReplaced:
		return fmt.Sprintf("Pod %s was replaced by a new one%s%s.", pod, where, in)
	case v1alpha1.ResultColdStarted:
		return fmt.Sprintf("Pod %s started anew%s, without its memory%s.%s", pod, where, in, because)
	case v1alpha1.ResultWithdrawn:
		return fmt.Sprintf("Pod %s stays on %s: the migration was withdrawn.%s", pod, m.Spec.SourceNode, because)
	case v1alpha1.ResultFailed:
		return fmt.Sprintf("Pod %s is not ready: the migration failed.%s", pod, because)
	}
	return fmt.Sprintf("Pod %s: %s.%s", pod, s.Result, because)
}

// resultStatus is the exit status that a closed Migration stands for.
func resultStatus(result v1alpha1.Result) int {
	switch result {
	case v1alpha1.ResultRestored, v1alpha1.ResultImported, v1alpha1.ResultReplaced:
		return ExitDone
	case v1alpha1.ResultColdStarted:
		return ExitColdStarted
	}
	return ExitFailed
}

// goesOn says of an open Migration that nobody waits for any longer what goes on.
func goesOn(m *v1alpha1.Migration) string {
	text := fmt.Sprintf("Migration %s/%s goes on in the cluster: %s.", m.Namespace, m.Name, stands(m))
	if cancelable(m) {
		text += fmt.Sprintf(" To give it up: kubectl lifeboat cancel %s -n %s", m.Name, m.Namespace)
	}
	return text
}

// stands is how an open Migration stands, within a sentence.
func stands(m *v1alpha1.Migration) string {
	switch {
	case m.Withdrawing():
		return "it is being given up"
	case m.Status.Held != nil:
		return "it waits, " + string(m.Status.Held.Reason)
	case m.Status.Phase == "":
		return "nothing was done yet"
	}
	return "it has reached " + string(m.Status.Phase)
}

// since is the time from one moment to another as a column shows it.
func since(from, to time.Time) string { return "+" + took(max(0, to.Sub(from))) }
