package kubectl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const statusHelp = `Show what Lifeboat does: the protected pods with their newest checkpoints, the nodes, open migrations, and whether recoveries
are paused.

What the caller may not read is left out, and said so. The nodes are those of the whole cluster.`

type statusRun struct {
	base
	*scope
	format    string
	noHeaders bool
}

func newStatus(b base) *cobra.Command {
	r := &statusRun{base: b}
	formats := []string{"json", wide, "yaml"}
	cmd := &cobra.Command{
		Use: "status", Short: "Show protected pods, nodes and open migrations", Long: statusHelp,
		Example: "  kubectl lifeboat status -A\n  kubectl lifeboat status -n shop -l app=cart -o wide",
		Args:    arguments(0, 0, "kubectl lifeboat status"), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.format != "" && !slices.Contains(formats, r.format) {
				return usage("--output %q is not known; use %s", r.format, oneOf(formats))
			}
			return r.run(cmd.Context())
		},
	}
	r.scope = scopeFlags(cmd)
	cmd.Flags().StringVarP(&r.format, "output", "o", "", "Output format. One of: ("+strings.Join(formats, ", ")+").")
	cmd.Flags().BoolVar(&r.noHeaders, "no-headers", false, "Print tables without their headers.")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, noFiles))
	return cmd
}

func (r *statusRun) run(ctx context.Context) error {
	c, err := r.connect()
	if err != nil {
		return err
	}
	o, err := r.read(ctx, c)
	if err != nil {
		return err
	}
	var content []byte
	switch r.format {
	case "json":
		if content, err = json.MarshalIndent(o, "", "    "); err == nil {
			content = append(content, '\n')
		}
	case "yaml":
		content, err = yaml.Marshal(o)
	default:
		return o.print(r.streams.Out, layout{namespaces: r.everywhere, noHeaders: r.noHeaders, wide: r.format == wide, now: c.now()})
	}
	if err != nil {
		return err
	}
	_, err = r.streams.Out.Write(content)
	return err
}

// overview is what status shows. Its JSON is what -o json and yaml print.
type overview struct {
	// Paused is why recoveries are paused; empty while they are not.
	Paused string `json:"paused,omitempty"`
	// Parts are Lifeboat's own programs.
	Parts      []part                `json:"parts"`
	Pods       []podStatus           `json:"pods"`
	Nodes      []nodeStatus          `json:"nodes"`
	Migrations []*v1alpha1.Migration `json:"openMigrations"`
	// Unread is what could not be read, and why.
	Unread []string `json:"unread,omitempty"`
}

// part is one of Lifeboat's own programs.
type part struct {
	Name  string `json:"name"`
	Ready int32  `json:"ready"`
	Want  int32  `json:"want"`
}

// podStatus is one protected pod.
type podStatus struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Node      string `json:"node"`
	Protected bool   `json:"protected"`
	// Reason and Message say why it is not protected at present.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Checkpoint is the newest one; unset where there is none.
	Checkpoint *v1alpha1.CheckpointStatus `json:"checkpoint,omitempty"`
}

// nodeStatus is one node.
type nodeStatus struct {
	Name string `json:"name"`
	// State is its fence's; NoCheckpointer where it has none.
	State    string `json:"state"`
	Cordoned bool   `json:"cordoned,omitempty"`
	// Pods are its protected pods; unset where not all namespaces were looked at.
	Pods    *int   `json:"pods,omitempty"`
	CRIU    string `json:"criu,omitempty"`
	Kernel  string `json:"kernel,omitempty"`
	Message string `json:"message,omitempty"`
}

// noCheckpointer is the state of a node that has no fence: no checkpointer ever ran there.
const noCheckpointer = "NoCheckpointer"

