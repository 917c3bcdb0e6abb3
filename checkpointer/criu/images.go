package criu

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"google.golang.org/protobuf/proto"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

// imageHeader is the size of what stands before the entries of a CRIU image.
const imageHeader = 8

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
		err := editImage(file, func(entry *fdinfo.FileEntry) bool {
			name := path.Clean("/" + entry.GetReg().GetName())
			if entry.GetReg() != nil && slices.ContainsFunc(shared, func(m string) bool { return strings.HasPrefix(name, m+"/") }) {
				entry.Reg.Size = nil
			}
			return true
		})
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

// message is a kind of entry of CRIU's images.
type message[T any] interface {
	*T
	proto.Message
}

// editImage writes a CRIU image anew with the entries for which keep returns
// true, as keep has changed them. Fields that this version of the image's format
// does not know stay as they are.
func editImage[T any, M message[T]](file string, keep func(M) bool) error {
	image, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if len(image) < imageHeader {
		return fmt.Errorf("%s: %w", file, io.ErrUnexpectedEOF)
	}
	edited := slices.Clone(image[:imageHeader])
	for rest := image[imageHeader:]; len(rest) > 0; {
		var raw []byte
		if raw, rest, err = nextEntry(rest); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		entry := M(new(T))
		if err := proto.Unmarshal(raw, entry); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if !keep(entry) {
			continue
		}
		if raw, err = proto.Marshal(entry); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		edited = binary.LittleEndian.AppendUint32(edited, uint32(len(raw)))
		edited = append(edited, raw...)
	}
	return os.WriteFile(file, edited, 0o600)
}

// nextEntry splits the first entry, which stands behind its length, from what
// follows it in an image.
func nextEntry(image []byte) (entry, rest []byte, err error) {
	if len(image) < 4 {
		return nil, nil, io.ErrUnexpectedEOF
	}
	size := int64(binary.LittleEndian.Uint32(image))
	if int64(len(image)) < 4+size {
		return nil, nil, io.ErrUnexpectedEOF
	}
	return image[4 : 4+size], image[4+size:], nil
}

// maskedFolders are the folders that container runtimes hide under an empty
// read-only file system. CRIU would start tar and gzip for each, with the tasks
// stopped, to keep nothing; so they are left out, and restored from
// maskFolder.
var maskedFolders = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/scsi", "/sys/devices/virtual/powercap", "/sys/firmware",
}

// maskFolder is an empty folder of the node.
const maskFolder = client.Folder + "/empty"

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
// restore a checkpoint of this package. Without it the restore fails.
func WriteRestoreConfig(path string) error {
	config := fmt.Appendf(nil, restoreConfig, ghostLimit)
	for _, folder := range maskedFolders {
		config = fmt.Appendf(config, "external mnt[%s]:%s\n", folder, maskFolder)
	}
	err := os.MkdirAll(maskFolder, 0o555)
	if err == nil {
		err = os.WriteFile(path, config, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write CRIU's configuration for the restore: %w", err)
	}
	return nil
}
