package main

import (
	"time"

	"github.com/lifeboat-dev/lifeboat/membership"
)

const (
	pingTime   = 150 * millisecond
	patience   = 2 // misses in a row that make a suspect
	helpers    = 3
	deathAfter = 1200 * millisecond // from the first miss until the members agree, about
)

// member is a node's checkpointer in a watcher's membership.
type member struct {
	membership.Member
	misses int
	since  int64 // of the first miss
	dies   int64 // when the members agree
}

// pings is one round of a watcher's pings. Each is settled at once: nobody sees
// the difference, and it costs no events.
func (w *world) pings(x *watcher) {
	changed := false
	for j := range w.nodes {
		m := &x.members[j]
		before := m.State
		if m.State == membership.Dead && !w.random.chance(25) {
			continue // found again when its address is tried next
		}
		sent := x.clock.time(w.now)
		switch {
		case w.now < x.lies[j]:
			w.missed(m, sent)
		case w.reaches(x.host, j):
			if m.State != membership.Alive {
				m.State, m.Since = membership.Alive, sent
			}
			m.LastAlive, m.misses = sent, 0
		case m.State == "":
			continue
		case m.State != membership.Dead && w.reachedByOthers(x, j):
			// It answered a helper, after that was asked.
			m.LastAlive, m.misses = sent.Add(time.Duration(pingTime)), 0
			if m.LastAlive.After(sent) {
				m.LastAlive = sent
			}
			m.State = membership.Alive
		default:
			w.missed(m, sent)
		}
		if m.State != before {
			changed = true
			w.mark(uint64(j)<<8 ^ uint64(len(m.State)))
			w.tell("w%d: member %s is %s", x.index, names[j], m.State)
		}
	}
	if changed {
		w.step(x.index)
	}
}

func (w *world) missed(m *member, now time.Time) {
	if m.misses == 0 {
		m.since = w.now
		m.dies = w.now + deathAfter + w.random.below(600*millisecond)
	}
	m.misses++
	switch {
	case m.State == membership.Alive && m.misses >= patience:
		m.State, m.Since = membership.Suspect, now
	case m.State == membership.Suspect && w.now >= m.dies:
		m.State, m.Since = membership.Dead, now
	}
}

// reaches says whether a ping from a host to a node is answered in time.
func (w *world) reaches(host, j int) bool {
	n := &w.nodes[j]
	if !n.up || n.stalled > w.now {
		return false
	}
	if host == j {
		return true
	}
	there, ok := w.travel(host, j)
	if !ok {
		return false
	}
	back, ok := w.travel(j, host)
	return ok && there+back <= pingTime
}

// reachedByOthers says whether one of a few helpers reaches a node and can say so.
func (w *world) reachedByOthers(x *watcher, j int) bool {
	from := int(w.random.below(int64(len(w.nodes))))
	for k := range min(helpers, len(w.nodes)-1) {
		h := (from + k) % len(w.nodes)
		if h == j || h == x.host || x.members[h].State != membership.Alive {
			continue
		}
		if w.reaches(x.host, h) && w.reaches(h, j) {
			return true
		}
	}
	return false
}
