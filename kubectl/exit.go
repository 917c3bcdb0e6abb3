package kubectl

import (
	"context"
	"errors"
	"fmt"
)

// Exit statuses of every command but check.
const (
	// ExitDone: what was asked for is done.
	ExitDone = 0
	// ExitError: the command failed, and says why.
	ExitError = 1
	// ExitUsage: the command was not called as it has to be. Nothing was done.
	ExitUsage = 2
	// ExitColdStarted: the pod was moved, but it started anew, without its memory.
	ExitColdStarted = 3
	// ExitFailed: the move was withdrawn or failed.
	ExitFailed = 4
	// ExitTimeout: it is not done yet, and goes on in the cluster.
	ExitTimeout = 5
	// ExitInterrupted: the same, after an interrupt. It is what shells give to a
	// program that SIGINT has ended.
	ExitInterrupted = 130
)

// Exit statuses of check, as of "kubectl diff": an answer is no error.
const (
	// ExitYes: the pod can be checkpointed.
	ExitYes = 0
	// ExitNo: it cannot.
	ExitNo = 1
	// ExitUnknown: it cannot be told, or the command failed.
	ExitUnknown = 2
)

// ended ends a command with an exit status. Where it has no error, the command has
// printed already what there is to say.
type ended struct {
	status int
	err    error
}

func (e *ended) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *ended) Unwrap() error { return e.err }

// usage is the error of a command that was not called as it has to be.
func usage(format string, arguments ...any) error {
	return &ended{ExitUsage, fmt.Errorf(format, arguments...)}
}

// exitWith is the error for an exit status, nil for ExitDone.
func exitWith(status int) error {
	if status == ExitDone {
		return nil
	}
	return &ended{status: status}
}

// ExitStatus is the exit status that a command's error stands for.
func ExitStatus(err error) int {
	if err == nil {
		return ExitDone
	}
	if e, ok := errors.AsType[*ended](err); ok {
		return e.status
	}
	if errors.Is(err, context.Canceled) {
		return ExitInterrupted // nothing else cancels what main starts
	}
	return ExitError
}

// Message is what to print about a command's error; empty where the command has
// printed it itself.
func Message(err error) string {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*ended](err); ok && e.err == nil {
		return ""
	}
	return err.Error()
}
