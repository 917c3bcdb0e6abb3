package kubectl

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func newDescribe(b base) *cobra.Command {
	cmd := &cobra.Command{
		Use: "describe", Short: "Show all about one migration, or one pod",
		Example: "  kubectl lifeboat describe migration cart-0-4\n  kubectl lifeboat describe pod cart-0",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 && b.byKind(args[0]) != nil {
				return nil
			}
			if len(args) > 0 {
				return usage("describe %q is not known; use %q or %q", args[0], "describe migration NAME", "describe pod NAME")
			}
			return usage("say what to describe: %q or %q", "describe migration NAME", "describe pod NAME")
		},
		RunE: func(cmd *cobra.Command, args []string) error { return b.byKind(args[0])(cmd.Context(), args[0]) },
	}
	cmd.AddCommand(
		&cobra.Command{
			Use: "migration NAME", Aliases: []string{"migrations", "mig"}, Short: "Show how a migration went, step by step",
			Args:              arguments(1, 1, "kubectl lifeboat describe migration cart-0-4"),
			ValidArgsFunction: b.complete(1, listMigrations(anyMigration)),
			RunE:              func(cmd *cobra.Command, args []string) error { return b.describeMigration(cmd.Context(), args[0]) },
		},
		&cobra.Command{
			Use: "pod NAME", Aliases: []string{"pods", "po"}, Short: "Show how a pod is protected, and its migrations",
			Args:              arguments(1, 1, "kubectl lifeboat describe pod cart-0"),
			ValidArgsFunction: b.complete(1, listPods),
			RunE:              func(cmd *cobra.Command, args []string) error { return b.describePod(cmd.Context(), args[0]) },
		})
	return cmd
}

// byKind is what describes an argument with its kind before it, as "pod/cart-0".
func (b base) byKind(argument string) func(context.Context, string) error {
	switch {
	case trimKind(argument, migrationKinds) != argument:
		return b.describeMigration
	case trimKind(argument, podKinds) != argument:
		return b.describePod
	}
	return nil
}

// page is text with names and values in two columns.
type page struct{ strings.Builder }

// line adds a name and its value; nothing where there is no value.
func (p *page) line(indent, name, value string) {
	if value != "" {
		fmt.Fprintf(p, "%s%-*s %s\n", indent, 16-len(indent), name+":", oneLine(value))
	}
}

func (p *page) section(name string) { fmt.Fprintf(p, "%s:\n", name) }

func (b base) describeMigration(ctx context.Context, name string) error {
	c, err := b.connect()
	if err != nil {
		return err
	}
	m, err := c.migration(ctx, name)
	if err != nil {
		return err
	}
	p := &page{}
	p.migration(m, c.now())
	p.events(c.events(ctx, m), c.now())
	_, err = io.WriteString(b.streams.Out, p.String())
	return err
}

// migration writes all about a Migration.
func (p *page) migration(m *v1alpha1.Migration, now time.Time) {
	s := &m.Status
	p.line("", "Name", m.Name)
	p.line("", "Namespace", m.Namespace)
	pod := m.Spec.Pod.Name
	if m.Spec.Pod.OwnerKind != "" {
		pod += fmt.Sprintf(" (of %s %s)", m.Spec.Pod.OwnerKind, m.Spec.Pod.OwnerName)
	}
	p.line("", "Pod", pod)
	if m.Clones() {
		p.line("", "Clone of", original(m))
	}
	p.line("", "Strategy", string(m.Spec.Strategy))
	p.line("", "Reason", string(m.Spec.Reason))
	p.line("", "From", m.Spec.SourceNode)
	to := target(m)
	if m.Spec.TargetNode != "" && s.Claim == nil {
		to += " (asked for)"
	}
	p.line("", "To", to)
	p.line("", "Epoch", itoa(int(m.Spec.Epoch)))
	lost := "Lost"
	if m.Planned() {
		lost = "Asked"
		p.line("", "Deadline", (time.Duration(m.Spec.DeadlineSeconds) * time.Second).String())
	}
	began := metav1.NewMicroTime(m.BeganAt())
	p.line("", lost, fmt.Sprintf("%s (%s ago)", m.BeganAt().UTC().Format(time.RFC3339), age(now, &began)))
	p.line("", "State", state(m))
	if s.Held != nil && m.Open() {
		p.line("", "Waits because", sentence(s.Held.Message))
	}
	if wanted := m.Annotations[v1alpha1.AnnotationCancel]; wanted != "" {
		p.line("", "Cancel asked", wanted)
	}
	p.line("", "Why", s.Reason)
	p.line("", "Message", s.Message)
	if s.RTOSeconds > 0 {
		p.line("", "Took", took(seconds(s.RTOSeconds)))
	}
	if s.DowntimeSeconds > 0 {
		p.line("", "Did not answer", took(seconds(s.DowntimeSeconds)))
	}
	if s.Restore != nil && s.Restore.Generation != 0 && !m.Open() {
		p.line("", "State's age", took(seconds(s.RPOSeconds)))
	}
	p.phases(m)
	p.source(m)
	p.restore(m)
	if hooks := hooks(m); len(hooks) > 0 {
		p.section("Hooks")
		t := newTable("hook", "container", "result", "took", "output")
		for _, h := range hooks {
			result := "Succeeded"
			if !h.Succeeded {
				result = "Failed"
			}
			t.row(h.Name, h.Container, result, took(seconds(h.Seconds)), strings.TrimSpace(h.Output))
		}
		p.table(t)
	}
}

