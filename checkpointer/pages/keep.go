package pages

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// keeping is what a daemon has with its keeper.
type keeping struct {
	keeper Keeper // nil: none
	mu     sync.Mutex
	// open is whether the keeper takes what is added, and whole whether it holds
	// everything.
	open, whole bool
}

var errNotKept = errors.New("the keeper does not hold its userfaultfds")

// keepAll brings everything to the keeper.
func (d *Daemon) keepAll() {
	k := &d.keep
	if k.keeper == nil {
		return
	}
	k.mu.Lock()
	err := k.keeper.Keep(d.state.fd)
	k.open = err == nil
	k.mu.Unlock()
	if err != nil {
		d.options.Log.Warn("the keeper does not hold a container's memory: it would be lost with this process", "err", err)
		return
	}
	d.mu.Lock()
	spaces := slices.Clone(d.spaces) // those that come later are added by whoever makes them
	d.mu.Unlock()
	for _, s := range spaces {
		s.mu.RLock()
		if s.fd >= 0 && !s.closed {
			k.add(s, d.options.Log)
		}
		s.mu.RUnlock()
	}
	k.mu.Lock()
	k.whole = k.open
	k.mu.Unlock()
}

// add keeps one more space.
func (k *keeping) add(s *space, log *slog.Logger) {
	k.try("add", log, func() error { return k.keeper.Add(s.number, s.fd) })
}

func (k *keeping) remove(s *space, log *slog.Logger) {
	k.try("remove", log, func() error { return k.keeper.Remove(s.number) })
}

// drop lets go of everything, also of what the keeper holds from before it was lost.
func (k *keeping) drop(log *slog.Logger) {
	if k.keeper == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.keeper.Drop(); err != nil {
		log.Warn("the keeper has not dropped a container", "err", err)
	}
}

func (k *keeping) try(what string, log *slog.Logger, do func() error) {
	if k.keeper == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.open {
		return // everything is brought once it is there again
	}
	if err := do(); err != nil {
		k.open, k.whole = false, false
		log.Warn("the keeper has not done what it was asked for", "request", what, "err", err)
	}
}

// held is nil if the keeper holds everything.
func (k *keeping) held() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keeper == nil || !k.whole || k.keeper.Lost() {
		return errNotKept
	}
	return nil
}

// leave ends the connection: the keeper goes on.
func (k *keeping) leave() {
	if k.keeper != nil {
		// What is kept, is.
		_ = k.keeper.Close()
	}
}

// keepAgain brings everything to the keeper again whenever it has lost it, as
// after its own end.
func (d *Daemon) keepAgain() {
	const period = time.Second
	k := &d.keep
	if k.keeper == nil {
		return
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-tick.C:
		}
		k.mu.Lock()
		k.open = k.open && !k.keeper.Lost()
		k.whole = k.whole && k.open
		whole := k.whole
		k.mu.Unlock()
		if !whole {
			d.keepAll()
		}
	}
}
