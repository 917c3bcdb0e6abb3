package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// processorTick is the unit of times in /proc/<pid>/stat, the same on every Linux.
const processorTick = 10 * time.Millisecond

// processorTime is what a process has used of the processors until now.
func processorTime(pid int) (time.Duration, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The program's name, in parentheses, may hold anything.
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	const userTime, systemTime = 11, 12 // counted from the state, the field after the name
	var ticks int64
	for _, field := range []int{userTime, systemTime} {
		n, err := strconv.ParseInt(fields[field], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * processorTick, nil
}

// memory is what a process holds of the machine's memory, in bytes.
type memory struct{ resident, peak int64 }

func memoryOf(pid int) (m memory, err error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(line, ":")
		into := map[string]*int64{"VmRSS": &m.resident, "VmHWM": &m.peak}[name]
		if into == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return m, fmt.Errorf("read /proc/%d/status: %w", pid, err)
		}
		*into = kib << 10
	}
	if m.resident == 0 || m.peak == 0 {
		return m, fmt.Errorf("/proc/%d/status says nothing about memory", pid)
	}
	return m, nil
}
