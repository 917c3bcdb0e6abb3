package kubectl

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// The kinds by which kubectl itself lets an argument begin.
var (
	podKinds       = []string{"pod", "pods", "po"}
	nodeKinds      = []string{"node", "nodes", "no"}
	migrationKinds = []string{"migration", "migrations", "mig", "migration.lifeboat.dev", "migrations.lifeboat.dev"}
)

// trimKind takes "pod/" and the like off an argument, as kubectl prints it in its lists.
func trimKind(argument string, kinds []string) string {
	if kind, name, ok := strings.Cut(argument, "/"); ok && slices.Contains(kinds, strings.ToLower(kind)) {
		return name
	}
	return argument
}

// pod reads a pod of the namespace. Where there is none of the name the error proposes
// others.
func (c *cluster) pod(ctx context.Context, name string) (*corev1.Pod, error) {
	name = trimKind(name, podKinds)
	pod := &corev1.Pod{}
	err := c.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: name}, pod)
	if !apierrors.IsNotFound(err) {
		return pod, failed(err, "read pod %s/%s", c.namespace, name)
	}
	var pods corev1.PodList
	// Only to propose a name: whoever may not list them gets none.
	_ = c.List(ctx, &pods, client.InNamespace(c.namespace))
	hint := didYouMean(similar(name, namesOf(pods.Items)))
	if hint == "" {
		hint = c.elsewhere(ctx, name)
	}
	return nil, fmt.Errorf("pod %q not found in namespace %q%s", name, c.namespace, hint)
}

// elsewhere proposes the namespaces that have a pod of the name.
func (c *cluster) elsewhere(ctx context.Context, name string) string {
	var pods corev1.PodList
	if err := c.List(ctx, &pods, client.MatchingFields{"metadata.name": name}, client.Limit(3)); err != nil {
		return ""
	}
	var flags []string
	for _, pod := range pods.Items {
		flags = append(flags, "-n "+pod.Namespace)
	}
	return didYouMean(flags)
}

// node reads a node. Where there is none of the name the error proposes others.
func (c *cluster) node(ctx context.Context, name string) (*corev1.Node, error) {
	name = trimKind(name, nodeKinds)
	node := &corev1.Node{}
	err := c.Get(ctx, client.ObjectKey{Name: name}, node)
	if !apierrors.IsNotFound(err) {
		return node, failed(err, "read node %s", name)
	}
	var nodes corev1.NodeList
	_ = c.List(ctx, &nodes)
	names := namesOf(nodes.Items)
	hint := didYouMean(similar(name, names))
	if hint == "" && len(names) > 0 && len(names) <= 10 {
		hint = "; there are " + strings.Join(names, ", ")
	}
	return nil, fmt.Errorf("node %q not found%s", name, hint)
}

// migration reads a Migration of the namespace. Where there is none of the name the
// error proposes others.
func (c *cluster) migration(ctx context.Context, name string) (*v1alpha1.Migration, error) {
	name = trimKind(name, migrationKinds)
	m := &v1alpha1.Migration{}
	err := c.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: name}, m)
	if !apierrors.IsNotFound(err) {
		return m, failed(err, "read migration %s/%s", c.namespace, name)
	}
	var migrations v1alpha1.MigrationList
	_ = c.List(ctx, &migrations, client.InNamespace(c.namespace))
	hint := didYouMean(similar(name, namesOf(migrations.Items)))
	if hint == "" {
		hint = `; see "kubectl lifeboat migrations"`
	}
	return nil, fmt.Errorf("migration %q not found in namespace %q%s", name, c.namespace, hint)
}

// namesOf are the names of objects.
func namesOf[T any, P interface {
	*T
	client.Object
}](items []T) []string {
	names := make([]string, len(items))
	for i := range items {
		names[i] = P(&items[i]).GetName()
	}
	return names
}

// similar are the names, three at most, that somebody may have meant: those that begin
// with what was written, or that a few letters turn into it.
func similar(written string, names []string) []string {
	const most = 3
	type candidate struct {
		name  string
		edits int
	}
	var candidates []candidate
	for _, name := range names {
		edits := distance(written, name)
		if strings.HasPrefix(name, written) {
			edits = 1
		}
		if edits <= (len(written)+2)/4 {
			candidates = append(candidates, candidate{name, edits})
		}
	}
	slices.SortStableFunc(candidates, func(x, y candidate) int {
		return cmp.Or(cmp.Compare(x.edits, y.edits), strings.Compare(x.name, y.name))
	})
	var found []string
	for _, c := range candidates[:min(most, len(candidates))] {
		found = append(found, c.name)
	}
	return found
}

// distance is how many letters have to be inserted, removed or exchanged to turn one
// word into another (Levenshtein).
func distance(x, y string) int {
	row := make([]int, len(y)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(x) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(y) {
			change := diagonal
			if x[i] != y[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(y)]
}
