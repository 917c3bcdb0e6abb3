package membership

import (
	"encoding/json"
	"net"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"
)

// record is a Member and what leads to its state.
type record struct {
	Member
	leaving bool
	// misses counts the pings in a row that nobody saw answered.
	misses int
	// round numbers the pings, so that a late answer of a helper is told from
	// the answer to the last question.
	round   int
	askedAt time.Time
}

func (r *record) enter(state State, now time.Time) bool {
	if r.State == state {
		return false
	}
	r.State, r.Since = state, now
	return true
}

// delegate is what memberlist calls. It calls with its own lock held, so
// nothing here may call memberlist.
type delegate Membership

func (d *delegate) membership() *Membership { return (*Membership)(d) }

func (d *delegate) NotifyJoin(n *memberlist.Node)   { d.heard(n) }
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.heard(n) }

// heard takes in what a member said of itself.
func (d *delegate) heard(n *memberlist.Node) {
	if n.Name == d.config.Name {
		return
	}
	var said meta
	if err := json.Unmarshal(n.Meta, &said); err != nil {
		d.log.Warn("a member's description cannot be read", "member", n.Name, "error", err)
	}
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.members[n.Name]
	if r == nil {
		r = &record{Member: Member{Name: n.Name}}
		d.members[n.Name] = r
	}
	r.Kind, r.PeerAddress, r.leaving = said.Kind, said.PeerAddress, said.Leaving
	r.Address = net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
	if !said.Stopped {
		r.Stopped = time.Time{}
	} else if r.Stopped.IsZero() {
		r.Stopped = now
	}
	state := Alive
	if r.leaving {
		state = Left
	}
	if r.enter(state, now) && state == Alive {
		r.LastAlive, r.misses = now, 0
	}
	d.membership().notify()
}

func (d *delegate) NotifyLeave(n *memberlist.Node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.members[n.Name]
	if r == nil {
		return
	}
	state := Dead
	if r.leaving {
		state = Left
	}
	if r.enter(state, time.Now()) {
		d.membership().notify()
	}
}

// NotifyPingComplete is called for each answer to one of memberlist's own probes.
func (d *delegate) NotifyPingComplete(n *memberlist.Node, rtt time.Duration, _ []byte) {
	d.membership().answered(n.Name, time.Now().Add(-rtt))
}

func (d *delegate) AckPayload() []byte { return nil }

func (d *delegate) NodeMeta(int) []byte { return d.membership().encodedMeta() }

func (d *delegate) NotifyMsg(message []byte) { d.membership().receive(message) }

func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

func (d *delegate) LocalState(bool) []byte { return nil }

func (d *delegate) MergeRemoteState([]byte, bool) {}

// answered takes in that a member was alive at a moment.
func (m *Membership) answered(name string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.members[name]
	if r == nil {
		return
	}
	if at.After(r.LastAlive) {
		r.LastAlive = at
	}
	r.misses = 0
	if r.State == Suspect {
		r.enter(Alive, time.Now())
		m.notify()
	}
}

// missed takes in that a ping of a member went unanswered.
func (m *Membership) missed(name string, patience int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.members[name]
	if r == nil {
		return
	}
	r.misses++
	if r.State == Alive && r.misses >= patience {
		r.enter(Suspect, time.Now())
		m.notify()
	}
}

// forget drops what has been gone for long: nodes and pods come and go.
func (m *Membership) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, r := range m.members {
		if (r.State == Dead || r.State == Left) && time.Since(r.Since) > forgetAfter {
			delete(m.members, name)
		}
	}
}
