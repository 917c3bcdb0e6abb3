package kubectl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const cancelHelp = `Give up a planned move. It is named by its migration, or by the pod.

Until the pod is stopped it has noticed nothing, and runs on where it is. After that it is too late, and the move goes on. A
failover cannot be given up.

Exit status 0: it was withdrawn. 4: it went on, and this says what came of it.`

type cancelRun struct {
	request
	reason string
}

func newCancel(b base) *cobra.Command {
	r := &cancelRun{request: request{base: b}}
	cmd := &cobra.Command{
		Use: "cancel MIGRATION|POD", Short: "Give up a planned move", Long: cancelHelp,
		Example: "  kubectl lifeboat cancel cart-0-4\n  kubectl lifeboat cancel pod/cart-0 --reason \"wrong pod\"",
		Args:    arguments(1, 1, "kubectl lifeboat cancel cart-0"),
		ValidArgsFunction: b.complete(1, func(cmd *cobra.Command, c *cluster) ([]string, error) {
			return listMigrations(cancelable)(cmd, c)
		}),
		RunE: func(cmd *cobra.Command, args []string) error { return r.run(cmd.Context(), args[0]) },
	}
	r.output = outputFlags(cmd, false)
	cmd.Flags().StringVar(&r.reason, "reason", "canceled by kubectl lifeboat cancel", "Why. Whoever looks into it later reads this.")
	cmd.Flags().BoolVar(&r.wait, "wait", true, "Wait until it is withdrawn.")
	cmd.Flags().DurationVar(&r.timeout, "timeout", time.Minute, "Wait no longer than this. Zero waits until it is done.")
	r.dry.addFlag(cmd)
	return cmd
}

func (r *cancelRun) run(ctx context.Context, name string) error {
	if err := errors.Join(r.dry.check(), r.checkFormat()); err != nil {
		return err
	}
	if strings.TrimSpace(r.reason) == "" {
		return usage("--reason is empty; say why, or leave the flag out")
	}
	c, err := r.connect()
	if err != nil {
		return err
	}
	m, err := c.named(ctx, name)
	if err != nil {
		return err
	}
	if err := tooLate(m); err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": m.UID, "annotations": map[string]string{v1alpha1.AnnotationCancel: r.reason},
	}})
	if err != nil {
		return err
	}
	if !r.dry.client() {
		var options []client.PatchOption
		if r.dry.on() {
			options = append(options, client.DryRunAll)
		}
		if err := c.Patch(ctx, m, client.RawPatch(types.MergePatchType, patch), options...); err != nil {
			return failed(err, "ask for the end of migration %s/%s", m.Namespace, m.Name)
		}
	}
	fprintf(r.told(), "Migration %s/%s of pod %s is to be given up%s\n", m.Namespace, m.Name, m.Spec.Pod.Name, r.dry.note())
	asked := []*v1alpha1.Migration{m}
	ends, err := r.follow(ctx, c, asked)
	switch m := asked[0]; {
	case err != nil:
		return r.finish(ends, err)
	case m.Open() || m.Status.Result == v1alpha1.ResultWithdrawn:
		return nil
	}
	return exitWith(ExitFailed)
}

// tooLate says why a Migration cannot be given up any more, or never could.
func tooLate(m *v1alpha1.Migration) error {
	name := m.Namespace + "/" + m.Name
	switch {
	case !m.Planned():
		return fmt.Errorf("migration %s is a failover, and cannot be given up; to keep nodes from being declared lost: kubectl lifeboat pause", name)
	case !m.Open():
		return &ended{ExitFailed, fmt.Errorf("migration %s is closed already: %s", name, m.Status.Result)}
	case m.TooLateToCancel():
		return &ended{ExitFailed, fmt.Errorf("migration %s cannot be given up any more: the pod is stopped (%s), and goes on only elsewhere; see %q",
			name, m.Status.Phase, fmt.Sprintf("kubectl lifeboat describe migration %s -n %s", m.Name, m.Namespace))}
	}
	return nil
}

// named is the Migration of a name, or the open one of the pod of that name.
func (c *cluster) named(ctx context.Context, name string) (*v1alpha1.Migration, error) {
	pod := trimKind(name, podKinds)
	if pod == name { // it does not say that it is a pod
		m := &v1alpha1.Migration{}
		plain := trimKind(name, migrationKinds)
		err := c.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: plain}, m)
		if err == nil {
			return m, nil
		}
		if !apierrors.IsNotFound(err) {
			return nil, failed(err, "read migration %s/%s", c.namespace, plain)
		}
		if plain != name {
			return c.migration(ctx, name) // for its error
		}
	}
	var all v1alpha1.MigrationList
	if err := c.List(ctx, &all, client.InNamespace(c.namespace)); err != nil {
		return nil, failed(err, "list migrations of namespace %s", c.namespace)
	}
	i := slices.IndexFunc(all.Items, func(m v1alpha1.Migration) bool {
		return m.Open() && (m.Spec.Pod.Name == pod || successor(&m) == pod)
	})
	if i >= 0 {
		return &all.Items[i], nil
	}
	proposed := namesOf(all.Items)
	for i := range all.Items {
		if all.Items[i].Open() {
			proposed = append(proposed, all.Items[i].Spec.Pod.Name)
		}
	}
	slices.Sort(proposed)
	hint := didYouMean(similar(pod, slices.Compact(proposed)))
	if hint == "" {
		hint = `; see "kubectl lifeboat migrations --open"`
	}
	return nil, fmt.Errorf("namespace %q has no migration %q, and no open one of a pod of that name%s", c.namespace, pod, hint)
}
