package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/identity"
)

// Exit codes of check. Any other error of the program is exitFailed.
const (
	exitDamaged   = 1
	exitUnchecked = 2
	exitFailed    = 1
)

// exitError ends the program with a code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// ExitCode is the code that the program ends with after an error of the command;
// 0 when there was none.
func ExitCode(err error) int {
	var own *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &own):
		return own.code
	}
	return exitFailed
}

// unchecked gives an error that has no code of its own the one for what could not
// be checked.
func unchecked(err error) error {
	var own *exitError
	if err == nil || errors.As(err, &own) {
		return err
	}
	return &exitError{exitUnchecked, err}
}

func checkCommand() *cobra.Command {
	var dir, namespace, keyFile string
	var rate int64
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Read back all checkpoints of a node's store, and tell which are damaged",
		Long: `Read back all checkpoints of a node's store, compare every byte with its hash,
and print a line for each generation. Nothing is changed, and the agent may go
on meanwhile: run this in its pod, or offline with --key-file.

Exit codes:
  0  every generation is whole
  1  at least one generation is damaged
  2  something could not be checked, because a key, the store, or the API server
     could not be had, and no damage was found in the rest`,
		Example: `  kubectl -n lifeboat-system exec <the node's lifeboat-checkpointer pod> -c agent -- /lifeboat-checkpointer check
  kubectl -n lifeboat-system get secrets -o json > keys.json; lifeboat-checkpointer check --store /mnt/lifeboat --key-file keys.json`,
		Args: func(cmd *cobra.Command, args []string) error { return unchecked(cobra.NoArgs(cmd, args)) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := checkKeys(namespace, keyFile)
			if err == nil {
				err = check(cmd.Context(), cmd.OutOrStdout(), dir, keys, rate)
			}
			return unchecked(err)
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return unchecked(err) })
	f := cmd.Flags()
	f.StringVar(&dir, "store", "/var/lib/lifeboat", "folder of the checkpoint store")
	f.StringVar(&namespace, "namespace", v1alpha1.SystemNamespace, "namespace of Lifeboat's own Secrets")
	f.StringVar(&keyFile, "key-file", "", "take the keys from this file: Secrets as `kubectl get secrets -o json` prints them")
	f.Int64Var(&rate, "bytes-per-second", 0, "read at most so much in each second; 0 means no bound")
	return cmd
}

// checkKeys returns the keys in a file, or those of the cluster when there is none.
func checkKeys(namespace, file string) (store.KeySource, error) {
	if file != "" {
		return readKeyFile(file)
	}
	kube, err := clusterConfig()
	if err != nil {
		return nil, fmt.Errorf("%w, or use --key-file", err)
	}
	clientset, err := kubernetes.NewForConfig(kube)
	if err != nil {
		return nil, err
	}
	return identity.NewNamespaceKeys(clientset, namespace), nil
}

// check checks a store, prints what it finds, and returns an error with an exit
// code unless all is whole.
func check(ctx context.Context, out io.Writer, dir string, keys store.KeySource, rate int64) error {
	if rate < 0 {
		return fmt.Errorf("--bytes-per-second %d is negative: use 0 for no bound", rate)
	}
	s, err := store.OpenReadOnly(dir, keys, store.Options{Logger: slog.Default()})
	if err != nil {
		return err
	}
	defer s.Close()
	found, err := s.CheckAll(ctx, rate)
	damaged, unchecked := 0, 0
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "NAMESPACE\tPOD\tGENERATION\tTAKEN\tFILES\tBYTES\tSTATE")
	for _, c := range found {
		state, taken, size := "whole", "-", "-\t-"
		var d *store.Damaged
		switch {
		case c.Err == nil:
		case errors.As(c.Err, &d) && d.Permanent():
			damaged++
			state = "damaged: " + d.File + ": " + d.Detail
		case d != nil:
			unchecked++
			state = "unreadable: " + d.Detail
		default:
			unchecked++
			state = "not checked: " + c.Err.Error()
		}
		if c.Files > 0 {
			taken, size = c.TakenAt.UTC().Format(time.RFC3339), fmt.Sprintf("%d\t%d", c.Files, c.Bytes)
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\n", c.Key.Namespace, c.Key.PodUID, c.Number, taken, size, state)
	}
	if flushErr := table.Flush(); flushErr != nil {
		err = errors.Join(err, fmt.Errorf("print the result: %w", flushErr))
	}
	switch {
	case damaged > 0:
		return &exitError{exitDamaged, errors.Join(fmt.Errorf(
			"%d of %d generations are damaged: remove the files that are named, then the agent drops what needs them and takes the next checkpoint in full",
			damaged, len(found)), err)}
	case err != nil:
		return err
	case unchecked > 0:
		return fmt.Errorf("%d of %d generations could not be checked", unchecked, len(found))
	}
	return nil
}
