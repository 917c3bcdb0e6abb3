package pages

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The guests of these tests are processes with memory of which a page daemon is
// told as CRIU does it, and which know what must be in it.

const (
	ioctlAPI      = 0xc018aa3f
	ioctlRegister = 0xc020aa00
	// criuFeatures are EVENT_FORK, EVENT_REMAP, EVENT_REMOVE and EVENT_UNMAP.
	criuFeatures = 1<<1 | 1<<2 | 1<<3 | 1<<6
	guestBase    = 0x200000000000
)

// roleVariable makes a copy of the test program something else.
const roleVariable = "LIFEBOAT_PAGES_ROLE"

var roles = map[string]func(){"guest": guestMain}

// guestPlan is what a guest does.
type guestPlan struct {
	Folder    string // of the daemon's socket
	Processes int
	Threads   int
	Pages     int // of each process
	Ops       int // of each thread
	Seed      uint64
	// Changes is whether processes unmap, move and remove memory, and fork.
	Changes bool
	// Moving is whether threads do little else than move memory, each to where
	// others have just made room.
	Moving bool
	// Hold makes processes wait for a line on their standard input before they begin.
	Hold bool
}

// hash mixes numbers.
func hash(a, b uint64) uint64 {
	x := a*0x9e3779b97f4a7c15 + b*0xbf58476d1ce4e5b9 + 0x94d049bb133111eb
	x ^= x >> 31
	x *= 0xd6e8feb86659fd93
	return x ^ x>>29
}

// tag says what is in a page: its words are made of it; 0 is a page of zeros. The
// first quarter is the same in all processes.
func tag(pid, page, pages int) uint64 {
	if page < sharedPages(pages) {
		pid = 1
	}
	h := hash(uint64(pid), uint64(page))
	if h%8 == 0 {
		return 0
	}
	return h | 1
}

// sharedPages is how many pages are the same in all processes, in whole chunks.
func sharedPages(pages int) int { return pages / 64 * 16 }

func word(tag uint64, i int) uint64 {
	if tag == 0 {
		return 0
	}
	return tag ^ uint64(i)*0x100000001b3
}

func writePage(out []byte, tag uint64) {
	for i := 0; i < len(out); i += 8 {
		binary.NativeEndian.PutUint64(out[i:], word(tag, i/8))
	}
}

// at is the word at an address that Go knows nothing of.
func at(address uintptr) *uint64 { return *(**uint64)(unsafe.Pointer(&address)) }

func guestMain() {
	var plan guestPlan
	if err := json.Unmarshal([]byte(os.Getenv("LIFEBOAT_PAGES_PLAN")), &plan); err != nil {
		fatal(err)
	}
	debug.SetGCPercent(-1)
	if os.Getenv("LIFEBOAT_PAGES_PID") == "" {
		fatal(restoreGuests(plan))
	}
	var pid int
	fmt.Sscan(os.Getenv("LIFEBOAT_PAGES_PID"), &pid)
	fatal(runGuest(plan, pid))
}

func fatal(err error) {
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// restoreGuests stands in for CRIU.
func restoreGuests(plan guestPlan) error {
	if err := os.Chdir(plan.Folder); err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(socket, &unix.SockaddrUnix{Name: "lazy-pages.socket"}); err != nil {
		return err
	}
	conn := os.NewFile(uintptr(socket), "conn")
	var guests []*exec.Cmd
	var gates []*os.File
	for pid := 1; pid <= plan.Processes; pid++ {
		ready, readyOut, _ := os.Pipe()
		gate, gateOut, _ := os.Pipe()
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), fmt.Sprintf("LIFEBOAT_PAGES_PID=%d", pid))
		cmd.ExtraFiles = []*os.File{conn, readyOut, gate}
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		readyOut.Close()
		gate.Close()
		if _, err := ready.Read(make([]byte, 1)); err != nil {
			return fmt.Errorf("process %d: %w", pid, err)
		}
		guests, gates = append(guests, cmd), append(gates, gateOut)
	}
	if _, err := conn.Write(binary.NativeEndian.AppendUint32(nil, 0xffffffff)); err != nil { // a zombie
		return err
	}
	if _, err := conn.Write(binary.NativeEndian.AppendUint32(nil, restoredMark)); err != nil {
		return err
	}
	conn.Close()
	if plan.Hold {
		fmt.Println("restored")
		if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
			return err
		}
	}
	for _, gate := range gates {
		gate.Write([]byte{1})
	}
	failed := 0
	for _, guest := range guests {
		if err := guest.Wait(); err != nil {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d processes failed", failed)
	}
	fmt.Println("all right")
	return nil
}

