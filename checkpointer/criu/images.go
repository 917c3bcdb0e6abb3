package criu

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timerfd"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
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

// rearmTimers has periodic timers go on that had run out, and were not read yet,
// at the moment of the checkpoint. The kernel starts such a timer again when it is
// read; restored as CRIU has noted it, with no time left, it would never run again.
func rearmTimers(dumpers []*dumper) error {
	for _, d := range dumpers {
		err := editImage(filepath.Join(d.images.Name(), "files.img"), func(entry *fdinfo.FileEntry) bool {
			rearm(entry.GetTfd())
			return true
		})
		if err != nil {
			return fmt.Errorf("container %s: edit the image of open files: %w", d.name(), err)
		}
	}
	return nil
}

func rearm(t *timerfd.TimerfdEntry) {
	expired := t.GetVsec() == 0 && t.GetVnsec() == 0 && t.GetTicks() > 0
	if expired && (t.GetIsec() > 0 || t.GetInsec() > 0) {
		t.Vsec, t.Vnsec = t.Isec, t.Insec
	}
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

// Flags of an entry of a pagemap image.
const (
	pageLazy    = 1 << 1 // CRIU can restore the pages later
	pagePresent = 1 << 2 // the pages are in the images
)

// leftOut returns the pages that a dump without the processes' memory has left
// out, from the image that describes a process's memory. They are exactly what has
// to be kept in another way.
func leftOut(file string) (memory.Set, error) {
	_, set, err := readPagemap(file, isLeftOut)
	return set, err
}

func isLeftOut(flags uint64) bool { return flags&pageLazy != 0 && flags&pagePresent == 0 }
func isPresent(flags uint64) bool { return flags&pagePresent != 0 }

// pagesOf returns the number of the image of pages that an image of a pagemap has, and the
// pages that are in it.
func pagesOf(file string) (number uint64, present memory.Set, err error) {
	return readPagemap(file, isPresent)
}

func readPagemap(file string, wanted func(flags uint64) bool) (number uint64, set memory.Set, err error) {
	image, err := os.ReadFile(file)
	if err != nil {
		return 0, nil, err
	}
	if number, set, err = parsePagemap(image, wanted); err != nil {
		return 0, nil, fmt.Errorf("%s: %w", file, err)
	}
	return number, set, nil
}

func parsePagemap(image []byte, wanted func(flags uint64) bool) (number uint64, set memory.Set, err error) {
	if len(image) < imageHeader {
		return 0, nil, io.ErrUnexpectedEOF
	}
	head, rest, err := nextEntry(image[imageHeader:])
	if err != nil {
		return 0, nil, err
	}
	// go-criu's type lacks the field for the number of pages of this format.
	fields, err := numbers(head)
	const pagesImage = 1
	number = fields[pagesImage]
	var spans []memory.Span
	for err == nil && len(rest) > 0 {
		var raw []byte
		if raw, rest, err = nextEntry(rest); err != nil {
			break
		}
		if fields, err = numbers(raw); err != nil {
			break
		}
		const address, pagesCompat, flags, pages = 1, 2, 4, 5
		if !wanted(fields[flags]) {
			continue
		}
		count := fields[pages]
		if count == 0 {
			count = fields[pagesCompat]
		}
		start := fields[address]
		if start%pageSize != 0 || count > (math.MaxUint64-start)/pageSize {
			return 0, nil, fmt.Errorf("%d pages at %x are no part of an address space", count, start)
		}
		spans = append(spans, memory.Span{Start: start, End: start + count*pageSize})
	}
	return number, memory.NewSet(spans...), err
}

// numbers returns the numeric fields of a message.
func numbers(message []byte) (map[protowire.Number]uint64, error) {
	fields := map[protowire.Number]uint64{}
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		message = message[n:]
		if kind == protowire.VarintType {
			fields[number], n = protowire.ConsumeVarint(message)
		} else {
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		message = message[n:]
	}
	return fields, nil
}
