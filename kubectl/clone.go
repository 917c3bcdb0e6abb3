package kubectl

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const cloneHelp = `Start a new pod with the memory that a protected pod had in one of its checkpoints, and show how it goes on until it is
done. The pod that is cloned runs on.

The new pod has another name, another address, no owner and no labels but those that --labels gives it: without any, no Service
sends it requests. It is deleted when it cannot be restored; it never starts without the memory. Two processes with one memory
have the same random numbers, keys and identities: see docs/reference/clones.md for what that means.

Pods of StatefulSets and Jobs, and pods with persistent volumes, cannot be cloned.`

const cloneExample = `  # A second, warmed-up pod beside the first one
  kubectl lifeboat clone cart-5d9c7 --name cart-warm

  # From an earlier generation, on a certain node, behind the Services that select tier=warm
  kubectl lifeboat clone cart-5d9c7 --generation 17 --to n3 --labels tier=warm

  # What would be asked for
  kubectl lifeboat clone cart-5d9c7 --dry-run=client -o yaml`

// cloneRun is one run of the command.
type cloneRun struct {
	request
	name, labels, to string
	generation       int64
	deadline         time.Duration
}

func newClone(b base) *cobra.Command {
	r := &cloneRun{request: request{base: b}}
	cmd := &cobra.Command{
		Use: "clone POD", Short: "Start a new pod from a pod's checkpoint", Long: cloneHelp, Example: cloneExample,
		Args:              arguments(1, 1, "kubectl lifeboat clone cart-5d9c7"),
		ValidArgsFunction: b.complete(1, listProtected),
		RunE:              func(cmd *cobra.Command, args []string) error { return r.run(cmd.Context(), args[0]) },
	}
	r.output = outputFlags(cmd, false)
	flags := cmd.Flags()
	flags.StringVar(&r.name, "name", "", "The new pod's name. Empty makes one up.")
	flags.Int64Var(&r.generation, "generation", 0, "The generation to restore, and no other. Zero is the newest that is whole.")
	flags.StringVar(&r.labels, "labels", "", "All of the new pod's labels, as tier=warm,zone=a.")
	flags.StringVar(&r.to, "to", "", "The node to start on. Empty leaves it to the scheduler.")
	flags.DurationVar(&r.deadline, "deadline", v1alpha1.DefaultDeadline, "Give it up when the new pod is not Ready after this time.")
	flags.BoolVar(&r.wait, "wait", true, "Wait until the new pod is Ready.")
	flags.DurationVar(&r.timeout, "timeout", 0, "Wait no longer than this; it goes on. Zero waits until it is done.")
	r.dry.addFlag(cmd)
	_ = cmd.RegisterFlagCompletionFunc("to", b.complete(-1, listNodes))
	return cmd
}

func (r *cloneRun) run(ctx context.Context, name string) error {
	wears, err := labels.ConvertSelectorToLabelsMap(r.labels)
	if err != nil {
		return usage("--labels %q is not allowed: %v", r.labels, err)
	}
	if err := errors.Join(r.dry.check(), r.checkFormat()); err != nil {
		return err
	}
	switch {
	case r.deadline < time.Second || r.deadline > 24*time.Hour:
		return usage("--deadline %s is not allowed; use 1s to 24h", r.deadline)
	case r.generation < 0:
		return usage("--generation %d is not allowed; use a number from the GEN column of %q", r.generation, "kubectl lifeboat checkpoints")
	}
	c, err := r.connect()
	if err != nil {
		return err
	}
	pod, err := c.pod(ctx, name)
	if err != nil {
		return err
	}
	if why := v1alpha1.NotCloned(pod); why != "" {
		return fmt.Errorf("no clone of pod %s/%s can be made: %s", pod.Namespace, pod.Name, why)
	}
	if r.to != "" {
		node, err := c.node(ctx, r.to)
		if err != nil {
			return err
		}
		r.to = node.Name
	}
	m, err := c.askClone(ctx, pod, v1alpha1.Clone{Name: r.name, Generation: r.generation, Labels: wears, TargetNode: r.to, Deadline: r.deadline}, r.dry)
	if err != nil {
		return err
	}
	if r.text() || r.waits() {
		fprintf(r.told(), "Migration %s/%s: pod %s starts as a clone of %s%s\n", m.Namespace, m.Name, m.Spec.Pod.Name, original(m), r.dry.note())
	}
	return r.finish(r.follow(ctx, c, []*v1alpha1.Migration{m}))
}

// askClone creates the Migration that clones a pod.
func (c *cluster) askClone(ctx context.Context, pod *corev1.Pod, clone v1alpha1.Clone, dry dryRun) (*v1alpha1.Migration, error) {
	for range attempts {
		var known v1alpha1.MigrationList
		if err := c.List(ctx, &known, client.InNamespace(pod.Namespace)); err != nil {
			return nil, failed(err, "list migrations of namespace %s", pod.Namespace)
		}
		m := v1alpha1.NewClone(pod, clone, known.Items, c.now())
		if dry.client() {
			return m, nil
		}
		var options []client.CreateOption
		if dry.on() {
			options = append(options, client.DryRunAll)
		}
		err := c.Create(ctx, m, options...)
		if err == nil {
			return m, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, failed(err, "create the migration of pod %s/%s", pod.Namespace, m.Spec.Pod.Name)
		}
	}
	return nil, fmt.Errorf("pod %s/%s: other migrations were created again and again meanwhile; see %q, and try again",
		pod.Namespace, pod.Name, "kubectl lifeboat migrations -n "+pod.Namespace)
}

// original is what a clone is made from.
func original(m *v1alpha1.Migration) string {
	from := m.Spec.Clone
	number := from.Generation
	if r := m.Status.Restore; r != nil && r.Generation != 0 {
		number = r.Generation
	}
	if number == 0 {
		return "pod " + from.Pod.Name
	}
	return fmt.Sprintf("pod %s in generation %d", from.Pod.Name, number)
}

// cloned is what came of a closed Migration that cloned a pod, in sentences.
func cloned(m *v1alpha1.Migration, because string) string {
	pod, s := m.Namespace+"/"+m.Spec.Pod.Name, m.Status
	switch s.Result {
	case v1alpha1.ResultRestored:
		return fmt.Sprintf("Pod %s runs on %s with the memory of %s after %s.", pod, target(m), original(m), took(seconds(s.RTOSeconds)))
	case v1alpha1.ResultWithdrawn:
		return fmt.Sprintf("Pod %s is not started.%s", pod, because)
	}
	return fmt.Sprintf("Pod %s could not be started as a clone of %s, and is deleted.%s", pod, original(m), because)
}
