package matrix

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

const (
	redisPort = 6379
	// fixedValues are written once, hotValues again and again.
	fixedValues = 20_000
	hotValues   = 1000
)

// valueOf is a text of 1 KiB that only n gives.
func valueOf(n int64) string {
	return strings.Repeat(fmt.Sprintf("%x", sha256.Sum256(strconv.AppendInt(nil, n, 10))), 16)
}

// redis is redis-server without persistence.
type redis struct{ runID string }

func (r *redis) setup() setup {
	return setup{port: redisPort, command: []string{"redis-server", "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", "/data"}}
}

func (r *redis) numbers() []number { return []number{{"counter", 0}, {"uptime_in_seconds", clock}} }

func (r *redis) fill(ctx context.Context, s *subject) error {
	conn, err := r.connect(ctx, s)
	if err != nil {
		return err
	}
	defer conn.Close()
	for n := range int64(fixedValues) {
		if err := conn.want("+OK", "SET fixed:%d %s", n, valueOf(n)); err != nil {
			return err
		}
	}
	if err := conn.want("+OK", "SET counter 0"); err != nil {
		return err
	}
	r.runID, err = conn.info("server", "run_id")
	return err
}

func (r *redis) open(ctx context.Context, s *subject) (session, error) { return r.connect(ctx, s) }

func (r *redis) connect(ctx context.Context, s *subject) (*redisSession, error) {
	conn, err := dialLines(ctx, s, redisPort)
	return &redisSession{conn}, err
}

// redisSession speaks redis' inline commands.
type redisSession struct{ *lines }

// step puts a value in before it is counted: what is counted is there.
func (r *redisSession) step() ([]int64, error) {
	n, err := r.counter()
	if err != nil {
		return nil, err
	}
	n++
	if err := r.want("+OK", "SET hot:%d %s", n%hotValues, valueOf(n)); err != nil {
		return nil, err
	}
	if err := r.want("+OK", "SET counter %d", n); err != nil {
		return nil, err
	}
	uptime, err := r.info("server", "uptime_in_seconds")
	if err != nil {
		return nil, err
	}
	seconds, err := strconv.ParseInt(uptime, 10, 64)
	return []int64{n, seconds}, err
}

func (r *redisSession) ping() error { return r.want("+PONG", "PING") }

func (r *redisSession) counter() (int64, error) {
	text, err := r.get("GET counter")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// get asks for one text.
func (r *redisSession) get(request string) (string, error) {
	answer, err := r.ask("%s", request)
	if err != nil {
		return "", err
	}
	length, err := strconv.Atoi(strings.TrimPrefix(answer, "$"))
	if err != nil || length < 0 {
		return "", fmt.Errorf("redis answers %s with %q", request, answer)
	}
	return r.bytes(length)
}

// info reads one field of the server's description of itself.
func (r *redisSession) info(section, field string) (string, error) {
	text, err := r.get("INFO " + section)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(text) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), field+":"); found {
			return value, nil
		}
	}
	return "", fmt.Errorf("redis does not tell its %s", field)
}

func (r *redis) mark() string { return "Accepted " }

func (r *redis) check(t *testing.T, s *subject) {
	conn, err := r.connect(s.deadline(t), s)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if id, err := conn.info("server", "run_id"); err != nil || id != r.runID {
		t.Errorf("another process answers: run_id %s, was %s (%v)", id, r.runID, err)
	}
	for n := range int64(fixedValues) {
		if text, err := conn.get(fmt.Sprintf("GET fixed:%d", n)); err != nil || text != valueOf(n) {
			t.Fatalf("value %d of %d that never changed differs: %.20q (%v)", n, fixedValues, text, err)
		}
	}
	last, err := conn.counter()
	if err != nil {
		t.Fatal(err)
	}
	for n := max(1, last-hotValues/2); n <= last; n++ {
		if text, err := conn.get(fmt.Sprintf("GET hot:%d", n%hotValues)); err != nil || text != valueOf(n) {
			t.Errorf("value %d, counted by now, is not there: %.20q (%v)", n, text, err)
		}
	}
	if err := conn.want("+OK", "CONFIG SET loglevel verbose"); err != nil {
		t.Error(err)
	}
	// Nobody reads the key: a timer of redis has to find that its time is over.
	if err := conn.want("+OK", "SET brief value PX 500"); err != nil {
		t.Fatal(err)
	}
	before, err := conn.info("stats", "expired_keys")
	if err != nil {
		t.Fatal(err)
	}
	err = observe.Until(s.deadline(t), "redis ends a key by itself", func(context.Context) (bool, string, error) {
		expired, err := conn.info("stats", "expired_keys")
		return expired != before, expired + " keys have expired", err
	})
	if err != nil {
		t.Error(err)
	}
	// Ours, and those that come now; the clients of before are gone.
	err = observe.Until(s.deadline(t), "redis has let the old connections go", func(context.Context) (bool, string, error) {
		clients, err := conn.info("clients", "connected_clients")
		return clients == "1", clients + " clients are connected", err
	})
	if err != nil {
		t.Error(err)
	}
	other, err := r.connect(s.deadline(t), s)
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
}
