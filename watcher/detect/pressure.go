package detect

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// pressureFor is how long a node's tasks must wait for something before it is short of
// that. It covers two of the ten seconds that the kernel's figures are the average of: a
// short burst is nothing.
const pressureFor = 20 * time.Second

// Pressure says how much a node's tasks must wait for something, in per cent of the time,
// until it is short of that. It is not any more when they wait for less than half as much.
// The checkpointers tell steps of ten per cent. Zero leaves something out.
type Pressure struct{ Memory, IO, CPU int32 }

// DefaultPressure is used where nobody chooses another one.
var DefaultPressure = Pressure{Memory: 40, IO: 40, CPU: 90}

// MarshalText writes a Pressure as UnmarshalText reads it.
func (p Pressure) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "memory=%d,io=%d,cpu=%d", p.Memory, p.IO, p.CPU), nil
}

// UnmarshalText reads words like "memory=40,io=40,cpu=90", in any order. What is not named
// keeps its value. It fails for other words, and for what is not 0 to 100.
func (p *Pressure) UnmarshalText(text []byte) error {
	read := *p
	for word := range strings.SplitSeq(string(text), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(word), "=")
		of := map[string]*int32{"memory": &read.Memory, "io": &read.IO, "cpu": &read.CPU}[name]
		share, err := strconv.ParseInt(value, 10, 32)
		if of == nil || err != nil || share < 0 || share > 100 {
			return fmt.Errorf("%q: use words like memory=40,io=40,cpu=90, each from 1 to 100 per cent, or 0 to leave it out", word)
		}
		*of = int32(share)
	}
	*p = read
	return nil
}

// load follows how busy a node is.
type load struct{ memory, io, cpu gauge }

func (l *load) take(now time.Time, told *v1alpha1.NodeLoad, limits Pressure) {
	if told == nil {
		told = &v1alpha1.NodeLoad{}
	}
	l.memory.take(now, told.MemoryPressure, limits.Memory)
	l.io.take(now, told.IOPressure, limits.IO)
	l.cpu.take(now, told.CPUPressure, limits.CPU)
}

// signals are those of what the node is short of.
func (l *load) signals(now time.Time, limits Pressure) []Signal {
	var signals []Signal
	for _, of := range []struct {
		gauge gauge
		what  string
		share int32
	}{{l.memory, "memory", limits.Memory}, {l.io, "its disks", limits.IO}, {l.cpu, "a processor", limits.CPU}} {
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
	case threshold == 0:
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
