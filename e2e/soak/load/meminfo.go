package main

import (
	"errors"
	"strconv"
	"strings"
)

// parseAvailable reads MemAvailable, in bytes, out of /proc/meminfo.
func parseAvailable(text []byte) (int64, error) {
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "MemAvailable:"); found {
			kilobytes, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kilobytes << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo does not say MemAvailable")
}
