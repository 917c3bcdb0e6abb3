package kubectl

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const migrateHelp = `Move pods to other nodes on purpose, and show how it goes on until it is done.

Strategies:
  live         copy while the pod runs, stop it for what is left, restore (the default of a protected pod)
  warm         stop, checkpoint what is new, copy, restore
  cold         stop, checkpoint everything, copy, restore
  application  a new pod starts, and takes the state over by the endpoints that the pod's annotations name
  replace      no state: a new pod starts elsewhere first, then the old one ends

Until the pod is stopped the move can be given up with "kubectl lifeboat cancel". An interrupt ends only the waiting. The exit
status tells what came of it, see "kubectl lifeboat --help".`

const migrateExample = `  # Somewhere else, as the pod's annotation says
  kubectl lifeboat migrate cart-0

  # To a certain node, or not at all
  kubectl lifeboat migrate cart-0 --strategy warm --to n3 --deadline 2m

  # All carts; what would be asked for
  kubectl lifeboat migrate -l app=cart --dry-run=client -o yaml`

// migrateRun is one run of the command.
type migrateRun struct {
	request
	strategy, to, selector string
	deadline               time.Duration
}

func newMigrate(b base) *cobra.Command {
	r := &migrateRun{request: request{base: b}}
	cmd := &cobra.Command{
		Use: "migrate POD...", Short: "Move pods to other nodes", Long: migrateHelp, Example: migrateExample,
		Args: func(cmd *cobra.Command, args []string) error {
			if r.selector != "" {
				if len(args) > 0 {
					return usage("name pods or use --selector, not both")
				}
				return nil
			}
			return arguments(1, -1, "kubectl lifeboat migrate cart-0")(cmd, args)
		},
		ValidArgsFunction: b.complete(-1, listProtected),
		RunE:              func(cmd *cobra.Command, args []string) error { return r.run(cmd.Context(), args) },
	}
	r.output = outputFlags(cmd, false)
	flags := cmd.Flags()
	flags.StringVar(&r.strategy, "strategy", "", "How: live, warm, cold, application or replace. Empty is what the pod's annotation says.")
	flags.StringVar(&r.to, "to", "", "The node to move to. Empty leaves it to the scheduler.")
	flags.StringVarP(&r.selector, "selector", "l", "", "Move the pods of the namespace with these labels.")
	flags.DurationVar(&r.deadline, "deadline", v1alpha1.DefaultDeadline, "Give the move up when the pod is not stopped after this time.")
	flags.BoolVar(&r.wait, "wait", true, "Wait until the move is done.")
	flags.DurationVar(&r.timeout, "timeout", 0, "Wait no longer than this; the move goes on. Zero waits until it is done.")
	r.dry.addFlag(cmd)
	var words []string
	for _, s := range strategies {
		words = append(words, s.name+"\t"+s.means)
	}
	_ = cmd.RegisterFlagCompletionFunc("strategy", cobra.FixedCompletions(words, noFiles))
	_ = cmd.RegisterFlagCompletionFunc("to", b.complete(-1, listNodes))
	return cmd
}

func (r *migrateRun) run(ctx context.Context, args []string) error {
	strategy, err := parseStrategy(r.strategy)
	if err := errors.Join(err, r.dry.check(), r.checkFormat()); err != nil {
		return err
	}
	if r.deadline < time.Second || r.deadline > 24*time.Hour {
		return usage("--deadline %s is not allowed; use 1s to 24h", r.deadline)
	}
	c, err := r.connect()
	if err != nil {
		return err
	}
	pods, err := r.pods(ctx, c, args)
	if err != nil {
		return err
	}
	if r.to != "" {
		node, err := c.node(ctx, r.to)
		if err != nil {
			return err
		}
		r.to = node.Name
	}
	// All are looked at before any is moved.
	var refused error
	for i := range pods {
		refused = errors.Join(refused, movable(&pods[i], strategy, r.to))
	}
	if refused != nil {
		return refused
	}
	return r.move(ctx, c, pods, v1alpha1.Move{Strategy: strategy, Reason: v1alpha1.MigrationRequested, TargetNode: r.to, Deadline: r.deadline})
}

// pods are those that are to be moved.
func (r *migrateRun) pods(ctx context.Context, c *cluster, args []string) ([]corev1.Pod, error) {
	if r.selector != "" {
		pods, err := (&scope{selector: r.selector}).pods(ctx, c)
		if err == nil && len(pods) == 0 {
			err = fmt.Errorf("no pod in namespace %q has the labels %s", c.namespace, r.selector)
		}
		return pods, err
	}
	var pods []corev1.Pod
	for _, name := range args {
		pod, err := c.pod(ctx, name)
		if err != nil {
			return nil, err
		}
		pods = append(pods, *pod)
	}
	return pods, nil
}

// movable says what is in the way of a move, as far as it is seen at once. The watcher
// looks closer.
func movable(pod *corev1.Pod, strategy v1alpha1.Strategy, to string) error {
	name := pod.Namespace + "/" + pod.Name
	_, err := v1alpha1.ParseAnnotations(pod.Annotations)
	switch {
	case err != nil:
		return fmt.Errorf("pod %s cannot be moved: %w", name, err)
	case pod.Spec.NodeName == "":
		return fmt.Errorf("pod %s cannot be moved: it has no node yet; see %q", name, fmt.Sprintf("kubectl describe pod %s -n %s", pod.Name, pod.Namespace))
	case !runs(pod):
		return fmt.Errorf("pod %s cannot be moved: it has ended", name)
	case pod.DeletionTimestamp != nil:
		return fmt.Errorf("pod %s cannot be moved: it is being deleted", name)
	case pod.Spec.NodeName == to:
		return fmt.Errorf("pod %s runs on node %s already; name another one with --to, or none", name, to)
	case !protected(pod) && strategy != v1alpha1.StrategyReplace:
		return fmt.Errorf("pod %s is not protected, so its memory cannot be moved. To start a new one elsewhere, without its memory: --strategy replace. %s", name, howToProtect(pod))
	}
	return nil
}

// move asks for the moves and follows them.
func (r *migrateRun) move(ctx context.Context, c *cluster, pods []corev1.Pod, move v1alpha1.Move) error {
	var asked []*v1alpha1.Migration
	var refused error
	for i := range pods {
		m, err := c.ask(ctx, &pods[i], move, c.now(), r.dry)
		if err != nil {
			refused = errors.Join(refused, err)
			continue
		}
		asked = append(asked, m)
		if r.text() || r.waits() {
			fprintf(r.told(), "%s%s\n", announcement(m), r.dry.note())
		}
	}
	return withRefused(refused, r.finish(r.follow(ctx, c, asked)))
}

// announcement says what a Migration that was just made is to do.
func announcement(m *v1alpha1.Migration) string {
	text := fmt.Sprintf("Migration %s/%s: pod %s leaves %s", m.Namespace, m.Name, m.Spec.Pod.Name, m.Spec.SourceNode)
	if m.Spec.TargetNode != "" {
		text += " for " + m.Spec.TargetNode
	}
	return text + ", " + string(m.Spec.Strategy)
}
