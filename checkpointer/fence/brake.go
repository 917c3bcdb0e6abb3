package fence

import (
	"context"
	"log/slog"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// brake stops the registered pods when the permission is out. The fencer's passes
// use it, and it has a thread of its own, which waits for nothing but the clock: it
// stops them also when the fencer hangs in a file, a lock or a log, and after the
// whole process was stalled it is there as early as the next pass.
//
// It leaves to the passes to make sure that the kernel has really stopped every
// process, and to thaw what was stopped.
type brake struct {
	ledger  *ledger
	log     *slog.Logger
	metrics *metrics
	until   atomic.Int64 // the Instant at which the permission ends
	targets atomic.Pointer[[]*pod]
}

// permitted is whether pods may run at this instant.
func (b *brake) permitted() bool { return Now() < Instant(b.until.Load()) }

// watch stops the targets that still run when a pass should have stopped them,
// until ctx ends.
func (b *brake) watch(ctx context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tick := unix.NsecToTimespec(passEvery.Nanoseconds())
	for ctx.Err() == nil {
		targets := b.targets.Load()
		if targets != nil && Now() >= Instant(b.until.Load()).Add(passEvery) && b.stop(*targets, false) {
			// Only now: the file may take its time, the pods may not.
			b.save()
		}
		// The clock of the permission, which counts suspend. An early return, by a
		// signal, does no harm.
		_ = unix.ClockNanosleep(unix.CLOCK_BOOTTIME, 0, &tick, nil)
	}
}

// stop orders those of the pods to stop that are not stopped, and returns whether
// one of them is new in the ledger. It does not wait for the kernel. Unless the
// ledger is saved first, a fencer that ends in between leaves pods behind that
// nobody thaws.
func (b *brake) stop(pods []*pod, saveFirst bool) (noted bool) {
	var running []*pod
	for _, pod := range pods {
		if frozen, err := pod.group.Frozen(); err != nil || frozen {
			continue // what cannot be read has most likely gone
		}
		running = append(running, pod)
		if b.ledger.note(pod.group.Path()) {
			noted = true
			b.metrics.freezes.Inc()
			b.log.Warn("pod is frozen: the node's permission to run it has run out", "pod", pod.name)
		}
	}
	if noted && saveFirst {
		b.save()
	}
	for _, pod := range running {
		if err := pod.group.OrderFreeze(); err != nil && pod.group.Exists() {
			b.log.Error("stop a pod", "pod", pod.name, "err", err)
		}
		// Once more: it may have been thawed and struck out between the two.
		b.ledger.note(pod.group.Path())
	}
	return noted
}

func (b *brake) save() {
	if err := b.ledger.save(); err != nil {
		// Frozen without a note is still frozen.
		b.log.Error("note down the pods that are frozen", "err", err)
	}
}
