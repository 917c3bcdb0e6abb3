package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

const (
	// ranFor is how long a watcher has to have run so that it is started anew when
	// an error ends it. What fails sooner may never work; the kubelet holds it back.
	ranFor = 10 * time.Second
	// anewVariable is how often this process has been started anew.
	anewVariable = "LIFEBOAT_STARTED_ANEW"
)

// startAnew replaces this process by a new one of the same program, with nothing that
// the old one remembered. A watcher that has lost the lead must end, also when the API
// server just did not answer for some seconds; but if the container ended with it, the
// kubelet would hold the next one back, for up to five minutes. It returns only when
// that is not possible, with the reason.
func startAnew(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start anew: %w", err)
	}
	if err := os.Setenv(anewVariable, strconv.Itoa(startedAnew()+1)); err != nil {
		return fmt.Errorf("start anew: %w", err)
	}
	return fmt.Errorf("start anew: %w", syscall.Exec(self, os.Args, os.Environ()))
}

// startedAnew is how often this process has been started anew.
func startedAnew() int {
	times, _ := strconv.Atoi(os.Getenv(anewVariable)) // unset: never
	return times
}
