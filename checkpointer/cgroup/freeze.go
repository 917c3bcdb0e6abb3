package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// thawTime bounds how long Freeze takes to undo itself after its ctx has ended.
const thawTime = time.Second

// Freeze stops every process of the group and of the groups below it, and
// returns when all are stopped. When it fails, or ctx ends first, it thaws the
// group again, so that no half-frozen group is left behind.
func (g Group) Freeze(ctx context.Context) error {
	err := g.freeze(ctx)
	if err == nil {
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTime)
	defer cancel()
	return fmt.Errorf("freeze %s: %w", g, errors.Join(err, g.Thaw(undo)))
}

func (g Group) freeze(ctx context.Context) error {
	if g.IsRoot() {
		return errors.New("the root cgroup cannot be frozen")
	}
	if err := g.order(true); err != nil {
		return err
	}
	return wait(ctx, func() (bool, error) {
		frozen, err := g.Frozen()
		if err == nil && !frozen && !g.v2 {
			// The kernel's v1 freezer may miss a process that is being forked
			// or moved; ordering again makes it look again.
			err = g.order(true)
		}
		return frozen, err
	})
}

// OrderFreeze tells the kernel to stop every process of the group, and does not
// wait until they are stopped: that takes the kernel a few milliseconds, and Freeze
// makes sure of it. It undoes nothing.
func (g Group) OrderFreeze() error {
	if g.IsRoot() {
		return errors.New("the root cgroup cannot be frozen")
	}
	if err := g.order(true); err != nil {
		return fmt.Errorf("freeze %s: %w", g, err)
	}
	return nil
}

// Thaw lets the processes of the group run, and returns when it is no longer
// frozen. A group under a frozen parent stays frozen until its parent is
// thawed: Thaw then removes the group's own order and returns. A group that is
// gone counts as thawed.
func (g Group) Thaw(ctx context.Context) error {
	if err := g.order(false); err != nil {
		if skipVanished(err) == nil {
			return nil
		}
		return fmt.Errorf("thaw %s: %w", g, err)
	}
	err := wait(ctx, func() (bool, error) {
		own, byParent, err := g.state()
		return !own || byParent, skipVanished(err)
	})
	if err != nil {
		return fmt.Errorf("thaw %s: %w", g, err)
	}
	return nil
}

// Frozen is whether every process of the group is stopped, by an order to this
// group or to one above it.
func (g Group) Frozen() (bool, error) {
	if g.v2 {
		frozen, err := g.event("frozen")
		if err != nil {
			return false, fmt.Errorf("read whether %s is frozen: %w", g, err)
		}
		return frozen, nil
	}
	state, err := g.read("freezer.state")
	if err != nil {
		return false, fmt.Errorf("read whether %s is frozen: %w", g, err)
	}
	return state == "FROZEN", nil
}

// order tells the kernel to freeze or to thaw.
func (g Group) order(freeze bool) error {
	file, value := g.orderFile(freeze)
	// No O_CREATE: where the group is gone this must fail, not make a file.
	f, err := os.OpenFile(g.file(file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func (g Group) orderFile(freeze bool) (file, value string) {
	switch {
	case g.v2 && freeze:
		return "cgroup.freeze", "1"
	case g.v2:
		return "cgroup.freeze", "0"
	case freeze:
		return "freezer.state", "FROZEN"
	default:
		return "freezer.state", "THAWED"
	}
}

// state is whether the group is frozen or on the way to it, and whether that is
// by order of a group above.
func (g Group) state() (freezing, byParent bool, err error) {
	if g.v2 {
		freezing, err = g.event("frozen")
		if err != nil || !freezing {
			return freezing, false, err
		}
		own, err := g.read("cgroup.freeze")
		return freezing, own == "0" && g.parentOrdered(), err
	}
	state, err := g.read("freezer.state")
	if err != nil || state == "THAWED" {
		return false, false, err
	}
	parent, err := g.read("freezer.parent_freezing")
	return true, parent == "1", err
}

// parentOrdered is whether some group above, of cgroup v2, has an order to freeze.
func (g Group) parentOrdered() bool {
	for p := g.Parent(); !p.IsRoot(); p = p.Parent() {
		if own, err := p.read("cgroup.freeze"); err == nil && own == "1" {
			return true
		}
	}
	return false
}

// Kill ends every process of the group and of the groups below it with SIGKILL,
// frozen ones too, and returns when none is left. A group that is gone counts
// as killed. On cgroup v1 no process dies while a group above is frozen: thaw
// or kill that one instead.
func (g Group) Kill(ctx context.Context) error {
	if g.IsRoot() {
		return errors.New("kill: the root cgroup holds the whole machine")
	}
	if err := g.kill(ctx); err != nil {
		return fmt.Errorf("kill the processes of %s: %w", g, err)
	}
	return nil
}

func (g Group) kill(ctx context.Context) error {
	if g.v2 {
		f, err := os.OpenFile(g.file("cgroup.kill"), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString("1")
			err = errors.Join(err, f.Close())
		}
		if err == nil {
			return wait(ctx, g.empty)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return skipVanished(err)
		}
		// Kernels before 5.14 have no cgroup.kill.
	}
	// Frozen, the group cannot fork away from the signals. Without the freezer
	// the rounds below still end it, only later.
	if err := g.order(true); err != nil && skipVanished(err) == nil {
		return nil
	}
	return wait(ctx, func() (bool, error) {
		pids, err := g.Procs()
		if err != nil {
			return false, err
		}
		for _, pid := range pids {
			if pid <= 0 {
				return false, errors.New("a process of the group is not in this pid namespace")
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return false, fmt.Errorf("process %d: %w", pid, err)
			}
		}
		// A process that is frozen by cgroup v1 dies when it is thawed.
		if err := g.thawBelow(); err != nil {
			return false, err
		}
		return len(pids) == 0, nil
	})
}

// thawBelow orders the group and every group below it to thaw.
func (g Group) thawBelow() error {
	if err := g.order(false); err != nil {
		return skipVanished(err)
	}
	entries, err := os.ReadDir(g.dir())
	if err != nil {
		return skipVanished(err)
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := (Group{root: g.root, path: g.path + "/" + entry.Name(), v2: g.v2}).thawBelow(); err != nil {
				return err
			}
		}
	}
	return nil
}

// empty is whether no process is left in the group and below.
func (g Group) empty() (bool, error) {
	populated, err := g.event("populated")
	if err != nil {
		return skipVanished(err) == nil, skipVanished(err)
	}
	return !populated, nil
}

// event reads one value of cgroup.events of cgroup v2.
func (g Group) event(key string) (bool, error) {
	content, err := g.read("cgroup.events")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(content) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name == key {
			return value == "1", nil
		}
	}
	return false, fmt.Errorf("cgroup.events has no %q", key)
}

func (g Group) read(file string) (string, error) {
	content, err := os.ReadFile(g.file(file))
	return strings.TrimSpace(string(content)), err
}
