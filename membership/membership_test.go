package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

var testKey = []byte("0123456789abcdef0123456789abcdef")

// cable is a member's network, which can be cut as by a power cut: nothing
// refuses, everything is silent.
type cable struct {
	memberlist.NodeAwareTransport
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}

	mu      sync.Mutex
	cut     bool
	blocked map[string]bool // addresses that this member's packets do not reach
}

func (c *cable) plug(t memberlist.NodeAwareTransport) memberlist.NodeAwareTransport {
	c.NodeAwareTransport = t
	c.packets = make(chan *memberlist.Packet)
	c.streams = make(chan net.Conn)
	c.done = make(chan struct{})
	go func() {
		for {
			select {
			case p := <-t.PacketCh():
				if c.silent("") {
					continue
				}
				select {
				case c.packets <- p:
				case <-c.done:
				}
			case s := <-t.StreamCh():
				if c.silent("") {
					s.Close()
					continue
				}
				select {
				case c.streams <- s:
				case <-c.done:
				}
			case <-c.done:
				return
			}
		}
	}()
	return c
}

func (c *cable) silent(address string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut || c.blocked[address]
}

func (c *cable) pull() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	return time.Now()
}

func (c *cable) restore() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut, c.blocked = false, nil
}

func (c *cable) block(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blocked = map[string]bool{address: true}
}

func (c *cable) PacketCh() <-chan *memberlist.Packet { return c.packets }
func (c *cable) StreamCh() <-chan net.Conn           { return c.streams }

func (c *cable) WriteTo(b []byte, address string) (time.Time, error) {
	return c.WriteToAddress(b, memberlist.Address{Addr: address})
}

func (c *cable) WriteToAddress(b []byte, address memberlist.Address) (time.Time, error) {
	if c.silent(address.Addr) {
		return time.Now(), nil
	}
	return c.NodeAwareTransport.WriteToAddress(b, address)
}

func (c *cable) DialTimeout(address string, timeout time.Duration) (net.Conn, error) {
	return c.DialAddressTimeout(memberlist.Address{Addr: address}, timeout)
}

func (c *cable) DialAddressTimeout(address memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if c.silent(address.Addr) {
		return nil, errors.New("cable cut")
	}
	return c.NodeAwareTransport.DialAddressTimeout(address, timeout)
}

func (c *cable) Shutdown() error {
	// The listeners end only when what they have received is taken.
	defer close(c.done)
	return c.NodeAwareTransport.Shutdown()
}

type testMember struct {
	*Membership
	cable *cable
	stop  context.CancelFunc
}