// read reads what status shows.
func (r *statusRun) read(ctx context.Context, c *cluster) (*overview, error) {
	pods, err := r.pods(ctx, c)
	if err != nil {
		return nil, err
	}
	var checkpoints v1alpha1.CheckpointList
	if err := c.List(ctx, &checkpoints, r.inNamespace(c)); err != nil {
		return nil, failed(err, "list checkpoints")
	}
	var migrations v1alpha1.MigrationList
	if err := c.List(ctx, &migrations, r.inNamespace(c)); err != nil {
		return nil, failed(err, "list migrations")
	}
	o := &overview{Parts: []part{}, Pods: []podStatus{}, Nodes: []nodeStatus{}, Migrations: []*v1alpha1.Migration{}}
	o.addPods(pods, checkpoints.Items)
	keep := func(m *v1alpha1.Migration) bool {
		return r.selector == "" || slices.ContainsFunc(pods, func(p corev1.Pod) bool {
			return p.Namespace == m.Namespace && (p.Name == m.Spec.Pod.Name || p.Name == successor(m))
		})
	}
	for i := range migrations.Items {
		if m := &migrations.Items[i]; m.Open() && keep(m) {
			m.ManagedFields, m.TypeMeta = nil, metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Migration"}
			o.Migrations = append(o.Migrations, m)
		}
	}
	var fences v1alpha1.FenceList
	var nodes corev1.NodeList
	if o.may(c.List(ctx, &nodes), "nodes") && o.may(c.List(ctx, &fences), "fences") {
		o.addNodes(nodes.Items, fences.Items, r.everywhere && r.selector == "")
	}
	o.readParts(ctx, c)
	return o, nil
}

// may notes an error of something that not everybody may read.
func (o *overview) may(err error, what string) bool {
	if err != nil {
		o.Unread = append(o.Unread, fmt.Sprintf("%s: %v", what, failed(err, "list")))
	}
	return err == nil
}

func (o *overview) addPods(pods []corev1.Pod, checkpoints []v1alpha1.Checkpoint) {
	for i := range pods {
		pod := &pods[i]
		_, err := v1alpha1.ParseAnnotations(pod.Annotations)
		if !protected(pod) && (err == nil || pod.Annotations[v1alpha1.AnnotationFailover] != "true") || pod.Spec.NodeName != "" && !runs(pod) {
			continue
		}
		checkpoint := ownCheckpoint(pod, checkpoints)
		line := podStatus{Namespace: pod.Namespace, Name: pod.Name, Node: pod.Spec.NodeName}
		line.Protected, line.Reason, line.Message = protection(pod, checkpoint)
		if checkpoint != nil {
			line.Checkpoint = &checkpoint.Status
		}
		o.Pods = append(o.Pods, line)
	}
}

func (o *overview) addNodes(nodes []corev1.Node, fences []v1alpha1.Fence, count bool) {
	for i := range nodes {
		node := &nodes[i]
		line := nodeStatus{Name: node.Name, State: noCheckpointer, Cordoned: node.Spec.Unschedulable}
		at := slices.IndexFunc(fences, func(f v1alpha1.Fence) bool { return f.Name == node.Name })
		if at >= 0 {
			facts := fences[at].Status.Facts
			line.State, line.CRIU, line.Kernel, line.Message = string(fences[at].Spec.State), facts.CRIUVersion, facts.KernelVersion, facts.Message
			if fences[at].Status.ShuttingDown != nil {
				line.State += ", shuts down"
			}
		}
		if count {
			pods := 0
			for _, p := range o.Pods {
				if p.Node == node.Name {
					pods++
				}
			}
			line.Pods = &pods
		}
		o.Nodes = append(o.Nodes, line)
	}
	slices.SortFunc(o.Nodes, func(x, y nodeStatus) int { return strings.Compare(x.Name, y.Name) })
}

