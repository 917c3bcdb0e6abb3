package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
)

// scope stands in for a test: programs and folders belong to it, and go with it. It
// is a controlplane.T.
type scope struct {
	ctx      context.Context
	progress func(step string)

	mu       sync.Mutex
	cleanups []func() error
	err      error
}

// within does something in a scope of its own, which has ended when it returns.
func within(ctx context.Context, progress func(step string), do func(*scope) error) error {
	ctx, cancel := context.WithCancel(ctx)
	s := &scope{ctx: ctx, progress: progress}
	done := make(chan struct{})
	go func() { // Fatal ends the goroutine
		defer close(done)
		if err := do(s); err != nil {
			s.fail(err)
		}
	}()
	<-done
	if s.err != nil && ctx.Err() != nil {
		s.err = ctx.Err() // whatever else failed, failed because of this
	}
	cancel()
	for _, cleanup := range slices.Backward(s.cleanups) {
		if err := cleanup(); err != nil {
			s.fail(err)
		}
	}
	return s.err
}

func (s *scope) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errors.Join(s.err, err)
}

// Helper does nothing: the errors say where they come from.
func (s *scope) Helper() {}

// Log tells something, as progress.
func (s *scope) Log(args ...any) { s.progress(fmt.Sprint(args...)) }

// Logf tells something, as progress.
func (s *scope) Logf(format string, args ...any) { s.progress(fmt.Sprintf(format, args...)) }

// Fatal ends what is done in the scope.
func (s *scope) Fatal(args ...any) { s.Fatalf("%s", fmt.Sprint(args...)) }

// Fatalf ends what is done in the scope.
func (s *scope) Fatalf(format string, args ...any) {
	s.fail(fmt.Errorf(format, args...))
	runtime.Goexit()
}

// Failed says whether something went wrong with the programs, whose output may tell why.
func (s *scope) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil && !errors.Is(s.err, context.Canceled) && !errors.Is(s.err, errTooSmall)
}

// Cleanup has something done at the end of the scope, after its context has ended.
func (s *scope) Cleanup(cleanup func()) {
	s.atEnd(func() error { cleanup(); return nil })
}

func (s *scope) atEnd(cleanup func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, cleanup)
}

// Context ends with the scope.
func (s *scope) Context() context.Context { return s.ctx }

// TempDir makes a folder that goes with the scope.
func (s *scope) TempDir() string {
	folder, err := os.MkdirTemp("", "lifeboat-scale-")
	if err != nil {
		s.Fatal(err)
	}
	s.atEnd(func() error { return os.RemoveAll(folder) })
	return folder
}
