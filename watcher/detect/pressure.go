package detect

import (
	"fmt"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// A node is short of something when its tasks wait for it so much, in per cent of
// the time, and for so long. It is not any more when they wait for less than half
// of that. The checkpointers tell steps of ten per cent.
const (
	memoryPressure = 40
	ioPressure     = 40
	cpuPressure    = 90
	// pressureFor covers two of the ten seconds that the kernel's figures are the
	// average of: a short burst is nothing.
	pressureFor = 20 * time.Second
)

// load follows how busy a node is.
type load struct{ memory, io, cpu gauge }

func (l *load) take(now time.Time, told *v1alpha1.NodeLoad) {
	if told == nil {
		told = &v1alpha1.NodeLoad{}
	}
	l.memory.take(now, told.MemoryPressure, memoryPressure)
	l.io.take(now, told.IOPressure, ioPressure)
	l.cpu.take(now, told.CPUPressure, cpuPressure)
}

// signals are those of what the node is short of.
func (l *load) signals(now time.Time) []Signal {
	var signals []Signal
	for _, of := range []struct {
		gauge gauge
		what  string
		share int
	}{{l.memory, "memory", memoryPressure}, {l.io, "its disks", ioPressure}, {l.cpu, "a processor", cpuPressure}} {
		if of.gauge.high(now) {
			signals = append(signals, Signal{Reason: v1alpha1.MigrationNodePressure,
				Message: fmt.Sprintf("its tasks wait for %s in %d %% of the time or more", of.what, of.share)})
		}
	}
	return signals
}

// gauge tells a lasting pressure from a burst.
type gauge struct {
	// above is since when the pressure is at the threshold or above it; once it has
	// been so for pressureFor, until it falls below half of that.
	above time.Time
}

func (g *gauge) take(now time.Time, value, threshold int32) {
	switch {
	case g.high(now) && value >= threshold/2:
	case value < threshold:
		g.above = time.Time{}
	case g.above.IsZero():
		g.above = now
	}
}

func (g gauge) high(now time.Time) bool {
	return !g.above.IsZero() && now.Sub(g.above) >= pressureFor
}
