package kubectl

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// scope is of which pods a list is made.
type scope struct {
	everywhere bool
	selector   string
}

func scopeFlags(cmd *cobra.Command) *scope {
	s := &scope{}
	cmd.Flags().BoolVarP(&s.everywhere, "all-namespaces", "A", false, "List those of all namespaces.")
	cmd.Flags().StringVarP(&s.selector, "selector", "l", "", "Only of pods with these labels, as -l app=cart,tier!=test.")
	return s
}

// inNamespace limits a list to the namespace, or to none.
func (s *scope) inNamespace(c *cluster) client.ListOption {
	if s.everywhere {
		return client.InNamespace("")
	}
	return client.InNamespace(c.namespace)
}

// pods are the pods of the scope.
func (s *scope) pods(ctx context.Context, c *cluster) ([]corev1.Pod, error) {
	selector, err := parseSelector(s.selector)
	if err != nil {
		return nil, err
	}
	var pods corev1.PodList
	err = c.List(ctx, &pods, s.inNamespace(c), client.MatchingLabelsSelector{Selector: selector})
	slices.SortFunc(pods.Items, func(x, y corev1.Pod) int {
		return cmp.Or(strings.Compare(x.Namespace, y.Namespace), strings.Compare(x.Name, y.Name))
	})
	return pods.Items, failed(err, "list pods")
}

func parseSelector(text string) (labels.Selector, error) {
	selector, err := labels.Parse(text)
	if err != nil {
		return nil, usage("--selector %q: %w", text, err)
	}
	return selector, nil
}

// chosen says whether what is named belongs to the scope; with a selector, whether a pod
// of it has the name.
type chosen func(namespace, pod string) bool

func (s *scope) chosen(ctx context.Context, c *cluster) (chosen, error) {
	if s.selector == "" {
		return func(string, string) bool { return true }, nil
	}
	pods, err := s.pods(ctx, c)
	if err != nil {
		return nil, err
	}
	names := map[types.NamespacedName]bool{}
	for i := range pods {
		names[client.ObjectKeyFromObject(&pods[i])] = true
	}
	return func(namespace, pod string) bool {
		return names[types.NamespacedName{Namespace: namespace, Name: pod}]
	}, nil
}

// nothing is what is said where a list is empty.
func (b base) nothing(s *scope, c *cluster, what string) {
	where := "in namespace " + c.namespace
	if s.everywhere {
		where = "in this cluster"
	}
	if s.selector != "" {
		where += " for these labels"
	}
	fprintf(b.streams.ErrOut, "No %s found %s.\n", what, where)
}

// listing is a command that lists objects of one kind.
type listing struct {
	base
	*output
	*scope
	watching bool

	what    string
	list    client.ObjectList
	columns []string
	// row is an object's row; keep says whether it is listed.
	row  func(client.Object, time.Time) []string
	keep func(client.Object, chosen) bool
}

// flags adds what every list has.
func (l *listing) addFlags(cmd *cobra.Command) {
	l.output, l.scope = outputFlags(cmd, true), scopeFlags(cmd)
	cmd.Flags().BoolVarP(&l.watching, "watch", "w", false, "Go on, and print each change.")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
}

func (l *listing) run(ctx context.Context) error {
	if err := l.checkFormat(); err != nil {
		return err
	}
	c, err := l.connect()
	if err != nil {
		return err
	}
	keep, err := l.chosen(ctx, c)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	style := layout{namespaces: l.everywhere, noHeaders: l.noHeaders, wide: l.format() == wide}
	printed := style.tables(l.streams.Out)
	fill := func(objects ...client.Object) *table {
		t := newTable(style.columns(l.columns...)...)
		for _, object := range objects {
			t.row(style.cells(object.GetNamespace(), l.row(object, c.now()))...)
		}
		return t
	}
	var first []client.Object
	synced := false
	for change := range c.observe(ctx, l.list, l.inNamespace(c)) {
		switch {
		case change.kind == watch.Error:
			if change.lasting {
				return failed(change.err, "list %s", l.what)
			}
			fprintf(l.streams.ErrOut, "The API does not answer, and is asked again: %v\n", change.err)
		case change.kind == watch.Bookmark:
			synced = true
			byAge(first)
			switch {
			case !l.text() && !l.watching:
				return l.objects(l.streams.Out, first)
			case !l.text():
				for _, object := range first {
					if err := l.object(l.streams.Out, object); err != nil {
						return err
					}
				}
			case len(first) > 0:
				if err := printed.print(fill(first...)); err != nil {
					return err
				}
			case !l.watching:
				l.nothing(l.scope, c, l.what)
			}
			if !l.watching {
				return nil
			}
		case !l.keep(change.object, keep):
		case !synced:
			first = append(first, change.object)
		case l.text():
			if err := printed.print(fill(change.object)); err != nil {
				return err
			}
		default:
			if err := l.object(l.streams.Out, change.object); err != nil {
				return err
			}
		}
	}
	return nil // somebody has ended the watch
}

