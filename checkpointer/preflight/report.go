// Package preflight says, before it matters, whether a pod can be checkpointed
// and restored, and what has to change where it cannot.
//
// Look reads what the node's /proc shows of a pod's containers, without stopping
// anything, and Judge compares that with what CRIU is known to refuse. Spec
// judges a pod by its specification alone, where nobody can look at its processes.
package preflight

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Severity says what a finding means for a checkpoint.
type Severity = v1alpha1.Severity

// The severities.
const (
	// Refuses: the pod cannot be checkpointed as long as this is so.
	Refuses = v1alpha1.SeverityRefuses
	// Warns: the pod can be checkpointed, but at a cost, or its programs see a
	// change after a restore.
	Warns = v1alpha1.SeverityWarns
)

// Finding is one thing that is in the way of a checkpoint, or that changes with one.
type Finding struct {
	// Container is the container's name; empty for the whole pod.
	Container string
	Severity  Severity
	Reason    Reason
	// Pid is the process in question, as numbered inside its container, and
	// Command its name. Pid 0: no process in particular.
	Pid     int
	Command string
	// Detail says what was found.
	Detail string
	// Hint says what to do about it.
	Hint string
}

// Message is the finding in one sentence, without the hint.
func (f Finding) Message() string {
	if f.Pid == 0 {
		return f.Detail
	}
	return fmt.Sprintf("process %d (%s) %s", f.Pid, f.Command, f.Detail)
}

// Report is what was found of one pod.
type Report struct {
	// Findings have those that refuse first, then are in the order of the pod's
	// containers; there is one for each container and reason.
	Findings []Finding
	// Unseen names what could not be looked at: that nothing was found there
	// means nothing.
	Unseen []string
}

// Checkpointable is whether nothing was found that makes a checkpoint impossible.
func (r Report) Checkpointable() bool {
	return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity == Refuses })
}

// Insists returns the first finding that refuses and that an earlier report of the same
// pod has, too; nil where there is none.
func (r Report) Insists(earlier Report) *Finding {
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Severity == Refuses && slices.ContainsFunc(earlier.Findings, func(e Finding) bool {
			return e.Container == f.Container && e.Reason == f.Reason && e.Pid == f.Pid
		}) {
			return f
		}
	}
	return nil
}

// WithoutRefusals is the report without the findings that refuse.
func (r Report) WithoutRefusals() Report {
	r.Findings = slices.DeleteFunc(slices.Clone(r.Findings), func(f Finding) bool { return f.Severity == Refuses })
	return r
}

// gatherer collects findings, one for each container and reason.
type gatherer struct {
	findings []Finding
	more     []int // how many like the finding followed it
}

// add notes a finding of a container as a whole.
func (g *gatherer) add(container string, reason Reason, detail string, arguments ...any) {
	g.addProcess(container, reason, Process{}, detail, arguments...)
}

// addProcess notes a finding of a process.
func (g *gatherer) addProcess(container string, reason Reason, p Process, detail string, arguments ...any) {
	same := func(f Finding) bool { return f.Container == container && f.Reason == reason }
	if i := slices.IndexFunc(g.findings, same); i >= 0 {
		g.more[i]++
		return
	}
	rule := rules[reason]
	g.findings = append(g.findings, Finding{
		Container: container, Severity: rule.severity, Reason: reason, Hint: rule.hint,
		Pid: p.Pid, Command: p.Command, Detail: fmt.Sprintf(detail, arguments...),
	})
	g.more = append(g.more, 0)
}

// report is what was gathered, those that refuse first.
func (g *gatherer) report() Report {
	for i, more := range g.more {
		if more > 0 {
			g.findings[i].Detail += fmt.Sprintf(", and %d more like it", more)
		}
	}
	slices.SortStableFunc(g.findings, func(x, y Finding) int {
		return cmp.Compare(rank(x), rank(y))
	})
	return Report{Findings: g.findings}
}

// rank orders findings by what they mean.
func rank(f Finding) int {
	if f.Severity == Refuses {
		return 0
	}
	return 1
}
