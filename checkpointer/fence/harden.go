package fence

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Harden makes this process hard to starve, so that it freezes in time on a
// node that runs out of memory or processor time: it is the last to be killed
// for memory, its memory is not paged out, and it runs before others.
//
// Each of these needs a privilege that a node may withhold. Harden returns what
// was refused, which the caller may log; the fencer works without, only less
// surely.
func Harden() []error {
	var refused []error
	try := func(what string, err error) {
		if err != nil {
			refused = append(refused, fmt.Errorf("%s: %w", what, err))
		}
	}
	// -999, not -1000: a node that can free memory in no other way must be able to.
	try("lower the OOM score", os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0))
	// Pages are locked when they are first used: Go reserves far more than it uses.
	try("lock memory", unix.Mlockall(unix.MCL_CURRENT|unix.MCL_FUTURE|unix.MCL_ONFAULT))

	threads, err := os.ReadDir("/proc/self/task")
	try("list threads", err)
	var priority, realTime error
	for _, thread := range threads {
		// Linux keeps both for each thread; new threads inherit them.
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			continue
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, id, -20); err != nil {
			priority = err
		}
		// The lowest real-time priority is above everything that is not real-time.
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
		if err := unix.SchedSetAttr(id, &attr, 0); err != nil {
			realTime = err
		}
	}
	try("raise the priority", priority)
	try("schedule in real time", realTime)
	return refused
}
