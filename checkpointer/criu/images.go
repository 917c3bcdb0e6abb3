package criu

import (
	"fmt"
	"os"
	"path/filepath"
)

// imageHeader is the size of what stands before the entries of a CRIU image.
const imageHeader = 8

// dropSharedIPC empties the images of System V message queues, semaphores and
// shared memory in all containers but the first that shares their namespace:
// each dump has all of them, and CRIU cannot make them twice.
func dropSharedIPC(dumpers []*dumper) error {
	seen := map[string]bool{}
	for _, d := range dumpers {
		if !seen[d.ipcNS] {
			seen[d.ipcNS] = true
			continue
		}
		for _, kind := range []string{"sem", "msg", "shm"} {
			files, err := filepath.Glob(filepath.Join(d.images.Name(), "ipcns-"+kind+"-*.img"))
			if err != nil {
				return err
			}
			for _, file := range files {
				info, err := os.Stat(file)
				if err == nil && info.Size() > imageHeader {
					err = os.Truncate(file, imageHeader)
				}
				if err != nil {
					return fmt.Errorf("empty an image of shared IPC objects: %w", err)
				}
			}
		}
	}
	return nil
}

// restoreConfig are CRIU's options for a restore by runc that runc has no flags
// for, or sets otherwise; a configuration file wins over what runc asks for. The
// cgroup mode is an optional argument, which needs the equals sign: with a
// space CRIU takes the option and drops its value.
const restoreConfig = `tcp-close
skip-in-flight
network-lock skip
manage-cgroups=ignore
link-remap
ext-unix-sk
file-locks
ghost-limit %d
`

// WriteRestoreConfig writes the CRIU configuration file with which runc is to
// restore a checkpoint of this package.
func WriteRestoreConfig(path string) error {
	if err := os.WriteFile(path, fmt.Appendf(nil, restoreConfig, ghostLimit), 0o600); err != nil {
		return fmt.Errorf("write CRIU's configuration for the restore: %w", err)
	}
	return nil
}
