package track

import (
	"encoding/binary"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// zeros are the page frames that the kernel shows wherever memory was read and
// never written: the zero page, and the huge zero page.
type zeros struct{ page, huge uint64 }

// contains is whether a present page's entry of a pagemap is of one of them.
func (z zeros) contains(entry uint64) bool {
	frame := entry & entryFrame
	if entry&entryPresent == 0 || frame == 0 {
		return false
	}
	return frame == z.page || z.huge != 0 && frame-z.huge < hugePage/pageSize
}

// zeroFrames finds them by reading memory of its own. It keeps the memory, for the
// huge zero page may move when nobody has it. Without CAP_SYS_ADMIN the kernel
// tells no frames; zero pages then count as pages with content.
var zeroFrames = sync.OnceValue(func() zeros {
	file, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return zeros{}
	}
	defer file.Close()
	own, err := unix.Mmap(-1, 0, 2*hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return zeros{}
	}
	frame := func(offset int) uint64 {
		if own[offset] != 0 { // what counts is that it is read
			return 0
		}
		var entry [8]byte
		address := uint64(uintptr(unsafe.Pointer(&own[offset])))
		if _, err := file.ReadAt(entry[:], int64(address/pageSize*8)); err != nil {
			return 0
		}
		return binary.NativeEndian.Uint64(entry[:]) & entryFrame
	}
	var z zeros
	z.page = frame(0)
	aligned := int(-uintptr(unsafe.Pointer(&own[0])) & (hugePage - 1))
	if aligned == 0 {
		aligned = hugePage
	}
	if unix.Madvise(own, unix.MADV_HUGEPAGE) != nil || aligned+hugePage > len(own) {
		return z
	}
	if huge := frame(aligned); huge != z.page && huge%(hugePage/pageSize) == 0 {
		z.huge = huge
	}
	return z
})
