package matrix

import (
	"fmt"
	"strings"
	"time"
)

// Left estimates how long runs will take, from how long those took that were measured:
// the same strategy and memory if there are any, else the same memory, else any.
// It returns false as long as nothing was measured.
func Left(measured []Row, runs []Run) (time.Duration, bool) {
	type group struct {
		strategy Strategy
		memory   int
	}
	sums, counts := map[group]float64{}, map[group]float64{}
	for _, r := range measured {
		if !Known(r.TookSeconds) {
			continue
		}
		for _, g := range []group{{r.Strategy, r.MemoryMB}, {"", r.MemoryMB}, {}} {
			sums[g] += r.TookSeconds
			counts[g]++
		}
	}
	if counts[group{}] == 0 {
		return 0, false
	}
	seconds := 0.0
	for _, r := range runs {
		for _, g := range []group{{r.Strategy, r.MemoryMB}, {"", r.MemoryMB}, {}} {
			if counts[g] > 0 {
				seconds += sums[g] / counts[g]
				break
			}
		}
	}
	return time.Duration(seconds * float64(time.Second)), true
}

// barWidth is how many characters the progress bar has.
const barWidth = 24

// Progress says in a line how far the matrix has come.
func Progress(planned int, measured []Row, missing []Run) string {
	done := planned - len(missing)
	full := barWidth * done / max(planned, 1)
	text := fmt.Sprintf("[%s%s] %d of %d runs", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), done, planned)
	if left, known := Left(measured, missing); known && len(missing) > 0 {
		text += ", about " + readable(left) + " left"
	}
	return text
}

// readable writes a time as people say it.
func readable(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "a minute"
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f minutes", d.Minutes())
	}
	return fmt.Sprintf("%.0f hours", d.Hours())
}
