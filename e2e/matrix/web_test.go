package matrix

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

const webPort = 8080

var (
	//go:embed programs/server.py
	serverPy string
	//go:embed programs/Server.java
	serverJava string
)

// ticking is the pace of a timer that ticks every 100 ms.
const ticking = 10

// web is a server of ours that an interpreter runs which is not.
type web struct {
	run    setup
	timers []number
	// logged is what the container's log tells of a client's work.
	logged string
	// more is what is asked of this one alone.
	more func(*testing.T, *subject, *webSession)

	nonce string
}

func python() *web {
	return &web{
		run:    setup{port: webPort, command: []string{"python3", "/program/server.py"}, file: "server.py", content: serverPy},
		timers: []number{{"ticks of a sleeping thread", ticking}, {"signals of an interval timer", ticking}, {"expirations of a timerfd", ticking}},
		logged: `"GET /state HTTP/1.1" 200`,
		more:   oldThreadsEnd,
	}
}

// java runs what javac makes of the program when the pod starts. The server would
// end an idle connection after 30 s.
func java() *web {
	return &web{
		run: setup{port: webPort, file: "Server.java", content: serverJava, command: []string{"bash", "-c",
			"javac -d /srv/classes /program/Server.java && exec java -Xmx96m -Dsun.net.httpserver.idleInterval=3600 -cp /srv/classes Server"}},
		timers: []number{{"ticks of an executor", ticking}, {"ticks of a timer", ticking}},
		logged: "collected garbage",
		more:   collectAndCompile,
	}
}

// webState is what a server says of itself.
type webState struct {
	Nonce   string
	Numbers []int64
	// Digest is the SHA-256 of all values.
	Digest    string
	Backwards int64
	Threads   int
	// Collections and Compiled, in milliseconds, are of Java alone.
	Collections, Compiled int64
}

func (w *web) setup() setup { return w.run }

func (w *web) numbers() []number { return append([]number{{"values", 0}}, w.timers...) }

func (w *web) fill(ctx context.Context, s *subject) error {
	client, err := newWebSession(ctx, s, webPort)
	if err != nil {
		return err
	}
	defer client.Close()
	state, err := client.do(http.MethodGet, "/state")
	w.nonce = state.Nonce
	return err
}

func (w *web) open(ctx context.Context, s *subject) (session, error) {
	return newWebSession(ctx, s, webPort)
}

// webSession speaks HTTP on one connection. A pool of connections, as that of
// net/http's client, would hide when one ends.
type webSession struct{ *lines }

func newWebSession(ctx context.Context, s *subject, port int) (*webSession, error) {
	conn, err := dialLines(ctx, s, port)
	return &webSession{conn}, err
}

// text sends a request without a body and returns the body of the answer.
func (w *webSession) text(method, path string) (string, error) {
	if err := w.send(method + " " + path + " HTTP/1.1\r\nHost: matrix\r\nContent-Length: 0\r\n\r\n"); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(w.r, nil)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, response.Status, body)
	}
	return string(body), err
}

func (w *webSession) do(method, path string) (webState, error) {
	var state webState
	text, err := w.text(method, path)
	if err == nil {
		err = json.Unmarshal([]byte(text), &state)
	}
	return state, err
}

func (w *webSession) step() ([]int64, error) {
	state, err := w.do(http.MethodPost, "/add")
	return state.Numbers, err
}

func (w *webSession) ping() error {
	_, err := w.do(http.MethodGet, "/state")
	return err
}

func (w *web) mark() string { return w.logged }

func (w *web) check(t *testing.T, s *subject) {
	client, err := newWebSession(s.deadline(t), s, webPort)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	state, err := client.do(http.MethodGet, "/state")
	if err != nil {
		t.Fatal(err)
	}
	if state.Nonce != w.nonce {
		t.Errorf("another process answers: its nonce is %s, was %s", state.Nonce, w.nonce)
	}
	values := make([]string, state.Numbers[0])
	for i := range values {
		values[i] = fmt.Sprintf("value-%d", i+1)
	}
	sum := sha256.Sum256([]byte(strings.Join(values, "\n")))
	if digest := hex.EncodeToString(sum[:]); state.Digest != digest {
		t.Errorf("the digest of %d values is %s, not %s", len(values), state.Digest, digest)
	}
	if state.Backwards != 0 {
		t.Errorf("the program saw its monotonic clock go back %d times", state.Backwards)
	}
	// New connections get threads of their own, all at once.
	for range newClients {
		other, err := newWebSession(s.deadline(t), s, webPort)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { other.Close() })
		if err := other.ping(); err != nil {
			t.Errorf("a new client is not served: %v", err)
		}
	}
	w.more(t, s, client)
}

// oldThreadsEnd checks that the threads of the connections of before the loss are gone.
func oldThreadsEnd(t *testing.T, s *subject, client *webSession) {
	// The main thread, those of two timers, and those of the clients of now.
	const most = 3 + newClients + 2
	err := observe.Until(s.deadline(t), "the threads of the old connections have ended", func(context.Context) (bool, string, error) {
		state, err := client.do(http.MethodGet, "/state")
		return state.Threads <= most, fmt.Sprintf("%d threads", state.Threads), err
	})
	if err != nil {
		t.Error(err)
	}
}

// collectAndCompile checks that Java's collector and compiler threads work.
func collectAndCompile(t *testing.T, _ *subject, client *webSession) {
	before, err := client.do(http.MethodGet, "/state")
	if err != nil {
		t.Fatal(err)
	}
	collected, err := client.do(http.MethodPost, "/collect")
	if err != nil {
		t.Fatal(err)
	}
	if collected.Collections <= before.Collections {
		t.Errorf("%d collections of garbage before System.gc(), %d after it", before.Collections, collected.Collections)
	}
	// The server checks the result. Compilers work beside what they compile.
	var compiled webState
	for range 20 {
		if compiled, err = client.do(http.MethodPost, "/compile"); err != nil {
			t.Fatal(err)
		}
		if compiled.Compiled > before.Compiled {
			return
		}
	}
	t.Errorf("a method that was never run before is not compiled: %d ms of compilation before, %d ms after", before.Compiled, compiled.Compiled)
}
