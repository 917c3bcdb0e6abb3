package pages

import (
	"sync/atomic"
	"time"
)

// Stats is what a daemon has done so far.
type Stats struct {
	// Processes are those that were restored or forked since.
	Processes int
	// Faults are the pages that a process waited for; ZeroFaults are those of them
	// that have no content.
	Faults, ZeroFaults int64
	// FaultBytes were filled in because of faults, DrainedBytes ahead of them.
	// MissingBytes are not filled in yet.
	FaultBytes, DrainedBytes, MissingBytes int64
	// FaultTime is the sum, and LongestFault the longest, of the times from when a
	// fault was seen until its page was there.
	FaultTime, LongestFault time.Duration
	// Failures is how often the source failed to read.
	Failures int64
	// Attached is when the first process was handed over, Restored when CRIU had
	// restored all of them, or when Resume was called, and Done when Wait returned.
	// Zero: not yet.
	Attached, Restored, Done time.Time
}

type counts struct {
	faults, zeroFaults, faultTime, longest atomic.Int64
	faultBytes, drained, failures          atomic.Int64
	attached, restored, done               atomic.Int64 // nanoseconds since 1970
}

func (c *counts) fault(took time.Duration) {
	c.faults.Add(1)
	c.faultTime.Add(int64(took))
	for {
		longest := c.longest.Load()
		if int64(took) <= longest || c.longest.CompareAndSwap(longest, int64(took)) {
			return
		}
	}
}

// Stats is what the daemon has done so far.
func (d *Daemon) Stats() Stats {
	c := &d.counts
	at := func(nanoseconds int64) time.Time {
		if nanoseconds == 0 {
			return time.Time{}
		}
		return time.Unix(0, nanoseconds)
	}
	stats := Stats{
		Faults: c.faults.Load(), ZeroFaults: c.zeroFaults.Load(), FaultBytes: c.faultBytes.Load(), DrainedBytes: c.drained.Load(),
		FaultTime: time.Duration(c.faultTime.Load()), LongestFault: time.Duration(c.longest.Load()), Failures: c.failures.Load(),
		Attached: at(c.attached.Load()), Restored: at(c.restored.Load()), Done: at(c.done.Load()),
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	stats.Processes = len(d.spaces)
	for _, s := range d.spaces {
		stats.MissingBytes += s.missing.Load() * int64(pageSize)
	}
	for _, s := range d.absent {
		stats.MissingBytes += s.missing.Load() * int64(pageSize)
	}
	return stats
}
