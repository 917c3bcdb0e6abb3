package matrix

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

const memcachedPort = 11211

// memcached holds what it holds in memory alone: that a value is there proves that
// the process went on.
type memcached struct{}

func (m *memcached) setup() setup {
	// It is root's, as CRIU needs it where the node lacks CAP_SYS_RESOURCE.
	return setup{port: memcachedPort, command: []string{"memcached", "-u", "root", "-m", "128", "-t", "4", "-p", strconv.Itoa(memcachedPort)}}
}

func (m *memcached) numbers() []number { return []number{{"counter", 0}, {"uptime", clock}} }

func (m *memcached) fill(ctx context.Context, s *subject) error {
	conn, err := m.connect(ctx, s)
	if err != nil {
		return err
	}
	defer conn.Close()
	for n := range int64(fixedValues) {
		if err := conn.set(fmt.Sprintf("fixed:%d", n), valueOf(n), 0); err != nil {
			return err
		}
	}
	return conn.set("counter", "0", 0)
}

func (m *memcached) open(ctx context.Context, s *subject) (session, error) { return m.connect(ctx, s) }

func (m *memcached) connect(ctx context.Context, s *subject) (*memcachedSession, error) {
	conn, err := dialLines(ctx, s, memcachedPort)
	return &memcachedSession{conn}, err
}

type memcachedSession struct{ *lines }

// set stores a value for some seconds, or for good when they are 0.
func (m *memcachedSession) set(key, value string, seconds int) error {
	return m.want("STORED", "set %s 0 %d %d\r\n%s", key, seconds, len(value), value)
}

// get returns a value, and whether it is there.
func (m *memcachedSession) get(key string) (string, bool, error) {
	header, err := m.ask("get %s", key)
	if err != nil || header == "END" {
		return "", false, err
	}
	fields := strings.Fields(header)
	length, err := strconv.Atoi(fields[len(fields)-1])
	if err != nil {
		return "", false, fmt.Errorf("memcached answers get with %q", header)
	}
	value, err := m.bytes(length)
	if err != nil {
		return "", false, err
	}
	_, err = m.line() // END
	return value, true, err
}

// step puts a value in before it is counted: what is counted is there.
func (m *memcachedSession) step() ([]int64, error) {
	n, err := m.counter()
	if err != nil {
		return nil, err
	}
	n++
	if err := m.set(fmt.Sprintf("hot:%d", n%hotValues), valueOf(n), 0); err != nil {
		return nil, err
	}
	if err := m.set("counter", strconv.FormatInt(n, 10), 0); err != nil {
		return nil, err
	}
	uptime, err := m.stat("uptime")
	return []int64{n, uptime}, err
}

func (m *memcachedSession) ping() error {
	_, err := m.ask("version")
	return err
}

func (m *memcachedSession) counter() (int64, error) {
	text, _, err := m.get("counter")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// stat reads one of the server's statistics.
func (m *memcachedSession) stat(name string) (int64, error) {
	if err := m.send("stats\r\n"); err != nil {
		return 0, err
	}
	value, found := int64(0), false
	for {
		line, err := m.line()
		if err != nil {
			return 0, err
		}
		if line == "END" {
			break
		}
		if fields := strings.Fields(line); len(fields) == 3 && fields[1] == name {
			if value, err = strconv.ParseInt(fields[2], 10, 64); err != nil {
				return 0, err
			}
			found = true
		}
	}
	if !found {
		return 0, fmt.Errorf("memcached does not tell its %s", name)
	}
	return value, nil
}

func (m *memcached) mark() string { return "get from-the-log" }

func (m *memcached) check(t *testing.T, s *subject) {
	conn, err := m.connect(s.deadline(t), s)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for n := range int64(fixedValues) {
		if text, _, err := conn.get(fmt.Sprintf("fixed:%d", n)); err != nil || text != valueOf(n) {
			t.Fatalf("value %d of %d that never changed differs: %.20q (%v)", n, fixedValues, text, err)
		}
	}
	last, err := conn.counter()
	if err != nil {
		t.Fatal(err)
	}
	for n := max(1, last-hotValues/2); n <= last; n++ {
		if text, _, err := conn.get(fmt.Sprintf("hot:%d", n%hotValues)); err != nil || text != valueOf(n) {
			t.Errorf("value %d, counted by now, is not there: %.20q (%v)", n, text, err)
		}
	}
	// Its clock is a timer: without it, no value's time would ever be over.
	if err := conn.set("brief", "value", 1); err != nil {
		t.Fatal(err)
	}
	err = observe.Until(s.deadline(t), "memcached ends a value", func(context.Context) (bool, string, error) {
		_, there, err := conn.get("brief")
		return !there, "it is there", err
	})
	if err != nil {
		t.Error(err)
	}
	// Each connection goes to the next of its threads.
	for range newClients {
		other, err := m.connect(s.deadline(t), s)
		if err != nil {
			t.Fatal(err)
		}
		if _, there, err := other.get("fixed:1"); err != nil || !there {
			t.Errorf("a new client gets no value: %v", err)
		}
		other.Close()
	}
	// Ours, and the one that it keeps for itself.
	err = observe.Until(s.deadline(t), "memcached has let the old connections go", func(context.Context) (bool, string, error) {
		connections, err := conn.stat("curr_connections")
		return connections <= 2, fmt.Sprintf("%d connections", connections), err
	})
	if err != nil {
		t.Error(err)
	}
	if err := conn.want("OK", "verbosity 2"); err != nil {
		t.Error(err)
	}
	if _, _, err := conn.get("from-the-log"); err != nil {
		t.Error(err)
	}
}