// hooks are all that were called for a Migration, in their order.
func hooks(m *v1alpha1.Migration) []v1alpha1.HookResult {
	var all []v1alpha1.HookResult
	if m.Status.Source != nil {
		all = append(all, m.Status.Source.Hooks...)
	}
	if m.Status.Restore != nil {
		all = append(all, m.Status.Restore.Hooks...)
	}
	return all
}

// table writes a table, indented.
func (p *page) table(t *table) {
	var text strings.Builder
	// It writes to memory.
	_ = t.print(&text, layout{wide: true})
	for line := range strings.Lines(text.String()) {
		p.WriteString("  " + strings.TrimRight(line, " \n") + "\n")
	}
}

// phases writes when each phase was completed, and how long it took.
func (p *page) phases(m *v1alpha1.Migration) {
	if len(m.Status.Phases) == 0 {
		return
	}
	steps := slices.Clone(m.Status.Phases)
	slices.SortStableFunc(steps, func(x, y v1alpha1.PhaseTime) int { return x.At.Compare(y.At.Time) })
	p.section("Phases")
	t := newTable("phase", "at", "after", "took", "what")
	before := metav1.NewMicroTime(m.BeganAt())
	for _, step := range steps {
		what := detail(m, step.Phase)
		if what == "" {
			what = " "
		}
		t.row(string(step.Phase), step.At.UTC().Format("15:04:05.000"), since(m.BeganAt(), step.At.Time), took(max(0, step.At.Sub(before.Time))), what)
		before = step.At
	}
	p.table(t)
}

// source writes what the checkpointer on the source node said.
func (p *page) source(m *v1alpha1.Migration) {
	s := m.Status.Source
	if s == nil {
		return
	}
	p.section("Source")
	p.line("  ", "Node", m.Spec.SourceNode)
	if s.PreparedAt != nil {
		p.line("  ", "Prepared", fmt.Sprintf("generation %d", s.PreparedGeneration))
	}
	if s.PausedAt != nil {
		p.line("  ", "Paused", since(m.BeganAt(), s.PausedAt.Time))
	}
	if s.StoppedAt != nil {
		p.line("  ", "Stopped", since(m.BeganAt(), s.StoppedAt.Time))
	}
	if c := s.Checkpoint; c != nil {
		p.line("  ", "Checkpoint", fmt.Sprintf("generation %d, %s, held by %s", c.Generation, size(c.Bytes), strings.Join(c.Holders, ", ")))
	}
	if s.BytesSent > 0 {
		p.line("  ", "Copied", size(s.BytesSent))
	}
	p.line("  ", "Error", s.Error)
}

// restore writes what the checkpointer on the target node said.
func (p *page) restore(m *v1alpha1.Migration) {
	if c := m.Status.Claim; c != nil {
		p.section("Target")
		p.line("  ", "Node", c.NodeName)
		p.line("  ", "Pod", c.PodName)
	}
	r := m.Status.Restore
	if r == nil {
		return
	}
	p.section("Restore")
	p.line("  ", "Generation", generation(r.Generation))
	if r.ParkedAt != nil {
		p.line("  ", "Parked", since(m.BeganAt(), r.ParkedAt.Time))
	}
	if r.Attempts > 1 {
		p.line("  ", "Attempts", itoa(int(r.Attempts)))
	}
	for _, skipped := range r.Skipped {
		p.line("  ", "Passed over", fmt.Sprintf("generation %d: %s", skipped.Generation, skipped.Reason))
	}
	if len(r.Containers) == 0 {
		return
	}
	t := newTable("container", "result", "took", "memory", "why")
	for _, c := range r.Containers {
		memory := "at once"
		switch {
		case c.Result != v1alpha1.ResultRestored:
			memory = ""
		case c.Filling:
			memory = "on demand, filling"
		case c.Lazy:
			memory = "on demand, filled"
		}
		t.row(c.Name, string(c.Result), took(seconds(c.Seconds)), memory, strings.TrimPrefix(c.Reason+": "+c.Message, ": "))
	}
	p.table(t)
}

