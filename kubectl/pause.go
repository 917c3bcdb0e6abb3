package kubectl

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const pauseHelp = `Pause recoveries, for planned work on the network or the control plane.

While they are paused, no node is declared lost and no pod is moved. Checkpoints go on. What would have been done is seen in
"kubectl lifeboat migrations -A". Recoveries whose node is fenced already go on.`

func newPause(b base) *cobra.Command {
	var (
		reason string
		dry    dryRun
	)
	cmd := &cobra.Command{
		Use: "pause", Short: "Pause recoveries",
		Long: pauseHelp, Example: `  kubectl lifeboat pause --reason "switches of rack 4 are exchanged"`,
		Args: arguments(0, 0, "kubectl lifeboat pause"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := dry.check(); err != nil {
				return err
			}
			value := v1alpha1.PausedRecoveries(reason)
			if _, err := b.setRecoveries(cmd.Context(), &value, dry); err != nil {
				return err
			}
			why, err := v1alpha1.ParseRecoveries(value)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(b.streams.Out, "Recoveries are paused: %s. Pods of nodes that are lost now stay where they are until %q.%s\n",
				why, "kubectl lifeboat resume", dry.note())
			return err
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "Why they are paused. Whoever looks into it later reads this.")
	dry.addFlag(cmd)
	return cmd
}

func newResume(b base) *cobra.Command {
	var dry dryRun
	cmd := &cobra.Command{
		Use: "resume", Short: "Resume recoveries that were paused",
		Args: arguments(0, 0, "kubectl lifeboat resume"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := dry.check(); err != nil {
				return err
			}
			before, err := b.setRecoveries(cmd.Context(), nil, dry)
			if err != nil {
				return err
			}
			text := "Recoveries are no longer paused."
			if reason, err := v1alpha1.ParseRecoveries(before); err == nil && reason == "" {
				text = "Recoveries were not paused."
			}
			_, err = fmt.Fprintln(b.streams.Out, text+dry.note())
			return err
		},
	}
	dry.addFlag(cmd)
	return cmd
}

// setRecoveries writes the key of Lifeboat's ConfigMap that pauses recoveries, or
// removes it where the value is nil. It returns what the key said before.
func (b base) setRecoveries(ctx context.Context, value *string, dry dryRun) (before string, err error) {
	api, err := b.connect()
	if err != nil {
		return "", err
	}
	key := client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: v1alpha1.ConfigName}
	config := &corev1.ConfigMap{}
	err = api.Get(ctx, key, config)
	if apierrors.IsNotFound(err) {
		if value == nil || dry.client() {
			return "", nil
		}
		config = &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name},
			Data:       map[string]string{v1alpha1.ConfigRecoveries: *value},
		}
		var options []client.CreateOption
		if dry.on() {
			options = append(options, client.DryRunAll)
		}
		if err := api.Create(ctx, config, options...); err != nil {
			if apierrors.IsNotFound(err) {
				return "", fmt.Errorf("namespace %s does not exist: is Lifeboat installed in this cluster?", key.Namespace)
			}
			return "", fmt.Errorf("create ConfigMap %s: %w", key, err)
		}
		return "", nil
	}
	if err != nil {
		return "", failed(err, "read ConfigMap %s", key)
	}
	before = config.Data[v1alpha1.ConfigRecoveries]
	if dry.client() {
		return before, nil
	}
	patch, err := json.Marshal(map[string]any{"data": map[string]any{v1alpha1.ConfigRecoveries: value}})
	if err != nil {
		return "", fmt.Errorf("change ConfigMap %s: %w", key, err)
	}
	var options []client.PatchOption
	if dry.on() {
		options = append(options, client.DryRunAll)
	}
	if err := api.Patch(ctx, config, client.RawPatch(types.MergePatchType, patch), options...); err != nil {
		return "", fmt.Errorf("change ConfigMap %s: %w", key, err)
	}
	return before, nil
}
