package kubectl

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const checkHelp = `Say whether a pod can be checkpointed, and what has to change where it cannot.

A protected pod's node looks at its containers, once a minute: at open files, sockets, memory and namespaces. For a pod that
is not protected only its specification is judged. Nothing is stopped, and nothing is changed.

Exit status: 0 when the pod can be checkpointed, 1 when it cannot, 2 when that cannot be told or the command failed.`

const checkExample = `  # May my database be protected?
  kubectl lifeboat check postgres-0

  # In a script
  kubectl lifeboat check postgres-0 -n shop -o json | jq -r '.findings[].reason'`

// check is one run of the command.
type check struct {
	base
	output string
}

func newCheck(b base) *cobra.Command {
	c := &check{base: b}
	cmd := &cobra.Command{
		Use: "check POD", Short: "Say whether a pod can be checkpointed, and what is in the way",
		Long: checkHelp, Example: checkExample,
		Args:              arguments(1, 1, "kubectl lifeboat check my-pod"),
		ValidArgsFunction: b.complete(1, listPods),
		RunE: func(cmd *cobra.Command, args []string) error {
			status, err := c.run(cmd.Context(), args[0])
			if err != nil {
				return &ended{ExitUnknown, err}
			}
			return exitWith(status)
		},
	}
	cmd.Flags().StringVarP(&c.output, "output", "o", "", "Output format. One of: (json, yaml, wide).")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json", "yaml", "wide"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (c *check) run(ctx context.Context, name string) (status int, err error) {
	if !slices.Contains([]string{"", "json", "yaml", "wide"}, c.output) {
		return 0, fmt.Errorf("unknown output format %q: use json, yaml or wide", c.output)
	}
	api, err := c.connect()
	if err != nil {
		return 0, err
	}
	seen, err := read(ctx, api, name)
	if err != nil {
		return 0, err
	}
	verdict := judge(seen)
	if err := verdict.print(c.streams.Out, c.output); err != nil {
		return 0, fmt.Errorf("write the verdict: %w", err)
	}
	return verdict.exitStatus(), nil
}

// read reads what there is about a pod.
func read(ctx context.Context, api *cluster, name string) (seen, error) {
	pod, err := api.pod(ctx, name)
	if err != nil {
		return seen{}, err
	}
	s := seen{pod: pod, installed: true}
	checkpoint := &v1alpha1.Checkpoint{}
	err = api.Get(ctx, client.ObjectKeyFromObject(pod), checkpoint)
	switch {
	case meta.IsNoMatchError(err):
		s.installed = false
	case apierrors.IsNotFound(err):
	case err != nil:
		return s, fmt.Errorf("read the pod's checkpoint: %w", err)
	case checkpoint.Spec.PodUID == s.pod.UID:
		s.checkpoint = checkpoint
	}
	return s, nil
}
