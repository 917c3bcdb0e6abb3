package command

import (
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/identity"
)

func rotateCommand() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:   "rotate-key NAMESPACE",
		Short: "Have new checkpoints of a namespace written with a new key",
		Long: `Add a key to those of a namespace. Every node writes with it within five minutes;
the first checkpoint of each pod that does is one of everything. Older keys stay,
for the checkpoints that were written with them.`,
		Example: `  kubectl -n lifeboat-system exec ds/lifeboat-checkpointer -c agent -- /lifeboat-checkpointer rotate-key shop`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			kube, err := clusterConfig()
			if err != nil {
				return err
			}
			clientset, err := kubernetes.NewForConfig(kube)
			if err != nil {
				return err
			}
			keys := identity.NewNamespaceKeys(clientset, namespace)
			if err := keys.Rotate(cmd.Context(), args[0]); err != nil {
				return fmt.Errorf("rotate the key of namespace %s: %w", args[0], err)
			}
			id, _, err := keys.Key(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("read the new key of namespace %s: %w", args[0], err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "checkpoints of namespace %s will be written with key %s\n", args[0], id)
			return nil
		},
	}
	cmd.Flags().StringVar(&namespace, "namespace", v1alpha1.SystemNamespace, "namespace of Lifeboat's own Secrets")
	return cmd
}
