package criu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	ipc_shm "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-shm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"google.golang.org/protobuf/proto"
)

// vmaSysVIPC is CRIU's mark of memory that is a System V segment.
const vmaSysVIPC = 1 << 10

// divideIPC sees to it that each System V object is restored once. The
// containers of a pod share their IPC namespace, so the dump of each has all
// objects, and CRIU would make them in vain a second time. A shared memory
// segment goes with the container that has it attached, for CRIU cannot attach
// what is not in the same images; all else goes with the first container.
func divideIPC(dumpers []*dumper) error {
	groups := map[string][]*dumper{}
	for _, d := range dumpers {
		groups[d.ipcNS] = append(groups[d.ipcNS], d)
	}
	for _, group := range groups {
		if len(group) < 2 {
			continue
		}
		owners, err := segmentOwners(group)
		if err != nil {
			return err
		}
		for i, d := range group {
			for _, file := range d.imageFiles("ipcns-shm-*.img") {
				err := editImage(file, func(segment *ipc_shm.IpcShmEntry) bool {
					owner, attached := owners[uint64(segment.GetDesc().GetId())]
					return owner == d || !attached && i == 0
				})
				if err != nil {
					return fmt.Errorf("container %s: %w", d.name(), err)
				}
			}
			if i == 0 {
				continue
			}
			for _, file := range append(d.imageFiles("ipcns-sem-*.img"), d.imageFiles("ipcns-msg-*.img")...) {
				if err := os.Truncate(file, imageHeader); err != nil {
					return fmt.Errorf("container %s: %w", d.name(), err)
				}
			}
		}
	}
	return nil
}

// segmentOwners are the containers that have System V segments attached, by the
// segments' numbers.
func segmentOwners(group []*dumper) (map[uint64]*dumper, error) {
	owners := map[uint64]*dumper{}
	for _, d := range group {
		segments, err := d.attachedSegments()
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", d.name(), err)
		}
		for _, segment := range segments {
			if other := owners[segment]; other != nil && other != d {
				return nil, &NotCheckpointable{
					Container: d.name(),
					Reason:    fmt.Sprintf("it shares a System V memory segment with container %s", other.name()),
					Hint:      "share memory through a file in /dev/shm or in an emptyDir",
				}
			}
			owners[segment] = d
		}
	}
	return owners, nil
}

// attachedSegments are the numbers of the System V segments in the memory of
// the container's tasks.
func (d *dumper) attachedSegments() ([]uint64, error) {
	var segments []uint64
	for _, file := range d.imageFiles("mm-*.img") {
		image, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if len(image) < imageHeader {
			return nil, errors.New(file + " is too short")
		}
		raw, _, err := nextEntry(image[imageHeader:])
		entry := new(mm.MmEntry)
		if err == nil {
			err = proto.Unmarshal(raw, entry)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, area := range entry.GetVmas() {
			if area.GetStatus()&vmaSysVIPC != 0 {
				segments = append(segments, area.GetShmid())
			}
		}
	}
	return segments, nil
}

// imageFiles are the container's images whose names match a pattern.
func (d *dumper) imageFiles(pattern string) []string {
	files, err := filepath.Glob(filepath.Join(d.images.Name(), pattern))
	if err != nil {
		panic(err) // the pattern is malformed
	}
	return files
}
