package main

import (
	"slices"
	"time"
)

// spread is what a measure came to over all losses.
type spread struct{ median, p95, fastest, slowest time.Duration }

// spreadOf returns the spread of at least one measurement. The median of an even
// number is the mean of the two in the middle. The 95th percentile is by nearest
// rank: the smallest measurement that at least 95 % do not exceed, which is the 19th
// of 20 and the slowest of fewer.
func spreadOf(measured []time.Duration) spread {
	sorted := slices.Sorted(slices.Values(measured))
	n := len(sorted)
	return spread{
		median:  (sorted[(n-1)/2] + sorted[n/2]) / 2,
		p95:     sorted[(95*n+99)/100-1],
		fastest: sorted[0],
		slowest: sorted[n-1],
	}
}

// The aims for the time from the cut to the first answer to the shopper.
const (
	aimMedian = 5 * time.Second
	aimP95    = 8 * time.Second
)

func verdict(measured, aim time.Duration) string {
	if measured <= aim {
		return "met"
	}
	return "MISSED"
}
