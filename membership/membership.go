// Package membership tells the processes of Lifeboat which of the others are
// alive. It joins them with hashicorp/memberlist, whose gossip also proves that
// a node is dead, and adds what memberlist keeps to itself: that a member is
// suspected, when it last gave a sign of life, and that it left in order.
package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// DefaultPort is where members listen, on UDP and TCP.
const DefaultPort = 7946

// Kind is what a member is.
type Kind string

// The kinds of members.
const (
	Checkpointer Kind = "checkpointer" // named after its node
	Watcher      Kind = "watcher"      // named after its pod
)

// State is what is believed of a member.
type State string

// The states of a member.
const (
	Alive   State = "Alive"
	Suspect State = "Suspect" // it answers neither us nor those who asked it for us
	Dead    State = "Dead"    // the members agree that it does not answer
	Left    State = "Left"    // it said goodbye: it is shutting down in order
)

// Member is what is known of one member.
type Member struct {
	// Name is the node's name for a checkpointer, the pod's name for a watcher.
	Name string
	Kind Kind
	// Address is where it listens, as "10.0.0.7:7946".
	Address string
	// PeerAddress is where it serves the peer protocol; empty for a watcher.
	PeerAddress string
	State       State
	// Since is when State was last entered, as seen here.
	Since time.Time
	// LastAlive is the last moment for which there is evidence of life: the
	// start of the last ping that was answered. It is never later than the
	// truth. A watcher pings each checkpointer every PingInterval, so there it
	// is earlier than the truth by at most PingInterval and one ping's way; a
	// checkpointer learns from memberlist's probes alone, and is off by up to
	// 400 ms times the number of members. Until the first answer it is when
	// this process first heard of the member, which can be later than the truth
	// by the time in which members notice a death, about 1.5 s.
	LastAlive time.Time
	// Stopped is since when the member says that its node's protected pods stand
	// still for want of permission, as heard here; zero while it does not.
	Stopped time.Time
}

// Config says who this member is. Name, Kind, AdvertiseAddr and Key are required.
type Config struct {
	Name string
	Kind Kind
	// BindAddr is the address to listen on; empty means every address.
	BindAddr string
	// AdvertiseAddr is the IP address at which others reach this member.
	AdvertiseAddr string
	// Port is for both; 0 takes any free one.
	Port int
	// PeerAddress is announced to the others, see Member.
	PeerAddress string
	// Key of 16, 24 or 32 bytes encrypts and authenticates every message.
	Key    []byte
	Logger *slog.Logger

	// wrap lets tests cut the network.
	wrap func(memberlist.NodeAwareTransport) memberlist.NodeAwareTransport
}

// The times below are chosen for 3 to 100 nodes: a power cut shows as Suspect
// at the watchers after 0.4 to 0.7 s and as Dead after about 1.5 s.
const (
	// PingInterval is how often a watcher pings each checkpointer.
	PingInterval = 250 * time.Millisecond
	// pingTimeout is how long one answer may take.
	pingTimeout = 150 * time.Millisecond
	// missesToSuspect is how many pings in a row must go unanswered, here and
	// at those who were asked to try. A member that has reason to doubt itself
	// waits for more, see patience.
	missesToSuspect = 2
	// pingsPerSecond bounds a watcher's pings; past pingsPerSecond *
	// PingInterval checkpointers each is pinged less often.
	pingsPerSecond = 400
	// helpers is how many others are asked to try a member that did not answer.
	helpers = 3

	// probeInterval has room for two times pingTimeout: memberlist first pings by
	// itself, then through others, and doubts itself when those do not report in
	// time that they had no answer either.
	probeInterval = 400 * time.Millisecond
	joinInterval  = time.Second
	// forgetAfter is how long a dead or departed member is still listed.
	forgetAfter = time.Hour
)

// Membership is one process's part in the membership. Its methods may be called
// from any goroutine.
type Membership struct {
	config  Config
	list    *memberlist.Memberlist
	log     *slog.Logger
	changes chan struct{}

	mu      sync.Mutex
	members map[string]*record
	meta    meta

	leave   sync.Once
	leaving error
}

// meta is what each member tells of itself; memberlist allows it 512 bytes.
type meta struct {
	Kind        Kind   `json:"kind"`
	PeerAddress string `json:"peer,omitempty"`
	Leaving     bool   `json:"leaving,omitempty"`
	Stopped     bool   `json:"stopped,omitempty"`
}

