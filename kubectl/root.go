// Package kubectl has the commands of kubectl-lifeboat, which kubectl runs as
// "kubectl lifeboat".
package kubectl

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// Exit statuses, the same for every command.
const (
	// ExitYes: what was asked for is so.
	ExitYes = 0
	// ExitNo: it is not so.
	ExitNo = 1
	// ExitUnknown: it cannot be told, or the command failed.
	ExitUnknown = 2
)

// answer is an answer other than yes. The command has printed it already.
type answer struct{ status int }

func (a *answer) Error() string { return fmt.Sprintf("exit status %d", a.status) }

// ExitStatus is the exit status that a command's error stands for.
func ExitStatus(err error) int {
	var a *answer
	switch {
	case err == nil:
		return ExitYes
	case errors.As(err, &a):
		return a.status
	default:
		return ExitUnknown
	}
}

// Message is what to print about a command's error; empty for an answer that
// the command has printed itself.
func Message(err error) string {
	var a *answer
	if err == nil || errors.As(err, &a) {
		return ""
	}
	return err.Error()
}

// New returns the command with its subcommands.
func New(streams genericiooptions.IOStreams) *cobra.Command {
	flags := genericclioptions.NewConfigFlags(true)
	root := &cobra.Command{
		Use:           "kubectl-lifeboat",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl lifeboat"},
		Short:         "Says of pods what Lifeboat can do for them, and pauses it",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags.AddFlags(root.PersistentFlags())
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	root.AddCommand(newCheck(flags, streams), newPause(flags, streams), newResume(flags, streams), newVersion(streams))
	return root
}

func newVersion(streams genericiooptions.IOStreams) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this program", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(streams.Out, version())
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
