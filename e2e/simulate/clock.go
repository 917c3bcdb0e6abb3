package main

import (
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/fence"
)

// True time is in nanoseconds since the history's start; nobody in the world can
// see it.
const (
	millisecond = int64(time.Millisecond)
	second      = int64(time.Second)
)

// clock runs at a rate of its own.
type clock struct {
	start int64 // true time at which it showed base
	base  int64
	ppm   int64 // how much faster than true time it runs
}

func (c *clock) show(now int64) int64 {
	d := now - c.start
	return c.base + d + d/1000*c.ppm/1000
}

// when is a true time at which the clock shows at least t, and about the first.
func (c *clock) when(t int64) int64 {
	at := c.start + t - c.base
	for {
		short := t - c.show(at)
		if short <= 0 {
			return at
		}
		at += short + short/64 + 1
	}
}

// instant is the node's CLOCK_BOOTTIME.
func (c *clock) instant(now int64) fence.Instant { return fence.Instant(c.show(now)) }

// epoch is when the watchers' clocks begin.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (c *clock) time(now int64) time.Time { return epoch.Add(time.Duration(c.show(now))) }
