package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Try(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Try(path)
	held, ok := errors.AsType[*Held](err)
	if !ok {
		t.Fatalf("second Try: %v, want *Held", err)
	}
	if want := fmt.Sprintf("process %d", os.Getpid()); !strings.Contains(held.Holder, want) {
		t.Errorf("holder %q, want %q", held.Holder, want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := WaitShared(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("WaitShared of a held lock: %v", err)
	}

	told := make(chan string, 2)
	taken := make(chan *Lock)
	go func() {
		second, err := Wait(t.Context(), path, func(holder string) { told <- holder })
		if err != nil {
			t.Error(err)
		}
		taken <- second
	}()
	if holder := <-told; holder != held.Holder {
		t.Errorf("told of %q, want %q", holder, held.Holder)
	}
	first.Release()
	(<-taken).Release()
	if len(told) != 0 {
		t.Error("told more than once")
	}

	a, errA := WaitShared(t.Context(), path)
	b, errB := WaitShared(t.Context(), path)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	if _, err := Try(path); err == nil {
		t.Error("a shared lock was taken alone")
	}
	a.Release()
	b.Release()
	last, err := Try(path)
	if err != nil {
		t.Fatal(err)
	}
	last.Release()
}