// New starts to listen. Nobody is known until Join or Run.
func New(config Config) (*Membership, error) {
	switch {
	case config.Name == "" || config.AdvertiseAddr == "":
		return nil, errors.New("membership needs a name and an address to advertise")
	case config.Kind != Checkpointer && config.Kind != Watcher:
		return nil, fmt.Errorf("membership: unknown kind %q", config.Kind)
	case len(config.Key) == 0:
		return nil, errors.New("membership needs a key: it never talks in the clear")
	}
	if config.BindAddr == "" {
		config.BindAddr = "0.0.0.0"
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	m := &Membership{
		config:  config,
		log:     config.Logger,
		changes: make(chan struct{}, 1),
		members: map[string]*record{},
		meta:    meta{Kind: config.Kind, PeerAddress: config.PeerAddress},
	}

	c := memberlist.DefaultLANConfig()
	c.Name = config.Name
	c.BindAddr, c.BindPort = config.BindAddr, config.Port
	c.AdvertiseAddr, c.AdvertisePort = config.AdvertiseAddr, config.Port
	c.SecretKey = config.Key
	c.ProbeInterval = probeInterval
	c.ProbeTimeout = pingTimeout
	// A suspect has two probe intervals to speak up before it is dead.
	c.SuspicionMult = 2
	c.GossipInterval = 100 * time.Millisecond
	c.PushPullInterval = 5 * time.Second
	c.TCPTimeout = 2 * time.Second
	// A dead host does not refuse a connection, it lets it time out.
	c.DisableTcpPings = true
	c.AwarenessMaxMultiplier = 4
	// A dead node may come back with another address, at once: whoever has the
	// key is trusted with it.
	c.DeadNodeReclaimTime = time.Millisecond
	logger := newLogger(m.log)
	c.Logger = logger
	c.Delegate, c.Events, c.Ping = (*delegate)(m), (*delegate)(m), (*delegate)(m)

	if config.wrap != nil {
		transport, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{config.BindAddr}, BindPort: config.Port, Logger: logger})
		if err != nil {
			return nil, fmt.Errorf("listen on %s:%d: %w", config.BindAddr, config.Port, err)
		}
		if config.Port == 0 {
			c.BindPort = transport.GetAutoBindPort()
			c.AdvertisePort = c.BindPort
		}
		c.Transport = config.wrap(transport)
	}
	list, err := memberlist.Create(c)
	if err != nil {
		return nil, fmt.Errorf("join as member %s on %s:%d: %w", config.Name, config.BindAddr, config.Port, err)
	}
	// Messages may have come already, so list is set under mu, and receive
	// drops what comes before.
	m.mu.Lock()
	m.list = list
	m.mu.Unlock()
	return m, nil
}

// Address is where this member is reached, as "10.0.0.7:7946".
func (m *Membership) Address() string { return m.list.LocalNode().Address() }

// Join contacts each seed, an "IP" or "IP:port", and learns of all members that
// it knows. It returns an error when there are seeds but none was reached.
// Joining again does no harm.
func (m *Membership) Join(seeds []string) error {
	if _, err := m.list.Join(seeds); err != nil {
		return fmt.Errorf("join members at %s: %w", strings.Join(seeds, ", "), err)
	}
	return nil
}

// Run keeps contact until ctx ends, and then leaves: it joins those of the seeds
// that are not alive members yet, again and again, and, in a watcher, pings the
// checkpointers.
func (m *Membership) Run(ctx context.Context, seeds func(context.Context) []string) error {
	if m.config.Kind == Watcher {
		go m.pingAll(ctx)
	}
	for ticker := time.NewTicker(joinInterval); ; {
		if missing := m.missing(seeds(ctx)); len(missing) > 0 {
			if err := m.Join(missing); err != nil {
				m.log.Debug("some members cannot be reached yet", "error", err)
			}
		}
		m.forget()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			ticker.Stop()
			return m.Leave()
		}
	}
}

// missing are at most three of the seeds at which no member is alive. They are
// chosen at random, so that a few dead ones cannot hide the others.
func (m *Membership) missing(seeds []string) []string {
	known := map[string]bool{m.Address(): true}
	for _, member := range m.Members() {
		if member.State == Alive || member.State == Suspect {
			known[member.Address] = true
		}
	}
	var missing []string
	for _, seed := range seeds {
		if _, _, err := net.SplitHostPort(seed); err != nil {
			seed = net.JoinHostPort(seed, strconv.Itoa(DefaultPort))
		}
		if !known[seed] {
			missing = append(missing, seed)
		}
	}
	rand.Shuffle(len(missing), func(i, j int) { missing[i], missing[j] = missing[j], missing[i] })
	return missing[:min(3, len(missing))]
}

// Members are all other members that are known, by name. Dead ones and those
// that left stay listed for an hour.
func (m *Membership) Members() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	members := make([]Member, 0, len(m.members))
	for _, r := range m.members {
		members = append(members, r.Member)
	}
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return members
}

// TellStopped tells the others whether the protected pods of this member's node
// stand still for want of permission. It takes a second at most.
func (m *Membership) TellStopped(stopped bool) error {
	m.mu.Lock()
	changed := m.meta.Stopped != stopped
	m.meta.Stopped = stopped
	m.mu.Unlock()
	if !changed {
		return nil
	}
	if err := m.list.UpdateNode(time.Second); err != nil {
		return fmt.Errorf("tell the members that protected pods stand still (%t): %w", stopped, err)
	}
	return nil
}

// Changes receives a value after the state of any member changed; several
// changes may come as one. It has one reader.
func (m *Membership) Changes() <-chan struct{} { return m.changes }

// Leave says goodbye, so that the others see Left and not Dead, and stops
// listening. It takes at most about two seconds. Leaving again does no harm.
func (m *Membership) Leave() error {
	m.leave.Do(func() {
		m.mu.Lock()
		m.meta.Leaving = true
		m.mu.Unlock()
		announced := m.list.UpdateNode(time.Second)
		left := m.list.Leave(time.Second)
		if err := errors.Join(announced, left, m.list.Shutdown()); err != nil {
			m.leaving = fmt.Errorf("leave the membership: %w", err)
		}
	})
	return m.leaving
}

func (m *Membership) notify() {
	select {
	case m.changes <- struct{}{}:
	default:
	}
}

func (m *Membership) encodedMeta() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, err := json.Marshal(m.meta)
	if err != nil {
		panic(err) // strings and a bool
	}
	return data
}
