package kubectl

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const drainHelp = `Move every protected pod off a node, as each pod's annotation says, and wait until all are done.

The node is cordoned first, so that nothing new comes. Pods that are not protected stay: "kubectl drain" is for them, afterwards.
Moves that are open already are waited for. The node stays cordoned, also when a move fails: run the command again, or
"kubectl uncordon" the node.`

type drainRun struct {
	base
	deadline, timeout time.Duration
	selector          string
	dry               dryRun
}

func newDrain(b base) *cobra.Command {
	r := &drainRun{base: b}
	cmd := &cobra.Command{
		Use: "drain NODE", Short: "Move every protected pod off a node", Long: drainHelp,
		Example:           "  kubectl lifeboat drain n1\n  kubectl drain n1 --ignore-daemonsets",
		Args:              arguments(1, 1, "kubectl lifeboat drain n1"),
		ValidArgsFunction: b.complete(1, listNodes),
		RunE:              func(cmd *cobra.Command, args []string) error { return r.run(cmd.Context(), args[0]) },
	}
	flags := cmd.Flags()
	flags.DurationVar(&r.deadline, "deadline", v1alpha1.DefaultDeadline, "Give a move up when its pod is not stopped after this time.")
	flags.DurationVar(&r.timeout, "timeout", 0, "Wait no longer than this; the moves go on. Zero waits until all are done.")
	flags.StringVar(&r.selector, "pod-selector", "", "Only pods with these labels.")
	r.dry.addFlag(cmd)
	return cmd
}

func (r *drainRun) run(ctx context.Context, name string) error {
	if err := r.dry.check(); err != nil {
		return err
	}
	if r.deadline < time.Second || r.deadline > 24*time.Hour {
		return usage("--deadline %s is not allowed; use 1s to 24h", r.deadline)
	}
	selector, err := parseSelector(r.selector)
	if err != nil {
		return err
	}
	c, err := r.connect()
	if err != nil {
		return err
	}
	node, err := c.node(ctx, name)
	if err != nil {
		return err
	}
	// Whether Lifeboat is there at all, before anything is changed.
	if err := c.List(ctx, &v1alpha1.MigrationList{}, client.Limit(1)); err != nil {
		return failed(err, "list migrations")
	}
	if err := r.cordon(ctx, c, node); err != nil {
		return err
	}
	var pods corev1.PodList
	if err := c.List(ctx, &pods, client.MatchingFields{"spec.nodeName": node.Name}, client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return failed(err, "list the pods of node %s", node.Name)
	}
	move, others := sortOut(pods.Items)
	if len(others) > 0 {
		fprintf(r.streams.Out, "Left to %q: %s without protection (%s).\n", "kubectl drain "+node.Name, count(len(others), "pod"), names(others, 5))
	}
	if len(move) == 0 {
		fprintf(r.streams.Out, "Node %s has no protected pod to move.\n", node.Name)
		return nil
	}
	return r.move(ctx, c, node.Name, move)
}

// cordon keeps new pods off the node.
func (r *drainRun) cordon(ctx context.Context, c *cluster, node *corev1.Node) error {
	if node.Spec.Unschedulable {
		fprintf(r.streams.Out, "Node %s is cordoned already%s\n", node.Name, r.dry.note())
		return nil
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"unschedulable": true}})
	if err != nil {
		return err
	}
	if !r.dry.client() {
		var options []client.PatchOption
		if r.dry.on() {
			options = append(options, client.DryRunAll)
		}
		if err := c.Patch(ctx, node, client.RawPatch(types.MergePatchType, patch), options...); err != nil {
			return failed(err, "cordon node %s", node.Name)
		}
	}
	fprintf(r.streams.Out, "Node %s is cordoned%s\n", node.Name, r.dry.note())
	return nil
}

// sortOut tells a node's protected pods, in the order of their names, from the others
// that kubectl drain would evict.
func sortOut(pods []corev1.Pod) (move []corev1.Pod, others []string) {
	for i := range pods {
		pod := &pods[i]
		_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
		owner := metav1.GetControllerOf(pod)
		switch {
		case !runs(pod) || mirror || owner != nil && owner.Kind == "DaemonSet":
		case protected(pod) && pod.DeletionTimestamp == nil:
			move = append(move, *pod)
		default:
			others = append(others, pod.Namespace+"/"+pod.Name)
		}
	}
	slices.SortFunc(move, func(x, y corev1.Pod) int {
		return strings.Compare(x.Namespace+"/"+x.Name, y.Namespace+"/"+y.Name)
	})
	slices.Sort(others)
	return move, others
}

// move asks for the moves and follows them.
func (r *drainRun) move(ctx context.Context, c *cluster, node string, pods []corev1.Pod) error {
	var asked []*v1alpha1.Migration
	var refused error
	for i := range pods {
		m, err := c.ask(ctx, &pods[i], v1alpha1.Move{Reason: v1alpha1.MigrationNodeDrained, Deadline: r.deadline}, c.now(), r.dry)
		var open *alreadyMoves
		switch {
		case errors.As(err, &open):
			fprintf(r.streams.Out, "Migration %s/%s: pod %s is moved already\n", m.Namespace, m.Name, m.Spec.Pod.Name)
		case err != nil:
			refused = errors.Join(refused, err)
			continue
		default:
			fprintf(r.streams.Out, "%s%s\n", announcement(m), r.dry.note())
		}
		asked = append(asked, m)
	}
	if r.dry.on() || len(asked) == 0 {
		return refused
	}
	waiting, cancel := withTimeout(ctx, r.timeout)
	defer cancel()
	ends, err := c.follow(waiting, r.streams.Out, asked)
	if err != nil || refused != nil {
		return withRefused(refused, r.finish(ends, err))
	}
	return r.conclude(ctx, c, node, ends)
}

// conclude says what is left on the node after every move has ended.
func (r *drainRun) conclude(ctx context.Context, c *cluster, node string, ends []*followed) error {
	selector, err := parseSelector(r.selector)
	if err != nil {
		return err
	}
	var pods corev1.PodList
	if err := c.List(ctx, &pods, client.MatchingFields{"spec.nodeName": node}, client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return failed(err, "list the pods of node %s", node)
	}
	left, _ := sortOut(pods.Items)
	if len(left) == 0 {
		fprintf(r.streams.Out, "Node %s has no protected pod any more.\n", node)
		return r.finish(ends, nil)
	}
	var still []string
	for _, pod := range left {
		still = append(still, pod.Namespace+"/"+pod.Name)
	}
	fprintf(r.streams.ErrOut, "Node %s still runs %s (%s). Run the command again, or have it back with: kubectl uncordon %s\n",
		node, count(len(left), "protected pod"), names(still, 5), node)
	if err := r.finish(ends, nil); ExitStatus(err) >= ExitFailed {
		return err
	}
	return exitWith(ExitFailed)
}
