package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
)

// median is the middle of some values, 0 when there are none.
func median[T cmp.Ordered](values []T) T { return quantile(values, 0.5) }

// quantile is the least of some values that a share of them does not exceed; 0 when
// there are none.
func quantile[T cmp.Ordered](values []T, share float64) (q T) {
	if len(values) == 0 {
		return q
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, int(math.Ceil(share*float64(len(sorted))))-1)]
}

func milliseconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds()*1000, 'f', 1, 64)
}

func mebibytes(bytes int64) string { return fmt.Sprintf("%d MiB", bytes>>20) }