// readParts reads how Lifeboat's own programs are, and whether recoveries are paused.
func (o *overview) readParts(ctx context.Context, c *cluster) {
	var deployments appsv1.DeploymentList
	if o.may(c.List(ctx, &deployments, client.InNamespace(v1alpha1.SystemNamespace)), "deployments of "+v1alpha1.SystemNamespace) {
		for _, d := range deployments.Items {
			want := int32(1)
			if d.Spec.Replicas != nil {
				want = *d.Spec.Replicas
			}
			o.Parts = append(o.Parts, part{d.Name, d.Status.ReadyReplicas, want})
		}
	}
	var daemons appsv1.DaemonSetList
	if o.may(c.List(ctx, &daemons, client.InNamespace(v1alpha1.SystemNamespace)), "daemonsets of "+v1alpha1.SystemNamespace) {
		for _, d := range daemons.Items {
			o.Parts = append(o.Parts, part{d.Name, d.Status.NumberReady, d.Status.DesiredNumberScheduled})
		}
	}
	config := &corev1.ConfigMap{}
	err := c.Get(ctx, client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: v1alpha1.ConfigName}, config)
	if apierrors.IsNotFound(err) || !o.may(err, "whether recoveries are paused") {
		return
	}
	// A wrong value pauses nothing, as an event of the watcher says.
	o.Paused, _ = v1alpha1.ParseRecoveries(config.Data[v1alpha1.ConfigRecoveries])
}

// total is how many of the pods are protected at present.
func (o *overview) total() string {
	count := 0
	for _, p := range o.Pods {
		if p.Protected {
			count++
		}
	}
	return fmt.Sprintf("%d of %d", count, len(o.Pods))
}

// print writes the overview for people.
func (o *overview) print(out io.Writer, l layout) error {
	var b strings.Builder
	if o.Paused != "" {
		fmt.Fprintf(&b, "Recoveries are PAUSED: %s; to resume them: kubectl lifeboat resume\n", oneLine(strings.TrimSuffix(o.Paused, ".")))
	}
	for _, p := range o.Parts {
		fmt.Fprintf(&b, "%s: %d of %d ready\n", p.Name, p.Ready, p.Want)
	}
	fmt.Fprintf(&b, "Protected pods: %s; open migrations: %d\n", o.total(), len(o.Migrations))
	for _, section := range []*table{o.podTable(l), o.nodeTable(), o.migrationTable(l)} {
		if len(section.rows) == 0 {
			continue
		}
		b.WriteString("\n")
		if err := section.print(&b, l); err != nil {
			return err
		}
	}
	for _, unread := range o.Unread {
		fmt.Fprintf(&b, "\nNot shown: %s\n", unread)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (o *overview) podTable(l layout) *table {
	t := newTable(l.columns("pod", "node", "gen", "age", "pause", "size", "holders", "why not", "+held by", "+message")...)
	for _, p := range o.Pods {
		row := []string{p.Name, p.Node, "", "", "", "", "", p.Reason, "", p.Message}
		if c := p.Checkpoint; c != nil && c.Generation != 0 {
			copy(row[2:], []string{generation(c.Generation), age(l.now, c.TakenAt), c.Pause, c.Size, itoa(len(c.Holders))})
			row[8] = strings.Join(c.Holders, ",")
		}
		t.row(l.cells(p.Namespace, row)...)
	}
	return t
}

func (o *overview) nodeTable() *table {
	t := newTable("node", "state", "protected pods", "criu", "kernel", "+message")
	for _, n := range o.Nodes {
		state, pods := n.State, ""
		if n.Cordoned {
			state += ", cordoned"
		}
		if n.Pods != nil {
			pods = itoa(*n.Pods)
		}
		t.row(n.Name, state, pods, n.CRIU, n.Kernel, n.Message)
	}
	return t
}

func (o *overview) migrationTable(l layout) *table {
	t := newTable(l.columns("migration", "strategy", "from", "to", "state", "age", "+message")...)
	for _, m := range o.Migrations {
		message := m.Status.Message
		if m.Status.Held != nil {
			message = m.Status.Held.Message
		}
		t.row(l.cells(m.Namespace, []string{m.Name, string(m.Spec.Strategy), m.Spec.SourceNode, target(m), state(m),
			ageOf(l.now, m.CreationTimestamp), message})...)
	}
	return t
}