// byAge sorts objects by when they were made, those of the same second by name.
func byAge(objects []client.Object) {
	slices.SortFunc(objects, func(x, y client.Object) int {
		return cmp.Or(x.GetCreationTimestamp().Compare(y.GetCreationTimestamp().Time),
			strings.Compare(x.GetNamespace(), y.GetNamespace()), strings.Compare(x.GetName(), y.GetName()))
	})
}

const checkpointsHelp = `List the newest checkpoint of each protected pod.

GEN is the newest generation that would be restored, AGE how old its state is, PAUSE how long the pod stood still for it,
HOLDERS how many nodes have a durable copy. WHY NOT is why the pod is not protected at present.`

func newCheckpoints(b base) *cobra.Command {
	l := &listing{
		base: b, what: "checkpoints", list: &v1alpha1.CheckpointList{},
		columns: []string{"pod", "node", "gen", "age", "pause", "size", "holders", "why not", "+new", "+epoch", "+held by"},
		row:     func(o client.Object, now time.Time) []string { return checkpointRow(o.(*v1alpha1.Checkpoint), now) },
		keep:    func(o client.Object, keep chosen) bool { return keep(o.GetNamespace(), o.GetName()) },
	}
	cmd := &cobra.Command{
		Use: "checkpoints", Aliases: []string{"cp"}, Short: "List the pods' newest checkpoints", Long: checkpointsHelp,
		Example: "  kubectl lifeboat checkpoints -A\n  kubectl lifeboat checkpoints -l app=cart -o wide",
		Args:    arguments(0, 0, "kubectl lifeboat checkpoints"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return l.run(cmd.Context()) },
	}
	l.addFlags(cmd)
	return cmd
}

func checkpointRow(c *v1alpha1.Checkpoint, now time.Time) []string {
	s := c.Status
	_, reason, _ := protection(ptr.To(corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning}}), c)
	row := []string{c.Name, c.Spec.NodeName, generation(s.Generation), age(now, s.TakenAt), s.Pause, s.Size, holders(c), reason}
	if s.Generation == 0 {
		return append(row, "", "", "")
	}
	return append(row, size(s.NewBytes), generation(s.Epoch), strings.Join(s.Holders, ","))
}

// holders is how many nodes hold the newest generation.
func holders(c *v1alpha1.Checkpoint) string {
	if c == nil || c.Status.Generation == 0 {
		return ""
	}
	return itoa(len(c.Status.Holders))
}

const migrationsHelp = `List migrations: failovers after the loss of a node, and planned moves.

STATE is the last completed phase of an open migration, or why it waits, and the result of a closed one. TIME is how long it
took from the loss, or from the request, until the pod was ready. DOWN is how long a planned move kept the pod from answering.`

func newMigrations(b base) *cobra.Command {
	l := newMigrationList(b)
	open := false
	all := l.keep
	l.keep = func(o client.Object, keep chosen) bool {
		return (!open || o.(*v1alpha1.Migration).Open()) && all(o, keep)
	}
	cmd := &cobra.Command{
		Use: "migrations", Aliases: []string{"migration", "mig"}, Short: "List migrations", Long: migrationsHelp,
		Example: "  kubectl lifeboat migrations -A\n  kubectl lifeboat migrations -w --open",
		Args:    arguments(0, 0, "kubectl lifeboat migrations"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return l.run(cmd.Context()) },
	}
	l.addFlags(cmd)
	cmd.Flags().BoolVar(&open, "open", false, "Only those that have no result yet.")
	return cmd
}

func newMigrationList(b base) *listing {
	return &listing{
		base: b, what: "migrations", list: &v1alpha1.MigrationList{},
		columns: []string{"name", "strategy", "from", "to", "state", "time", "down", "age", "+reason", "+gen", "+rpo", "+successor", "+why"},
		row:     func(o client.Object, now time.Time) []string { return migrationRow(o.(*v1alpha1.Migration), now) },
		keep: func(o client.Object, keep chosen) bool {
			m := o.(*v1alpha1.Migration)
			return keep(m.Namespace, m.Spec.Pod.Name) || keep(m.Namespace, successor(m)) || m.Clones() && keep(m.Namespace, m.Spec.Clone.Pod.Name)
		},
	}
}

func migrationRow(m *v1alpha1.Migration, now time.Time) []string {
	var gen int64
	if m.Status.Restore != nil {
		gen = m.Status.Restore.Generation
	} else if m.Status.Checkpoint != nil {
		gen = m.Status.Checkpoint.Generation
	}
	created := m.CreationTimestamp
	taken := ""
	if m.Status.RTOSeconds > 0 {
		taken = took(seconds(m.Status.RTOSeconds))
	}
	down := ""
	if m.Status.DowntimeSeconds > 0 {
		down = took(seconds(m.Status.DowntimeSeconds))
	}
	next := ""
	if m.Status.Claim != nil {
		next = m.Status.Claim.PodName
	}
	return []string{
		m.Name, string(m.Spec.Strategy), m.Spec.SourceNode, target(m), state(m), taken, down, ageOf(now, created),
		string(m.Spec.Reason), generation(gen), m.Status.RPO, next, why(m),
	}
}
