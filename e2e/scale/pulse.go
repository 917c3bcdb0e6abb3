package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// enough is the share of the cluster's own writes that must have been made: less, and
// the machine is too small for what is to be measured.
const enough = 0.9

// dueAtOnce is how many of them are waited for or written at a time: so many that it is
// not this program that falls behind.
const dueAtOnce = 128

// errTooSmall is why something cannot be measured here.
var errTooSmall = errors.New("this machine is too small or too busy for so large a cluster")

// pulse does something for each of n things once in a while, spread evenly over it.
type pulse struct {
	what  string
	n     int
	every time.Duration
	do    func(ctx context.Context, i int) error
	// done is how often it has done so since it was reset.
	done atomic.Int64
}

// run goes on until ctx ends. It returns an error when something fails.
func (b *pulse) run(ctx context.Context) error {
	begin := time.Now()
	for round := 0; ; round++ {
		err := eachOf(ctx, b.n, dueAtOnce, func(ctx context.Context, i int) error {
			due := begin.Add(time.Duration(round)*b.every + b.every*time.Duration(i)/time.Duration(b.n))
			timer := time.NewTimer(time.Until(due))
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				return nil
			}
			if err := b.do(ctx, i); err != nil && ctx.Err() == nil {
				return err
			}
			b.done.Add(1)
			return nil
		})
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// rate is how often in a second it did something since it was reset.
func (b *pulse) rate(since time.Duration) float64 { return float64(b.done.Load()) / since.Seconds() }

// pulses are all that goes on in a cluster.
type pulses []*pulse

func (bs pulses) reset() {
	for _, b := range bs {
		b.done.Store(0)
	}
}

// keepUp makes sure that they did what they should since they were reset.
func (bs pulses) keepUp(since time.Duration) error {
	for _, b := range bs {
		wanted := float64(b.n) / b.every.Seconds()
		// One more or less is no sign of anything.
		if rate := b.rate(since); rate < enough*wanted-1/since.Seconds() {
			return fmt.Errorf("%w: %.0f %s a second were written instead of %.0f", errTooSmall, rate, b.what, wanted)
		}
	}
	return nil
}
