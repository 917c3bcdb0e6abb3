package kubectl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
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
	flags   *genericclioptions.ConfigFlags
	streams genericiooptions.IOStreams
	output  string
}

func newCheck(flags *genericclioptions.ConfigFlags, streams genericiooptions.IOStreams) *cobra.Command {
	c := &check{flags: flags, streams: streams}
	cmd := &cobra.Command{
		Use: "check POD", Short: "Say whether a pod can be checkpointed, and what is in the way",
		Long: checkHelp, Example: checkExample,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("name one pod, as in %q", "kubectl lifeboat check my-pod")
			}
			return nil
		},
		ValidArgsFunction: c.complete,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args[0]) },
	}
	cmd.Flags().StringVarP(&c.output, "output", "o", "", "Output format. One of: (json, yaml, wide).")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json", "yaml", "wide"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (c *check) run(ctx context.Context, name string) error {
	if !slices.Contains([]string{"", "json", "yaml", "wide"}, c.output) {
		return fmt.Errorf("unknown output format %q: use json, yaml or wide", c.output)
	}
	// What kubectl itself takes, and what it prints in its lists.
	name = strings.TrimPrefix(strings.TrimPrefix(name, "pods/"), "pod/")
	api, namespace, err := connect(c.flags)
	if err != nil {
		return err
	}
	seen, err := read(ctx, api, namespace, name)
	if err != nil {
		return err
	}
	verdict := judge(seen)
	if err := verdict.print(c.streams.Out, c.output); err != nil {
		return fmt.Errorf("write the verdict: %w", err)
	}
	if status := verdict.exitStatus(); status != ExitYes {
		return &answer{status}
	}
	return nil
}

// connect returns a client of the cluster, and the namespace, that kubectl's
// flags and configuration name.
func connect(flags *genericclioptions.ConfigFlags) (client.Client, string, error) {
	namespace, _, err := flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("find the namespace: %w", err)
	}
	config, err := flags.ToRESTConfig()
	if err != nil {
		return nil, "", fmt.Errorf("find the cluster: %w; see kubectl config get-contexts", err)
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, "", err
	}
	api, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, "", fmt.Errorf("connect to the cluster: %w", err)
	}
	return api, namespace, nil
}

// read reads what there is about a pod.
func read(ctx context.Context, api client.Client, namespace, name string) (seen, error) {
	key := client.ObjectKey{Namespace: namespace, Name: name}
	s := seen{pod: &corev1.Pod{}, installed: true}
	if err := api.Get(ctx, key, s.pod); err != nil {
		return s, explain(err, key)
	}
	checkpoint := &v1alpha1.Checkpoint{}
	err := api.Get(ctx, key, checkpoint)
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

// explain says why a pod could not be read.
func explain(err error, key client.ObjectKey) error {
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("pod %q not found in namespace %q", key.Name, key.Namespace)
	}
	return unreachable(err, fmt.Sprintf("read pod %s", key))
}

// complete lists the pods of the namespace for the shell's completion.
func (c *check) complete(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	api, namespace, err := connect(c.flags)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var pods corev1.PodList
	if err := api.List(cmd.Context(), &pods, client.InNamespace(namespace)); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, pod := range pods.Items {
		if strings.HasPrefix(pod.Name, prefix) {
			names = append(names, pod.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
