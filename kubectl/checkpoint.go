package kubectl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const checkpointHelp = `Take a checkpoint of a protected pod now, and wait until it is durable.

The checkpointer on the pod's node takes a generation without waiting for the pod's interval. The pod stands still for it as
it does for every other one.`

type checkpointRun struct {
	base
	*output
	wait    bool
	timeout time.Duration
	dry     dryRun
}

func newCheckpoint(b base) *cobra.Command {
	r := &checkpointRun{base: b}
	cmd := &cobra.Command{
		Use: "checkpoint POD", Short: "Take a checkpoint of a pod now", Long: checkpointHelp,
		Example:           "  kubectl lifeboat checkpoint cart-0\n  kubectl lifeboat checkpoint cart-0 -o jsonpath='{.status.generation}'",
		Args:              arguments(1, 1, "kubectl lifeboat checkpoint cart-0"),
		ValidArgsFunction: b.complete(1, listProtected),
		RunE:              func(cmd *cobra.Command, args []string) error { return r.run(cmd.Context(), args[0]) },
	}
	r.output = outputFlags(cmd, false)
	cmd.Flags().BoolVar(&r.wait, "wait", true, "Wait until the checkpoint is durable.")
	cmd.Flags().DurationVar(&r.timeout, "timeout", 2*time.Minute, "Wait no longer than this. Zero waits until it is done.")
	r.dry.addFlag(cmd)
	return cmd
}

func (r *checkpointRun) run(ctx context.Context, name string) error {
	if err := errors.Join(r.dry.check(), r.checkFormat()); err != nil {
		return err
	}
	c, err := r.connect()
	if err != nil {
		return err
	}
	pod, err := c.pod(ctx, name)
	if err != nil {
		return err
	}
	checkpoint, err := c.checkpointOf(ctx, pod)
	if err != nil {
		return err
	}
	asked, err := c.request(ctx, checkpoint, c.now(), r.dry)
	if err != nil {
		return err
	}
	if r.wait && !r.dry.on() {
		ctx, cancel := withTimeout(ctx, r.timeout)
		defer cancel()
		if checkpoint, err = r.await(ctx, c, checkpoint, asked); err != nil {
			return err
		}
	}
	switch {
	case !r.text():
		return r.object(r.streams.Out, checkpoint)
	case !r.wait || r.dry.on():
		fprintf(r.streams.Out, "Checkpoint of pod %s/%s is asked for%s\n", pod.Namespace, pod.Name, r.dry.note())
	default:
		s := checkpoint.Status
		fprintf(r.streams.Out, "Generation %d of pod %s/%s is durable: %s, paused for %s, held by %s.\n",
			s.Generation, pod.Namespace, pod.Name, s.Size, s.Pause, strings.Join(s.Holders, ", "))
	}
	return nil
}

// checkpointOf is a pod's own Checkpoint, in which its checkpoints are asked for.
func (c *cluster) checkpointOf(ctx context.Context, pod *corev1.Pod) (*v1alpha1.Checkpoint, error) {
	name := pod.Namespace + "/" + pod.Name
	if _, err := v1alpha1.ParseAnnotations(pod.Annotations); err != nil {
		return nil, fmt.Errorf("pod %s cannot be checkpointed: %w", name, err)
	}
	if !protected(pod) {
		return nil, fmt.Errorf("pod %s is not protected, so no checkpoint is taken. %s", name, howToProtect(pod))
	}
	if !runs(pod) {
		return nil, fmt.Errorf("pod %s does not run (%s), so no checkpoint can be taken", name, pod.Status.Phase)
	}
	checkpoint := &v1alpha1.Checkpoint{}
	err := c.Get(ctx, client.ObjectKeyFromObject(pod), checkpoint)
	switch {
	case apierrors.IsNotFound(err) || err == nil && checkpoint.Spec.PodUID != pod.UID:
		return nil, fmt.Errorf("pod %s has no checkpoint yet, and is about to get its first one; if it does not, see whether the checkpointer runs on node %s: kubectl get pods -n %s -o wide",
			name, pod.Spec.NodeName, v1alpha1.SystemNamespace)
	case err != nil:
		return nil, failed(err, "read the checkpoint of pod %s", name)
	}
	return checkpoint, nil
}

// request asks for a generation that is begun after now, and returns how the request is
// known: the checkpointer goes by the moment alone, so it must be later than that of
// every request before, whose asker's clock may have been ahead of ours.
func (c *cluster) request(ctx context.Context, checkpoint *v1alpha1.Checkpoint, now time.Time, dry dryRun) (time.Time, error) {
	at := checkpoint.NextRequest(now)
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": checkpoint.UID, "annotations": map[string]string{v1alpha1.AnnotationCheckpointRequested: at.Format(time.RFC3339Nano)},
	}})
	if err != nil || dry.client() {
		return at, err
	}
	var options []client.PatchOption
	if dry.on() {
		options = append(options, client.DryRunAll)
	}
	return at, failed(c.Patch(ctx, checkpoint, client.RawPatch(types.MergePatchType, patch), options...),
		"ask for a checkpoint of pod %s/%s", checkpoint.Namespace, checkpoint.Name)
}

// await waits until a request is answered.
func (r *checkpointRun) await(ctx context.Context, c *cluster, checkpoint *v1alpha1.Checkpoint, asked time.Time) (*v1alpha1.Checkpoint, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	name := checkpoint.Namespace + "/" + checkpoint.Name
	uid := checkpoint.Spec.PodUID
	for change := range c.observe(ctx, &v1alpha1.CheckpointList{}, client.InNamespace(checkpoint.Namespace), client.MatchingFields{"metadata.name": checkpoint.Name}) {
		switch change.kind {
		case watch.Error:
			if change.lasting {
				return nil, failed(change.err, "wait for the checkpoint of pod %s", name)
			}
		case watch.Deleted:
			return nil, fmt.Errorf("pod %s is gone, and so is its checkpoint", name)
		case watch.Added, watch.Modified:
			checkpoint = change.object.(*v1alpha1.Checkpoint)
			if checkpoint.Spec.PodUID != uid {
				return nil, fmt.Errorf("pod %s was replaced by another one meanwhile; ask again", name)
			}
			if answered := checkpoint.Status.Requested; answered != nil && !answered.Time.Before(asked) {
				return checkpoint, nil
			}
		}
	}
	err := stopped(ctx)
	said := "The pod's checkpointer still has the request"
	if c := meta.FindStatusCondition(checkpoint.Status.Conditions, v1alpha1.ConditionProtected); c != nil && c.Status != metav1.ConditionTrue {
		said += fmt.Sprintf("; the pod is not protected (%s): %s", c.Reason, c.Message)
	}
	fprintf(r.streams.ErrOut, "No new generation of pod %s is durable yet. %s\n", name, sentence(said))
	return nil, err
}
