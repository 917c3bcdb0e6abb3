package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// usage is how busy the whole machine was since it was last asked.
type usage struct{ busy, all uint64 }

// read returns the share of the processors' time that was used since the last read, in
// per cent.
func (u *usage) read() float64 {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	now, err := parseStat(text)
	if err != nil {
		return 0
	}
	before := *u
	*u = now
	if now.all <= before.all {
		return 0
	}
	return 100 * float64(now.busy-before.busy) / float64(now.all-before.all)
}

// parseStat reads the first line of /proc/stat.
func parseStat(text []byte) (usage, error) {
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return usage{}, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var u usage
	// user nice system idle iowait irq softirq steal; what follows is part of user.
	for i, field := range fields[1:9] {
		ticks, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return usage{}, fmt.Errorf("read /proc/stat: %w", err)
		}
		u.all += ticks
		if i != 3 && i != 4 {
			u.busy += ticks
		}
	}
	return u, nil
}

// pressure is the share of the last minute in which some task waited for a resource,
// in per cent, as "97".
func pressure(resource string) string {
	text, err := os.ReadFile("/proc/pressure/" + resource)
	if err != nil {
		return "?"
	}
	for field := range strings.FieldsSeq(string(text)) {
		if value, found := strings.CutPrefix(field, "avg60="); found {
			whole, _, _ := strings.Cut(value, ".")
			return whole
		}
	}
	return "?"
}
