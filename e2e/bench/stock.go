package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Folders of a node that lie on a tmpfs.
const (
	stagedFolder = "/run/lifeboat-bench/staged"
	stockFolder  = "/run/lifeboat-bench/runc"
	workFolder   = "/run/lifeboat-bench/work"
)

// stockCheckpoint takes runc's own checkpoint of a container, which runs on, with
// runc's defaults.
func stockCheckpoint(s *subject) error {
	if err := os.MkdirAll(stockFolder, 0o700); err != nil {
		return err
	}
	err := s.container.Runtime("runc", "checkpoint", "--leave-running", "--image-path", stockFolder, "--work-path", workFolder, s.container.ID)
	if err != nil {
		return fmt.Errorf("%w: %s", err, lastErrors(filepath.Join(workFolder, "dump.log")))
	}
	return nil
}

// stockRestore restores a container from runc's own checkpoint, all memory first.
func stockRestore(s *subject) error {
	c := s.container
	err := c.Runtime("runc", "restore", "--detach", "--bundle", c.Bundle, "--pid-file", c.PidFile(),
		"--image-path", stockFolder, "--work-path", workFolder, c.ID)
	if err != nil {
		return fmt.Errorf("%w: %s", err, lastErrors(filepath.Join(workFolder, "restore.log")))
	}
	return nil
}

// removeStock removes runc's images, so that the next ones find their room.
func removeStock() error { return os.RemoveAll(stockFolder) }

// lastErrors is what a log of CRIU says of errors.
func lastErrors(file string) string {
	log, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	var lines []string
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "Error") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines[max(0, len(lines)-5):], " | ")
}

// output runs a program of the node and returns what it prints.
func output(name string, args ...string) ([]byte, error) {
	var problems bytes.Buffer
	cmd := exec.CommandContext(context.Background(), name, args...)
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(problems.String()))
	}
	return out, nil
}