// start runs a member that joins the given ones until the test ends.
func start(t *testing.T, name string, kind Kind, seeds ...*testMember) *testMember {
	t.Helper()
	tm := &testMember{cable: &cable{}}
	m, err := New(Config{
		Name: name, Kind: kind, BindAddr: "127.0.0.1", AdvertiseAddr: "127.0.0.1", Key: testKey,
		PeerAddress: name + ":7947", Logger: slog.New(slog.DiscardHandler), wrap: tm.cable.plug,
	})
	if err != nil {
		t.Fatal(err)
	}
	tm.Membership = m
	ctx, cancel := context.WithCancel(context.Background())
	tm.stop = cancel
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.Run(ctx, func(context.Context) []string {
			var addresses []string
			for _, s := range seeds {
				addresses = append(addresses, s.Address())
			}
			return addresses
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return tm
}

func (m *testMember) member(name string) Member {
	for _, member := range m.Members() {
		if member.Name == name {
			return member
		}
	}
	return Member{}
}

// await waits until a member is in a state, and returns it as it was then.
func (m *testMember) await(t *testing.T, name string, state State, within time.Duration) Member {
	t.Helper()
	deadline := time.After(within)
	for {
		if member := m.member(name); member.State == state {
			return member
		}
		select {
		case <-m.Changes():
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatalf("%s sees %s as %q after %s, want %s", m.config.Name, name, m.member(name).State, within, state)
		}
	}
}

// cluster is a watcher and three checkpointers that all know each other.
func cluster(t *testing.T) (watcher *testMember, nodes []*testMember) {
	watcher = start(t, "watcher", Watcher)
	for i := range 3 {
		nodes = append(nodes, start(t, fmt.Sprintf("node-%d", i), Checkpointer, watcher))
	}
	all := append([]*testMember{watcher}, nodes...)
	for _, a := range all {
		for _, b := range all {
			if a != b {
				a.await(t, b.config.Name, Alive, 10*time.Second)
			}
		}
	}
	return watcher, nodes
}

func TestMembersDescribeThemselves(t *testing.T) {
	watcher, nodes := cluster(t)
	got := watcher.member("node-1")
	if got.Kind != Checkpointer || got.PeerAddress != "node-1:7947" || got.Address != nodes[1].Address() {
		t.Errorf("member node-1 = %+v, want a checkpointer at %s with peer address node-1:7947", got, nodes[1].Address())
	}
	if got := nodes[0].member("watcher").Kind; got != Watcher {
		t.Errorf("kind of the watcher = %q", got)
	}
}

func TestPowerCutIsSuspectThenDead(t *testing.T) {
	watcher, nodes := cluster(t)
	// The bound on LastAlive holds once the member has answered the watcher itself.
	first := watcher.member("node-1").LastAlive
	for deadline := time.Now().Add(5 * time.Second); !watcher.member("node-1").LastAlive.After(first); {
		if time.Now().After(deadline) {
			t.Fatal("node-1 never answered a ping")
		}
		time.Sleep(10 * time.Millisecond)
	}
	cut := nodes[1].cable.pull()

	suspect := watcher.await(t, "node-1", Suspect, 5*time.Second)
	dead := watcher.await(t, "node-1", Dead, 10*time.Second)
	t.Logf("suspect after %s, dead after %s, last alive %s before the cut",
		suspect.Since.Sub(cut), dead.Since.Sub(cut), cut.Sub(dead.LastAlive))

	if dead.LastAlive.After(cut) {
		t.Errorf("LastAlive is %s later than the truth", dead.LastAlive.Sub(cut))
	}
	// A busy machine may delay a ping; it must not delay many.
	if early := cut.Sub(dead.LastAlive); early > 4*PingInterval {
		t.Errorf("LastAlive is %s earlier than the truth, want about %s", early, PingInterval)
	}
	for _, other := range []string{"node-0", "node-2"} {
		if state := watcher.member(other).State; state != Alive {
			t.Errorf("%s is %s", other, state)
		}
	}
}

func TestMemberOutOfDirectReachStaysAlive(t *testing.T) {
	watcher, nodes := cluster(t)
	watcher.cable.block(nodes[0].Address())
	// Long enough for several rounds of suspicion, had the others not helped.
	deadline := time.Now().Add(3 * time.Second)
	for time.Now().Before(deadline) {
		if m := watcher.member("node-0"); m.State != Alive {
			t.Fatalf("node-0 is %s though the others reach it", m.State)
		}
		select {
		case <-watcher.Changes():
		case <-time.After(20 * time.Millisecond):
		}
	}
	if age := time.Since(watcher.member("node-0").LastAlive); age > 2*time.Second {
		t.Errorf("the last sign of life is %s old though helpers bring newer ones", age)
	}
}

func TestShutdownInOrderIsLeft(t *testing.T) {
	watcher, nodes := cluster(t)
	nodes[2].stop()
	for _, m := range []*testMember{watcher, nodes[0], nodes[1]} {
		m.await(t, "node-2", Left, 3*time.Second)
	}
}

func TestNodeThatComesBackIsAlive(t *testing.T) {
	watcher, nodes := cluster(t)
	nodes[0].cable.pull()
	watcher.await(t, "node-0", Dead, 10*time.Second)
	nodes[0].cable.restore()
	back := watcher.await(t, "node-0", Alive, 10*time.Second)
	if time.Since(back.LastAlive) > 5*time.Second {
		t.Errorf("LastAlive of a member that is back is %s old", time.Since(back.LastAlive))
	}
	// A reboot: the same name at another address, and its gossip starts anew.
	nodes[1].cable.pull()
	watcher.await(t, "node-1", Dead, 10*time.Second)
	again := start(t, "node-1", Checkpointer, watcher)
	got := watcher.await(t, "node-1", Alive, 10*time.Second)
	if got.Address != again.Address() {
		t.Errorf("address = %s, want the new one, %s", got.Address, again.Address())
	}
}

func TestOtherKeyIsNoMember(t *testing.T) {
	watcher := start(t, "watcher", Watcher)
	stranger, err := New(Config{
		Name: "stranger", Kind: Checkpointer, BindAddr: "127.0.0.1", AdvertiseAddr: "127.0.0.1",
		Key: []byte("another key of thirty-two bytes!"), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.list.Shutdown()
	if err := stranger.Join([]string{watcher.Address()}); err == nil {
		t.Error("a stranger joined")
	}
	if got := watcher.Members(); len(got) != 0 {
		t.Errorf("members = %+v, want none", got)
	}
}

// A member tells that its node's pods stand still, and that they run again.
func TestStopped(t *testing.T) {
	watcher := start(t, "w", Watcher)
	node := start(t, "n1", Checkpointer, watcher)
	eventually := func(what string, condition func(Member) bool) {
		t.Helper()
		for begin := time.Now(); !condition(watcher.member("n1")); time.Sleep(5 * time.Millisecond) {
			if time.Since(begin) > 10*time.Second {
				t.Fatalf("%s: %+v", what, watcher.member("n1"))
			}
		}
	}
	eventually("n1 is a member", func(m Member) bool { return m.State == Alive && m.Stopped.IsZero() })
	told := time.Now()
	if err := node.TellStopped(true); err != nil {
		t.Fatal(err)
	}
	eventually("its pods stand still", func(m Member) bool { return !m.Stopped.Before(told) })
	since := watcher.member("n1").Stopped
	if err := node.TellStopped(true); err != nil || !watcher.member("n1").Stopped.Equal(since) {
		t.Errorf("told again: %v, since %s instead of %s", err, watcher.member("n1").Stopped, since)
	}
	if err := node.TellStopped(false); err != nil {
		t.Fatal(err)
	}
	eventually("they run again", func(m Member) bool { return m.Stopped.IsZero() })
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Name: "a", Kind: Watcher, AdvertiseAddr: "127.0.0.1", Key: testKey}
	for name, spoil := range map[string]func(*Config){
		"no name":      func(c *Config) { c.Name = "" },
		"no address":   func(c *Config) { c.AdvertiseAddr = "" },
		"no key":       func(c *Config) { c.Key = nil },
		"unknown kind": func(c *Config) { c.Kind = "other" },
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			spoil(&c)
			if m, err := New(c); err == nil {
				m.list.Shutdown()
				t.Error("no error")
			}
		})
	}
}