// events are those about an object, oldest first; none where they may not be read.
func (c *cluster) events(ctx context.Context, object client.Object) []corev1.Event {
	var events corev1.EventList
	if err := c.List(ctx, &events, client.InNamespace(object.GetNamespace()), client.MatchingFields{"involvedObject.uid": string(object.GetUID())}); err != nil {
		return nil
	}
	slices.SortStableFunc(events.Items, func(x, y corev1.Event) int { return seenAt(&x).Compare(seenAt(&y)) })
	return events.Items
}

// seenAt is when an event was seen last.
func seenAt(e *corev1.Event) time.Time {
	switch {
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.CreationTimestamp.Time
}

func (p *page) events(events []corev1.Event, now time.Time) {
	if len(events) == 0 {
		return
	}
	p.section("Events")
	t := newTable("type", "reason", "age", "message")
	for i := range events {
		e := &events[i]
		t.row(e.Type, e.Reason, took(max(0, now.Sub(seenAt(e))).Round(time.Second)), strings.TrimSpace(e.Message))
	}
	p.table(t)
}

func (b base) describePod(ctx context.Context, name string) error {
	c, err := b.connect()
	if err != nil {
		return err
	}
	s, err := read(ctx, c, name)
	if err != nil {
		return err
	}
	var migrations v1alpha1.MigrationList
	if s.installed {
		if err := c.List(ctx, &migrations, client.InNamespace(s.pod.Namespace)); err != nil {
			return failed(err, "list migrations of namespace %s", s.pod.Namespace)
		}
	}
	p := &page{}
	p.pod(s, c.now())
	p.history(s.pod, migrations.Items, c.now())
	_, err = io.WriteString(b.streams.Out, p.String())
	return err
}

// pod writes how a pod is protected.
func (p *page) pod(s seen, now time.Time) {
	asks, err := v1alpha1.ParseAnnotations(s.pod.Annotations)
	p.line("", "Name", s.pod.Name)
	p.line("", "Namespace", s.pod.Namespace)
	p.line("", "Node", s.pod.Spec.NodeName)
	switch {
	case err != nil:
		p.line("", "Protected", "no: "+err.Error())
		return
	case !asks.Protected:
		p.line("", "Protected", "no: it has no annotation "+v1alpha1.AnnotationFailover)
		fmt.Fprintf(p, "%s\n", howToProtect(s.pod))
		return
	}
	yes := "yes"
	if ok, reason, message := protection(s.pod, s.checkpoint); !ok {
		yes = fmt.Sprintf("not at present, %s: %s", reason, message)
	}
	p.line("", "Protected", yes)
	p.line("", "Interval", asks.Interval.String())
	p.line("", "Replicas", itoa(asks.Replicas))
	p.line("", "Moves by", string(asks.Strategy))
	if s.checkpoint != nil {
		if c := s.checkpoint.Status; c.Generation != 0 {
			p.section("Checkpoint")
			p.line("  ", "Generation", generation(c.Generation))
			p.line("  ", "Age", age(now, c.TakenAt))
			p.line("  ", "Pause", c.Pause)
			p.line("  ", "Size", fmt.Sprintf("%s, of which %s were new", c.Size, size(c.NewBytes)))
			p.line("  ", "Held by", strings.Join(c.Holders, ", "))
		}
		if verdict := judge(s); len(verdict.Findings) > 0 {
			p.section("Findings")
			var text strings.Builder
			verdict.table(&text, false)
			for line := range strings.Lines(text.String()) {
				p.WriteString("  " + line)
			}
		}
	}
}

// history writes the Migrations of a pod's name, newest first.
func (p *page) history(pod *corev1.Pod, migrations []v1alpha1.Migration, now time.Time) {
	var own []client.Object
	for i := range migrations {
		if m := &migrations[i]; about(m, pod.Name) {
			own = append(own, m)
		}
	}
	if len(own) == 0 {
		return
	}
	byAge(own)
	slices.Reverse(own)
	p.section("Migrations")
	t := newTable("name", "strategy", "reason", "from", "to", "state", "time", "age")
	for _, o := range own {
		m := o.(*v1alpha1.Migration)
		row := migrationRow(m, now)
		t.row(m.Name, row[1], string(m.Spec.Reason), row[2], row[3], row[4], row[5], row[7])
	}
	p.table(t)
}
