package kubectl

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// completion lists what an argument may be, for the shell.
type completion = cobra.CompletionFunc

const noFiles = cobra.ShellCompDirectiveNoFileComp

// complete makes a completion out of a function that lists names. At most so many
// arguments are completed, and none twice; any number where most is negative.
func (b base) complete(most int, list func(cmd *cobra.Command, c *cluster) ([]string, error)) completion {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return nil, noFiles
		}
		c, err := b.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		names, err := list(cmd, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return slices.DeleteFunc(names, func(name string) bool {
			word, _, _ := strings.Cut(name, "\t")
			return !strings.HasPrefix(word, prefix) || slices.Contains(args, word)
		}), noFiles
	}
}

func listPods(cmd *cobra.Command, c *cluster) ([]string, error) {
	var pods corev1.PodList
	err := c.List(cmd.Context(), &pods, client.InNamespace(c.namespace))
	return namesOf(pods.Items), err
}

// listProtected lists the pods that have an annotation for it.
func listProtected(cmd *cobra.Command, c *cluster) ([]string, error) {
	var pods corev1.PodList
	err := c.List(cmd.Context(), &pods, client.InNamespace(c.namespace))
	return namesOf(slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return !protected(&p) })), err
}

func listNodes(cmd *cobra.Command, c *cluster) ([]string, error) {
	var nodes corev1.NodeList
	err := c.List(cmd.Context(), &nodes)
	return namesOf(nodes.Items), err
}

// listMigrations lists those that keep passes, with what they are about.
func listMigrations(keep func(*v1alpha1.Migration) bool) func(*cobra.Command, *cluster) ([]string, error) {
	return func(cmd *cobra.Command, c *cluster) ([]string, error) {
		var migrations v1alpha1.MigrationList
		if err := c.List(cmd.Context(), &migrations, client.InNamespace(c.namespace)); err != nil {
			return nil, err
		}
		var names []string
		for i := range migrations.Items {
			if m := &migrations.Items[i]; keep(m) {
				names = append(names, m.Name+"\t"+string(m.Spec.Strategy)+" from "+m.Spec.SourceNode+", "+state(m))
			}
		}
		return names, nil
	}
}

func anyMigration(*v1alpha1.Migration) bool { return true }

func cancelable(m *v1alpha1.Migration) bool { return m.Open() && m.Planned() && !m.TooLateToCancel() }

func (b base) completeNamespaces(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return b.complete(-1, func(cmd *cobra.Command, c *cluster) ([]string, error) {
		var namespaces corev1.NamespaceList
		err := c.List(cmd.Context(), &namespaces)
		return namesOf(namespaces.Items), err
	})(cmd, nil, prefix)
}
