package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"google.golang.org/protobuf/proto"
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

// dropSharedSizes has CRIU restore the open files on the pod's shared volumes
// whatever their size. The containers of a pod are restored one after another:
// while the second is, the first already runs and writes to them.
func dropSharedSizes(pod PodTarget, dumpers []*dumper) error {
	if len(dumpers) < 2 {
		return nil
	}
	for _, d := range dumpers {
		shared := d.sharedMounts(pod)
		if len(shared) == 0 {
			continue
		}
		file := filepath.Join(d.images.Name(), "files.img")
		content, err := os.ReadFile(file)
		if err == nil {
			content, err = editFiles(content, func(entry *fdinfo.FileEntry) {
				name := path.Clean("/" + entry.GetReg().GetName())
				if entry.GetReg() != nil && slices.ContainsFunc(shared, func(m string) bool { return strings.HasPrefix(name, m+"/") }) {
					entry.Reg.Size = nil
				}
			})
		}
		if err == nil {
			err = os.WriteFile(file, content, 0o600)
		}
		if err != nil {
			return fmt.Errorf("container %s: edit the image of open files: %w", d.name(), err)
		}
	}
	return nil
}

// sharedMounts are the places in the container at which volumes of the pod are
// mounted that its containers share and that end with it.
func (c *container) sharedMounts(pod PodTarget) []string {
	var shared []string
	for _, m := range c.config.Mounts {
		isShared := pod.ShmDir != "" && m.Source == pod.ShmDir
		for volume, folder := range pod.EmptyDirs {
			// kubelet binds a subPath of a volume to a folder of its own.
			isShared = isShared || m.Source == folder || strings.Contains(m.Source, "/volume-subpaths/"+volume+"/")
		}
		if isShared {
			shared = append(shared, resolveIn(c.state.Config.Rootfs, m.Destination))
		}
	}
	return shared
}

// editFiles calls edit for every entry of CRIU's image of open files. Fields
// that this version of the image's format does not know stay as they are.
func editFiles(image []byte, edit func(*fdinfo.FileEntry)) ([]byte, error) {
	if len(image) < imageHeader {
		return nil, io.ErrUnexpectedEOF
	}
	edited := slices.Clone(image[:imageHeader])
	for rest := image[imageHeader:]; len(rest) > 0; {
		if len(rest) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		size := int64(binary.LittleEndian.Uint32(rest))
		if int64(len(rest)) < 4+size {
			return nil, io.ErrUnexpectedEOF
		}
		entry := new(fdinfo.FileEntry)
		if err := proto.Unmarshal(rest[4:4+size], entry); err != nil {
			return nil, err
		}
		edit(entry)
		raw, err := proto.Marshal(entry)
		if err != nil {
			return nil, err
		}
		if int64(len(raw)) > size {
			return nil, errors.New("an entry has grown")
		}
		edited = binary.LittleEndian.AppendUint32(edited, uint32(len(raw)))
		edited = append(edited, raw...)
		rest = rest[4+size:]
	}
	return edited, nil
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
