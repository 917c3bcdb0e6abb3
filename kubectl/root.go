// Package kubectl has the commands of kubectl-lifeboat, which kubectl runs as
// "kubectl lifeboat".
package kubectl

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

const rootHelp = `Lifeboat keeps stateful pods alive through the loss of their node, and moves them on purpose.

Exit status, of every command but check:
  0    done
  1    the command failed
  2    the command was not called as it has to be; nothing was done
  3    the pod was moved, but it started anew, without its memory
  4    the move, or the clone, was withdrawn or failed
  5    it takes longer than --timeout, and goes on in the cluster
  130  interrupted; it goes on in the cluster
Of several pods the highest one counts.`

// base is what every command needs.
type base struct {
	flags   *genericclioptions.ConfigFlags
	streams genericiooptions.IOStreams
}

// New returns the command with its subcommands.
func New(streams genericiooptions.IOStreams) *cobra.Command {
	b := base{flags: genericclioptions.NewConfigFlags(true), streams: streams}
	root := &cobra.Command{
		Use:         "kubectl-lifeboat",
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl lifeboat"},
		Short:       "Shows how pods are protected, moves them, and pauses recoveries",
		Long:        rootHelp,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usage("unknown command %q%s; see %q", args[0], didYouMean(cmd.SuggestionsFor(args[0])), "kubectl lifeboat --help")
		},
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SuggestionsMinimumDistance: 2,
		SilenceUsage:               true,
		SilenceErrors:              true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w; see %q", err, cmd.CommandPath()+" --help")
	})
	b.flags.AddFlags(root.PersistentFlags())
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	root.AddCommand(
		newStatus(b), newCheckpoints(b), newMigrations(b), newDescribe(b), newCheck(b),
		newCheckpoint(b), newMigrate(b), newClone(b), newCancel(b), newDrain(b),
		newPause(b), newResume(b), newVersion(b),
	)
	_ = root.RegisterFlagCompletionFunc("namespace", b.completeNamespaces)
	return root
}

// arguments is the check of a command's arguments: from least to most of them, any
// number where most is negative. The example shows how it is called.
func arguments(least, most int, example string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least && least == most:
			return usage("%s needs %s, as in %q", cmd.CommandPath(), strings.TrimPrefix(cmd.Use, cmd.Name()+" "), example)
		case len(args) < least:
			return usage("%s needs at least one name, as in %q", cmd.CommandPath(), example)
		case most >= 0 && len(args) > most:
			return usage("%q is one argument too many for %s, which is called as in %q", args[most], cmd.CommandPath(), example)
		}
		for _, name := range args {
			if name == "" {
				return usage("a name is empty; %s is called as in %q", cmd.CommandPath(), example)
			}
		}
		return nil
	}
}

// didYouMean proposes names, or is empty where there are none.
func didYouMean(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(names, " or ") + "?"
}

func newVersion(b base) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this program", Args: arguments(0, 0, "kubectl lifeboat version"),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(b.streams.Out, version())
			return err
		},
	}
}

// version is the version that this program was built from, as Go has noted it.
func version() string {
	text := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		text = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				text += " " + s.Value[:12]
			}
		}
	}
	return fmt.Sprintf("%s %s/%s", text, runtime.GOOS, runtime.GOARCH)
}

// errInterrupted and errTimeout are why a command waits no longer.
var (
	errInterrupted = &ended{status: ExitInterrupted}
	errTimeout     = errors.New("it took longer than --timeout")
)