func runGuest(plan guestPlan, pid int) error {
	runtime.GOMAXPROCS(plan.Threads + 2) // a thread that waits for a page keeps its processor
	length := uintptr(plan.Pages) * uintptr(pageSize)
	address, err := unix.MmapPtr(-1, 0, *(*unsafe.Pointer)(unsafe.Pointer(&[]uintptr{guestBase}[0])), length,
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED|unix.MAP_NORESERVE)
	if err != nil || uintptr(address) != guestBase {
		return fmt.Errorf("map: %v %w", address, err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		return errno
	}
	api := [3]uint64{0xaa, criuFeatures}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, ioctlAPI, uintptr(unsafe.Pointer(&api))); errno != 0 {
		return errno
	}
	var number [4]byte
	binary.NativeEndian.PutUint32(number[:], uint32(pid))
	if _, err := unix.Write(3, number[:]); err != nil {
		return err
	}
	if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(fd)), nil, 0); err != nil {
		return err
	}
	// CRIU, too, registers only after it has sent.
	register := [4]uint64{guestBase, uint64(length), 1}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, ioctlRegister, uintptr(unsafe.Pointer(&register))); errno != 0 {
		return errno
	}
	unix.Close(int(fd))
	unix.Close(3)
	unix.Write(4, []byte{1})
	unix.Close(4)
	if n, err := unix.Read(5, number[:1]); n != 1 {
		return fmt.Errorf("not restored: %w", err)
	}
	var failed atomic.Pointer[error]
	var threads sync.WaitGroup
	each := plan.Pages / plan.Threads
	for thread := range plan.Threads {
		threads.Go(func() {
			runtime.LockOSThread()
			g := newGuestThread(plan, pid, thread*each, each)
			for range plan.Ops {
				if err := g.step(); err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
			}
			if err := g.checkAll(); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	threads.Wait()
	if err := failed.Load(); err != nil {
		return fmt.Errorf("process %d: %w", pid, *err)
	}
	return nil
}

// guestThread has a part of the memory for itself, and knows what is in it.
type guestThread struct {
	plan guestPlan
	rand *rand.Rand
	// The pages, ascending in their addresses.
	pages []guestPage
	last  string
	forks int
}

type guestPage struct {
	address uintptr
	tag     uint64
}

func newGuestThread(plan guestPlan, pid, first, n int) *guestThread {
	g := &guestThread{plan: plan, rand: rand.New(rand.NewPCG(plan.Seed, uint64(pid*1000+first)))}
	for page := first; page < first+n; page++ {
		g.pages = append(g.pages, guestPage{guestBase + uintptr(page)*uintptr(pageSize), tag(pid, page, plan.Pages)})
	}
	return g
}

// check compares some words of a page, and returns the wrong one.
//
//go:nosplit
func (p guestPage) check(at0 int) int {
	for _, i := range [3]int{at0, 0, 511} {
		want := uint64(0)
		if p.tag != 0 {
			want = p.tag ^ uint64(i)*0x100000001b3
		}
		if *at(p.address + uintptr(i)*8) != want {
			return i
		}
	}
	return -1
}

func (g *guestThread) checked(p guestPage) error {
	i := p.check(g.rand.IntN(512))
	if i < 0 {
		return nil
	}
	return fmt.Errorf("seed %d: page %#x: word %d is %#x, must be %#x; last change here: %s", g.plan.Seed, p.address, i, *at(p.address + uintptr(i)*8), word(p.tag, i), g.last)
}

func (g *guestThread) checkAll() error {
	for _, p := range g.pages {
		if err := g.checked(p); err != nil {
			return err
		}
	}
	return nil
}

// run chooses pages with consecutive addresses.
func (g *guestThread) run(most int) (int, int) {
	i := g.rand.IntN(len(g.pages))
	n := 1
	for n < most && i+n < len(g.pages) && g.pages[i+n].address == g.pages[i].address+uintptr(n)*uintptr(pageSize) && g.rand.IntN(8) > 0 {
		n++
	}
	return i, n
}

func (g *guestThread) step() error {
	if len(g.pages) < 8 {
		return nil
	}
	if g.plan.Moving {
		return g.moveBlock()
	}
	choice := g.rand.IntN(1000)
	if !g.plan.Changes {
		choice = min(choice, 699)
	}
	switch {
	case choice < 600:
		return g.checked(g.pages[g.rand.IntN(len(g.pages))])
	case choice < 700:
		p := &g.pages[g.rand.IntN(len(g.pages))]
		p.tag = g.rand.Uint64() | 1
		for i := range 512 {
			*at(p.address + uintptr(i)*8) = word(p.tag, i)
		}
		return nil
	case choice < 850:
		return g.remove()
	case choice < 890:
		return g.unmap()
	case choice < 980:
		return g.move()
	default:
		return g.fork()
	}
}

func syscall3(number, a, b, c uintptr) error { return syscall6(number, a, b, c, 0, 0, 0) }

func syscall6(number, a, b, c, d, e, f uintptr) error {
	if _, _, errno := unix.Syscall6(number, a, b, c, d, e, f); errno != 0 {
		return errno
	}
	return nil
}

func (g *guestThread) remove() error {
	i, n := g.run(40)
	g.last = fmt.Sprintf("remove %#x+%d", g.pages[i].address, n)
	if err := syscall3(unix.SYS_MADVISE, g.pages[i].address, uintptr(n)*uintptr(pageSize), unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("%s: %w", g.last, err)
	}
	for j := range n {
		g.pages[i+j].tag = 0
	}
	return g.checked(g.pages[i+g.rand.IntN(n)])
}

func (g *guestThread) unmap() error {
	i, n := g.run(20)
	g.last = fmt.Sprintf("unmap %#x+%d", g.pages[i].address, n)
	if err := syscall3(unix.SYS_MUNMAP, g.pages[i].address, uintptr(n)*uintptr(pageSize), 0); err != nil {
		return fmt.Errorf("%s: %w", g.last, err)
	}
	g.pages = slices.Delete(g.pages, i, i+n)
	return nil
}

// move moves pages to where the kernel has room, which may be where another
// thread's have just been: the last page is in the way of the one that is asked for.
func (g *guestThread) move() error {
	i, n := g.run(24)
	if n < 2 {
		return nil
	}
	n-- // the one behind stays
	from, length := g.pages[i].address, uintptr(n)*uintptr(pageSize)
	to, _, errno := unix.Syscall6(unix.SYS_MREMAP, from, length, length+uintptr(pageSize), unix.MREMAP_MAYMOVE, 0, 0)
	g.last = fmt.Sprintf("move %#x+%d to %#x", from, n, to)
	if errno == unix.EFAULT {
		return nil // they lie in two mappings, which cannot be moved at once
	}
	if errno != 0 {
		return fmt.Errorf("%s: %w", g.last, errno)
	}
	grown := guestPage{address: to + length}
	moved := slices.Clone(g.pages[i : i+n])
	for j := range moved {
		moved[j].address += to - from
	}
	g.pages = append(slices.Delete(g.pages, i, i+n), append(moved, grown)...)
	slices.SortFunc(g.pages, func(a, b guestPage) int {
		if a.address < b.address {
			return -1
		}
		return 1
	})
	for j := range moved {
		if g.rand.IntN(4) == 0 {
			if err := g.checked(moved[j]); err != nil {
				return err
			}
		}
	}
	return g.checked(grown)
}

// moveBlock moves a block to the first room that the kernel has for it.
func (g *guestThread) moveBlock() error {
	const block = 4
	length := block * uintptr(pageSize)
	i := g.rand.IntN(len(g.pages)/block) * block
	room, err := unix.MmapPtr(-1, 0, nil, length, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("map: %w", err)
	}
	from, to := g.pages[i].address, uintptr(room)
	g.last = fmt.Sprintf("move %#x to %#x", from, to)
	if err := syscall6(unix.SYS_MREMAP, from, length, length, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, to, 0); err != nil {
		return fmt.Errorf("%s: %w", g.last, err)
	}
	for j := range block {
		g.pages[i+j].address += to - from
	}
	if g.rand.IntN(30) > 0 {
		return nil
	}
	return g.checked(g.pages[i+g.rand.IntN(block)])
}

// fork makes a child that checks what its parent had, and changes it.
func (g *guestThread) fork() error {
	if g.forks++; g.forks > 20 {
		return nil
	}
	g.last = "fork"
	offset := g.rand.IntN(512)
	removed := g.rand.IntN(len(g.pages) - 4)
	pid := forkAndCheck(g.pages, offset, removed)
	if pid < 0 {
		return fmt.Errorf("fork: %w", unix.Errno(-pid))
	}
	// Meanwhile the parent goes on.
	for range 10 {
		if err := g.checked(g.pages[g.rand.IntN(len(g.pages))]); err != nil {
			return err
		}
	}
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		break
	}
	if !status.Exited() || status.ExitStatus() != 0 {
		return fmt.Errorf("seed %d: child of process: signal %v, status %d", g.plan.Seed, status.Signal(), status.ExitStatus())
	}
	return nil
}

// forkAndCheck must not call anything of Go's runtime in the child.
//
//go:norace
func forkAndCheck(pages []guestPage, offset, removed int) int {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return -int(errno)
	}
	if pid != 0 {
		return int(pid)
	}
	status := uintptr(0)
	unix.RawSyscall(unix.SYS_MADVISE, pages[removed].address, uintptr(pageSize), unix.MADV_DONTNEED)
	for i := range pages {
		if i == removed {
			if *at(pages[i].address) != 0 {
				status = 3
			}
			continue
		}
		if pages[i].check(offset) >= 0 {
			status = 2
			break
		}
	}
	unix.RawSyscall(unix.SYS_EXIT_GROUP, status, 0, 0)
	return 0
}

// startGuest starts a guest, which ends with the test.
func startGuest(t testing.TB, plan guestPlan) (*exec.Cmd, *strings.Builder) {
	t.Helper()
	raw, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"=guest", "LIFEBOAT_PAGES_PLAN="+string(raw))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd, &out
}
