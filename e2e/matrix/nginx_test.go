package matrix

import (
	"context"
	_ "embed"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

const (
	nginxPort        = 8080
	nginxWorkersPort = 8081
	nginxWorkers     = 4
)

//go:embed programs/nginx.conf
var nginxConf string

// nginx counts its requests in memory that master and workers share.
type nginx struct {
	page    string
	workers []string
}

func (n *nginx) setup() setup {
	return setup{port: nginxPort, command: []string{"nginx", "-c", "/program/nginx.conf"}, file: "nginx.conf", content: nginxConf}
}

func (n *nginx) numbers() []number { return []number{{"requests", 0}} }

func (n *nginx) fill(ctx context.Context, s *subject) error {
	client, err := newWebSession(ctx, s, nginxPort)
	if err != nil {
		return err
	}
	defer client.Close()
	if n.page, err = client.text(http.MethodGet, "/"); err != nil {
		return err
	}
	n.workers, err = workersOf(ctx, s)
	return err
}

// workersOf asks on new connections until as many workers have answered as there
// are, and returns their process IDs.
func workersOf(ctx context.Context, s *subject) ([]string, error) {
	seen := map[string]bool{}
	err := observe.Until(ctx, fmt.Sprintf("%d workers answer", nginxWorkers), func(ctx context.Context) (bool, string, error) {
		for range 4 * nginxWorkers {
			client, err := newWebSession(ctx, s, nginxWorkersPort)
			if err != nil {
				return false, "", err
			}
			pid, err := client.text(http.MethodGet, "/")
			client.Close()
			if err != nil {
				return false, "", err
			}
			seen[pid] = true
		}
		return len(seen) >= nginxWorkers, fmt.Sprint("workers ", slices.Sorted(maps.Keys(seen))), nil
	})
	return slices.Sorted(maps.Keys(seen)), err
}

func (n *nginx) open(ctx context.Context, s *subject) (session, error) {
	client, err := newWebSession(ctx, s, nginxPort)
	return &nginxSession{client}, err
}

type nginxSession struct{ *webSession }

var nginxCounters = regexp.MustCompile(`(?m)^ (\d+) (\d+) (\d+) $`)

func (n *nginxSession) step() ([]int64, error) {
	text, err := n.text(http.MethodGet, "/status")
	if err != nil {
		return nil, err
	}
	counters := nginxCounters.FindStringSubmatch(text)
	if counters == nil {
		return nil, fmt.Errorf("nginx says of itself %q", text)
	}
	requests, err := strconv.ParseInt(counters[3], 10, 64)
	return []int64{requests}, err
}

func (n *nginxSession) ping() error {
	_, err := n.text(http.MethodGet, "/")
	return err
}

func (n *nginx) mark() string { return `"GET /status HTTP/1.1" 200` }

func (n *nginx) check(t *testing.T, s *subject) {
	client, err := newWebSession(s.deadline(t), s, nginxPort)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if page, err := client.text(http.MethodGet, "/"); err != nil || page != n.page {
		t.Errorf("the page is %.40q, was %.40q: %v", page, n.page, err)
	}
	workers, err := workersOf(s.deadline(t), s)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(workers, n.workers) {
		t.Errorf("workers %v answer, were %v", workers, n.workers)
	}
	err = observe.Until(s.deadline(t), "nginx has let the old connections go", func(context.Context) (bool, string, error) {
		text, err := client.text(http.MethodGet, "/status")
		return strings.HasPrefix(text, "Active connections: 1 \n"), text, err
	})
	if err != nil {
		t.Error(err)
	}
	n.reload(t, s)
}

// reload has the master read its configuration, start new workers and end the old ones.
func (n *nginx) reload(t *testing.T, s *subject) {
	if _, err := s.exec(s.deadline(t), "nginx", "-c", "/program/nginx.conf", "-s", "reload"); err != nil {
		t.Fatal(err)
	}
	err := observe.Until(s.deadline(t), "new workers have taken over after a reload", func(ctx context.Context) (bool, string, error) {
		workers, err := workersOf(ctx, s)
		if err != nil {
			return false, "", err
		}
		old := func(pid string) bool { return slices.Contains(n.workers, pid) }
		return !slices.ContainsFunc(workers, old), "workers " + strings.Join(workers, " "), nil
	})
	if err != nil {
		t.Error(err)
	}
	running, err := s.exec(s.deadline(t), "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c '^nginx: worker process'")
	if err != nil || strings.TrimSpace(running) != strconv.Itoa(nginxWorkers) {
		t.Errorf("%s workers run after a reload, not %d: %v", strings.TrimSpace(running), nginxWorkers, err)
	}
}
