package main

import (
	"context"
	"errors"
	"os"
	"testing"
)

func TestParseAvailable(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want int64
		ok   bool
	}{
		"Linux":     {"MemTotal:       24684 kB\nMemAvailable:    1024 kB\n", 1 << 20, true},
		"not there": {"MemTotal:       24684 kB\n", 0, false},
		"no number": {"MemAvailable:    lots\n", 0, false},
	} {
		got, err := parseAvailable([]byte(test.text))
		if got != test.want || (err == nil) != test.ok {
			t.Errorf("%s: %d, error %v; want %d", name, got, err, test.want)
		}
	}
}

func TestWritersLeaveNothingBehind(t *testing.T) {
	dir := t.TempDir()
	looked := errors.New("looked")
	err := each(t.Context(), 2, func(ctx context.Context) error {
		if err := writeAndSync(endingAfter(ctx, 3), dir, block, true); err != nil {
			return err
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("after its end there are %v, error %v", entries, err)
		}
		return looked
	})
	if !errors.Is(err, looked) {
		t.Errorf("the writers ended with %v", err)
	}
}

// endingAfter is a context that has ended when it was asked so often.
func endingAfter(ctx context.Context, asked int) context.Context { return &counted{ctx, asked} }

type counted struct {
	context.Context
	left int
}

func (c *counted) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return c.Context.Err()
}
