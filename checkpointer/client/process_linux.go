package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// FirstProcess is the number of a container's first process, which runs. States is runc's
// folder of states, and procRoot where /proc of the node is. An error means that the
// process has ended, also when another one has its number now, or that runc has no
// such container.
func FirstProcess(states, procRoot, container string) (pid int, err error) {
	raw, err := os.ReadFile(filepath.Join(states, container, "state.json"))
	var state struct {
		Pid     int    `json:"init_process_pid"`
		Started uint64 `json:"init_process_start"`
	}
	if err == nil {
		err = json.Unmarshal(raw, &state)
	}
	if err != nil {
		return 0, fmt.Errorf("read runc's state of container %s: %w", container, err)
	}
	if state.Pid <= 0 {
		return 0, fmt.Errorf("runc's state of container %s names no process", container)
	}
	stat, err := os.ReadFile(filepath.Join(procRoot, strconv.Itoa(state.Pid), "stat"))
	if err != nil {
		return 0, fmt.Errorf("it has ended: %w", err)
	}
	// The name of the program stands in parentheses and may hold anything.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("the stat file of process %d has %d fields", state.Pid, len(fields))
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, errors.New("it has ended")
	}
	if started, _ := strconv.ParseUint(fields[19], 10, 64); started != state.Started {
		return 0, errors.New("it has ended, and another process has its number")
	}
	return state.Pid, nil
}
